"""Redis servers among the watched processes: found by evidence, asked at the start and at the end (`schema.REDIS`).

A server is asked only where there is evidence that it is one: its name, its program's text, the port kept for Redis, or
RESP seen on its sockets. One in another network namespace is asked where this one reaches it (`reach.py`), and believed
if the connection proves to be its own. Each is asked at most once a second, from a thread of its own.
"""

from __future__ import annotations

import mmap
import re
import socket
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from culpa.capture import schema
from culpa.capture.manifest import BlindSpot
from culpa.collect.procfs import PROC, namespace_inode, own_pid, parse_status, read_bounded, read_link
from culpa.collect.reach import ANYWHERE, ends_from_here, other_end_is_of, talks_to
from culpa.collect.redis_answers import TIMEOUT_SECONDS, Address, Credentials, Fact, NotAnswered, asking
from culpa.collect.sockets import Socket, SocketTable, socket_inodes
from culpa.units import Pid

RETRY_SECONDS: Final = 1.0
"""INFO at most once a second."""
MAX_SERVERS: Final = 8
MAX_ADDRESSES: Final = 4
MAX_PROGRAM_BYTES: Final = 32 << 20
"""Redis has 2 to 10 MB, Dragonfly 30; what is larger is not read through."""
REDIS_PORT: Final = 6379
"""Kept for Redis by the IANA."""
_FIRST_FIELD: Final = b"redis_version:"
_NAMED: Final = re.compile(r"(redis|valkey|keydb)", re.IGNORECASE)


def named_like_redis(pid: int, proc_root: Path = PROC) -> bool:
    """Whether the name of a process or of its program says that it is a Redis or a descendant of it."""
    comm = read_bounded(proc_root / str(pid) / "comm", 64) or b""
    exe = read_link(proc_root / str(pid) / "exe") or ""
    return bool(_NAMED.search(comm.decode(errors="replace")) or _NAMED.search(Path(exe).name))


def program_is_redis(pid: int, proc_root: Path = PROC) -> bool:
    """Whether the text of a program has the first field of INFO in it, whatever the program is called."""
    try:
        with (
            (proc_root / str(pid) / "exe").open("rb") as program,
            mmap.mmap(program.fileno(), 0, prot=mmap.PROT_READ) as text,
        ):
            return len(text) <= MAX_PROGRAM_BYTES and text.find(_FIRST_FIELD) >= 0
    except (OSError, ValueError):  # gone, refused, or empty
        return False


def listening_addresses(pid: int, table: SocketTable, proc_root: Path = PROC) -> tuple[list[Address], bool]:
    """Where a process that listens is reached from this network namespace, and whether it listens in another one."""
    known = table.by_ino()
    mine = [known[ino] for ino in set(socket_inodes(proc_root, pid)) if ino in known]
    listening = [sock for sock in mine if sock.listening]
    here = [sock for sock in listening if sock.netns == table.own_netns or sock.family == "unix"]
    found = {address for sock in here if (address := _address(sock, pid, proc_root)) is not None}
    ordered = sorted(found, key=lambda address: (address.path is not None, address.port, address.host))
    far = [sock for sock in mine if sock.netns != table.own_netns and sock.family != "unix"]
    ends = ends_from_here(far, table, pid, proc_root)
    ways = [Address(host=host, port=port, must_be_proven=True) for host, port in ends[:MAX_ADDRESSES]]
    return [*ways, *ordered[:MAX_ADDRESSES]], any(sock.listening for sock in far)


def _address(sock: Socket, pid: int, proc_root: Path) -> Address | None:
    if sock.local_addr is None:
        return None
    if sock.family == "unix":
        # The path is the server's own: seen through its root it is right in a container, too.
        # A link within may still lead out of it, which is why the listener must then prove to be the server.
        apart = namespace_inode(proc_root, pid, "mnt") != namespace_inode(proc_root, own_pid(proc_root), "mnt")
        path = f"{proc_root}/{pid}/root{sock.local_addr}"
        return Address(path=path, must_be_proven=apart) if sock.local_addr.startswith("/") else None
    if sock.local_port is None:
        return None
    host = sock.local_addr
    if host in ANYWHERE:
        host = "::1" if ":" in host else "127.0.0.1"
    return Address(host=host, port=sock.local_port)


