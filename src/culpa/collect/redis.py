"""Redis servers among the watched processes: found by evidence, asked at the start and at the end (`schema.REDIS`).

A server is asked only where there is evidence that it is one: its name, or RESP seen on its sockets. One in another
network namespace is not entered. Each is asked at most once a second, from a thread of its own.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from culpa.capture import schema
from culpa.capture.manifest import BlindSpot
from culpa.collect.procfs import PROC, parse_status, read_bounded, read_link
from culpa.collect.redis_answers import TIMEOUT_SECONDS, Address, Credentials, Fact, NotAnswered, ask
from culpa.collect.sockets import Socket, SocketTable, socket_inodes
from culpa.units import Pid

RETRY_SECONDS: Final = 1.0
"""INFO at most once a second."""
MAX_SERVERS: Final = 8
MAX_ADDRESSES: Final = 4
_NAMED: Final = re.compile(r"(redis|valkey|keydb)", re.IGNORECASE)


def named_like_redis(pid: int, proc_root: Path = PROC) -> bool:
    """Whether the name of a process or of its program says that it is a Redis or a descendant of it."""
    comm = read_bounded(proc_root / str(pid) / "comm", 64) or b""
    exe = read_link(proc_root / str(pid) / "exe") or ""
    return bool(_NAMED.search(comm.decode(errors="replace")) or _NAMED.search(Path(exe).name))


def listening_addresses(pid: int, table: SocketTable, proc_root: Path = PROC) -> tuple[list[Address], bool]:
    """Where a process listens in this network namespace, and whether it listens in another one."""
    known = table.by_ino()
    mine = [known[ino] for ino in set(socket_inodes(proc_root, pid)) if ino in known and known[ino].listening]
    here = [sock for sock in mine if sock.netns == table.own_netns]
    addresses = {address for sock in here if (address := _address(sock, pid, proc_root)) is not None}
    ordered = sorted(addresses, key=lambda address: (address.path is not None, address.port, address.host))
    return ordered[:MAX_ADDRESSES], len(here) < len(mine)


def _address(sock: Socket, pid: int, proc_root: Path) -> Address | None:
    if sock.local_addr is None:
        return None
    if sock.family == "unix":
        # The path is the server's own: seen through its root it is right in a container, too.
        absolute = sock.local_addr.startswith("/")
        return Address(path=f"{proc_root}/{pid}/root{sock.local_addr}") if absolute else None
    if sock.local_port is None:
        return None
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, not bound to
    return Address(host=anywhere.get(sock.local_addr, sock.local_addr), port=sock.local_port)


@dataclass(slots=True, kw_only=True)
class _Server:
    """One process that is taken for a Redis, and what became of asking it."""

    pid: Pid
    addresses: list[Address]
    credentials: Credentials
    address: Address | None = None
    failed: NotAnswered | None = None
    mismatch: bool = False


_NOT_ASKED: Final = ("it was not asked: --passive sends nothing", "leave --passive out")


class RedisCollector:
    """Asks every server when it is found and once more at the end, from a thread of its own."""

    def __init__(self, *, proc_root: Path = PROC, credentials: Credentials | None = None, silent: bool = False) -> None:
        """Take servers as they are found; a `silent` one asks nobody and says whom it would have asked."""
        self._silent = silent
        self._proc_root = proc_root
        self._credentials = credentials or Credentials.from_environment()
        self._lock = threading.Lock()
        self._servers: dict[int, _Server] = {}
        self._foreign: set[int] = set()
        self._rows: list[tuple[int, str, int | None, Fact]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="culpa-redis", daemon=True)

    def start(self) -> None:
        """Begin asking."""
        self._thread.start()

    def found(self, pids: Collection[int], table: SocketTable, *, spoke_resp: Collection[int] = ()) -> None:
        """Look for servers among watched processes; those known by now cost nothing.

        Args:
            pids: watched processes.
            table: sockets of this moment.
            spoke_resp: processes that were seen to receive RESP requests.
        """
        for pid in sorted(pids):
            if pid in self._servers or pid in self._foreign or len(self._servers) >= MAX_SERVERS:
                continue
            if pid not in spoke_resp and not named_like_redis(pid, self._proc_root):
                continue
            addresses, elsewhere = listening_addresses(pid, table, self._proc_root)
            if addresses:
                with self._lock:
                    self._servers[pid] = _Server(
                        pid=Pid(pid),
                        addresses=addresses,
                        credentials=self._credentials,
                        failed=NotAnswered(*_NOT_ASKED) if self._silent else None,
                    )
            elif elsewhere:
                self._foreign.add(pid)

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
        spots = [_foreign_spot(pid) for pid in sorted(self._foreign)]
        for server in self._servers.values():
            where = f"the settings of the Redis server, process {server.pid}"
            if server.failed is not None and server.address is not None:
                where = f"what the Redis server, process {server.pid}, says at the end of the window"
            if server.failed is not None:
                spots.append(BlindSpot(what=where, why=server.failed.why, way_out=server.failed.way_out))
            elif server.mismatch and server.address is not None:
                why = f"the server that answers at {server.address.shown} names another process id as its own"
                spots.append(BlindSpot(what=where, why=why, way_out="ask that server by its own address"))
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
            servers = list(self._servers.values())
        for server in servers if not self._silent else ():
            self._ask(server)

    def _unasked(self) -> list[_Server]:
        with self._lock:
            servers = list(self._servers.values())
        return [s for s in servers if s.address is None and (s.failed is None or s.failed.busy)]

    def _ask(self, server: _Server) -> None:
        for address in [server.address] if server.address else server.addresses:
            now = time.monotonic_ns()
            try:
                facts = ask(address, server.credentials)
            except NotAnswered as reason:
                server.failed = reason
                continue
            server.address, server.failed = address, None
            pid = self._checked_pid(server, facts)
            with self._lock:
                self._rows.extend((now, address.shown, pid, fact) for fact in facts)
            return

    def _checked_pid(self, server: _Server, facts: list[Fact]) -> Pid | None:
        """The process on this host, if the number the server gives itself is what its listener has in its namespace."""
        said = next((fact.value for fact in facts if fact.field == "process_id"), None)
        status = parse_status(read_bounded(self._proc_root / str(server.pid) / "status") or b"")
        known = {str(server.pid)} | ({str(status.ns_pids[-1])} if status and status.ns_pids else set())
        server.mismatch = said not in known
        return None if server.mismatch else server.pid


def _foreign_spot(pid: int) -> BlindSpot:
    return BlindSpot(
        what=f"the settings of the Redis server, process {pid}",
        why="it listens in another network namespace, which culpa does not enter",
        way_out=f"ask it from there: nsenter --target {pid} --net redis-cli config get 'append*'",
    )