@dataclass(slots=True, kw_only=True)
class _Server:
    """One process that is taken for a Redis, and what became of asking it. `far`: it listens in another namespace."""

    pid: Pid
    addresses: list[Address]
    far: bool
    credentials: Credentials
    address: Address | None = None
    failed: NotAnswered | None = None
    mismatch: bool = False
    spoken_for: bool = False
    """Its answer came through another process, which passes connections on."""


_NOT_ASKED: Final = ("it was not asked: --passive sends nothing", "leave --passive out")


class RedisCollector:
    """Asks every server when it is found and once more at the end, from a thread of its own."""

    def __init__(self, *, proc_root: Path = PROC, credentials: Credentials | None = None, silent: bool = False) -> None:
        """Take servers as they are found; a `silent` one asks nobody and says whom it would have asked.

        Args:
            proc_root: where /proc is.
            credentials: of the servers that were named with them; others get what the environment says.
            silent: send nothing.
        """
        self._silent = silent
        self._proc_root = proc_root
        self._credentials = credentials
        self._lock = threading.Lock()
        self._servers: dict[int, _Server] = {}
        self._others: set[int] = set()
        self._rows: list[tuple[int, str, int | None, Fact]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="culpa-redis", daemon=True)

    def start(self) -> None:
        """Begin asking."""
        self._thread.start()

    def found(
        self,
        pids: Collection[int],
        table: SocketTable,
        *,
        spoke_resp: Collection[int] = (),
        named: Collection[int] = (),
    ) -> None:
        """Look for servers among watched processes; those known by now cost nothing.

        Args:
            pids: watched processes.
            table: sockets of this moment.
            spoke_resp: processes that were seen to receive RESP requests.
            named: processes that were named as Redis servers, whom the credentials are for.
        """
        listening = {sock.ino: sock.local_port for sock in table.sockets if sock.listening}
        for pid in sorted(pids):
            server = self._servers.get(pid)
            if server is not None:
                if server.far and server.address is None:
                    self._look_again(server, table)
                continue
            ports = {listening[ino] for ino in table.holders.sockets_of(pid) if ino in listening}
            known = pid in spoke_resp or pid in named
            if len(self._servers) < MAX_SERVERS and (known or self._is_redis(pid, ports)):
                self._take(pid, table, meant=pid in named)

    def _take(self, pid: int, table: SocketTable, *, meant: bool) -> None:
        addresses, far = listening_addresses(pid, table, self._proc_root)
        if not addresses and not far:
            return
        own = self._credentials if meant else None
        with self._lock:
            self._servers[pid] = _Server(
                pid=Pid(pid),
                addresses=addresses,
                far=far,
                credentials=own or Credentials.from_environment(),
                failed=NotAnswered(*_NOT_ASKED) if self._silent else None,
            )

    def _look_again(self, server: _Server, table: SocketTable) -> None:
        """Connections that have been made since may tell of a way to a server that was not reached."""
        addresses, _ = listening_addresses(server.pid, table, self._proc_root)
        with self._lock:
            if set(addresses) - set(server.addresses) and not self._silent:
                server.addresses, server.failed = addresses, None

    def _is_redis(self, pid: int, ports: Collection[int | None]) -> bool:
        """Whether its name, the port it listens on or its program speaks for it; the program is read through once."""
        if named_like_redis(pid, self._proc_root):
            return True
        if not ports or pid in self._others:
            return False
        found = REDIS_PORT in ports or program_is_redis(pid, self._proc_root)
        if not found:
            self._others.add(pid)
        return found

    def stop(self) -> None:
        """Ask each server that answered once more, then end; at most a few seconds."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=3 * TIMEOUT_SECONDS * MAX_SERVERS)

    def rows(self) -> pl.DataFrame:
        """`schema.REDIS` so far, in the order the servers were asked."""
        with self._lock:
            rows = list(self._rows)
        return schema.REDIS.frame(
            {
                "ts_ns": [ts_ns for ts_ns, _, _, _ in rows],
                "server": [server for _, server, _, _ in rows],
                "pid": [pid for _, _, pid, _ in rows],
                "source": [fact.source for _, _, _, fact in rows],
                "field": [fact.field for _, _, _, fact in rows],
                "value": [fact.value for _, _, _, fact in rows],
            }
        )

    def blind_spots(self) -> tuple[BlindSpot, ...]:
        """Servers that were not asked or did not answer, and questions that were refused."""
        spots = [spot for server in self._servers.values() for spot in _spots_of(server)]
        with self._lock:
            rows = list(self._rows)
        refused = sorted(
            {fact.field.partition(" ")[0] for _, _, _, fact in rows if fact.source == "refused"} - {"CLIENT"}
        )
        if refused:
            spots.append(
                BlindSpot(
                    what=f"what Redis says to {', '.join(refused)}",
                    why="the server refuses or does not know some of these commands",
                    way_out="let culpa's user run them (ACL +config|get +info +latency +slowlog +client|info)",
                )
            )
        return tuple(spots)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            waiting = self._unasked()
            for server in waiting:
                self._ask(server)
            pause = RETRY_SECONDS if waiting else RETRY_SECONDS / 10
        with self._lock:
            servers = [server for server in self._servers.values() if not self._silent]
        for server in servers:
            if server.address or not server.far or server.failed is None or server.failed.busy:
                self._ask(server)

    def _unasked(self) -> list[_Server]:
        with self._lock:
            servers = list(self._servers.values())
        return [s for s in servers if s.address is None and (s.failed is None or s.failed.busy)]

    def _ask(self, server: _Server) -> None:
        def proves(connection: socket.socket) -> bool | None:
            return other_end_is_of(connection, server.pid, self._proc_root)

        for address in [server.address] if server.address else server.addresses:
            now = time.monotonic_ns()
            try:
                with asking(address, server.credentials, proves=proves) as facts:
                    who = self._who_answers(server, facts)
            except NotAnswered as reason:
                server.failed = reason
                continue
            server.address, server.failed, server.mismatch = address, None, who is None
            if who is not None and who is not server:
                who.spoken_for = True
            with self._lock:
                self._rows.extend((now, address.shown, who.pid if who else None, fact) for fact in facts)
            return

    def _who_answers(self, asked: _Server, facts: list[Fact]) -> _Server | None:
        """Whose answer it is: of the process that was asked, if the number that the answer names is its own; else of
        a server in another namespace, if it holds the connection that the answer names: the first only passes it on.
        """
        said = {fact.field: fact.value for fact in facts if fact.source in ("INFO server", "CLIENT INFO")}
        if said.get("process_id") in self._numbers(asked.pid):
            return asked
        host, _, port = said.get("addr", "").rpartition(":")
        if not port.isdigit():
            return None
        with self._lock:
            far = [server for server in self._servers.values() if server.far and server.address is None]
        fitting = (server for server in far if said.get("process_id") in self._numbers(server.pid))
        return next((s for s in fitting if talks_to(s.pid, (host.strip("[]"), int(port)), self._proc_root)), None)

    def _numbers(self, pid: int) -> set[str]:
        """Numbers that a process may know itself by: this host's, and that of its own namespace."""
        status = parse_status(read_bounded(self._proc_root / str(pid) / "status") or b"")
        return {str(pid)} | ({str(status.ns_pids[-1])} if status and status.ns_pids else set())


def _spots_of(server: _Server) -> Iterator[BlindSpot]:
    """What is not known of a server, and what would help."""
    where, failed = f"the settings of the Redis server, process {server.pid}", server.failed
    if server.address is not None and failed is not None:
        where = f"what the Redis server, process {server.pid}, says at the end of the window"
    elif server.far and server.address is None and (failed is None or failed.why != _NOT_ASKED[0]):
        if not server.spoken_for:
            yield _far_spot(server, where)
        return
    if failed is not None:
        yield BlindSpot(what=where, why=failed.why, way_out=failed.way_out)
    elif server.mismatch and server.address is not None:
        why = f"the server that answers at {server.address.shown} names another process id as its own"
        yield BlindSpot(what=where, why=why, way_out="ask that server by its own address")


def _far_spot(server: _Server, where: str) -> BlindSpot:
    tried = ", ".join(address.shown for address in server.addresses)
    why = f"it listens in another network namespace, {f'not reached at {tried}' if tried else 'at no address of ours'}"
    return BlindSpot(
        what=where,
        why=f"{why}: {server.failed.why}" if server.failed else why,
        way_out=f"ask it from there: nsenter --target {server.pid} --net redis-cli config get 'append*'",
    )
