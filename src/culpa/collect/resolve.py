"""From a target to the processes it stands for, and from processes to those they talk to.

Reads /proc only. Asking who listens on a port looks into every network namespace of the host, so a server in a
container is found by its port or address as well.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import assert_never

from culpa.collect.commandline import MAX_CMDLINE_BYTES, arguments_of, read_cmdline
from culpa.collect.groups import processes_in
from culpa.collect.procfs import PROC, TaskStat, numbers_in, own_pid, parse_stat, parse_status, read_bounded, read_link
from culpa.collect.sockets import (
    Holders,
    Socket,
    SocketTable,
    is_loopback,
    plain_address,
    socket_inodes,
)
from culpa.errors import CulpaError, UsageError
from culpa.target import (
    CaptureTarget,
    CommandTarget,
    GroupTarget,
    HostTarget,
    NameTarget,
    PidTarget,
    PortTarget,
    RedisTarget,
    Target,
    UrlTarget,
)
from culpa.units import printable

MAX_LISTED = 20
INIT = 1
_DEAD = frozenset("ZXx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The processes of a target, ascending; `reason` says in a sentence why there is none."""

    pids: tuple[int, ...]
    reason: str | None = None


def processes_of(target: Target, proc_root: Path = PROC) -> tuple[int, ...]:
    """`resolve(...).pids`."""
    return resolve(target, proc_root).pids


def resolve(target: Target, proc_root: Path = PROC) -> Resolution:
    """Find the processes that a target stands for.

    Raises:
        CulpaError: there is no such process, or nobody listens there.
        UsageError: several processes that do not belong together answer to it; the message lists them.
    """
    match target:
        case PidTarget(pid=pid):
            return Resolution(pids=(_process(proc_root, pid),))
        case NameTarget(name=name):
            return Resolution(pids=_named(proc_root, name))
        case PortTarget(port=port):
            return Resolution(pids=_listening(proc_root, port))
        case GroupTarget():
            return Resolution(pids=processes_in(target, proc_root))
        case UrlTarget(host=host, port=port):
            return _at_address(proc_root, host, port)
        case RedisTarget(path=None, host=host, port=port):
            return _at_address(proc_root, host, port)
        case RedisTarget(path=path):
            return Resolution(pids=_at_path(proc_root, path or ""))
        case HostTarget():
            return Resolution(pids=(), reason="the whole host is watched")
        case CaptureTarget():
            return Resolution(pids=(), reason="a saved capture is read, no process is watched")
        case CommandTarget():
            return Resolution(pids=(), reason="the command has not been started yet")
        case _:
            assert_never(target)


def _process(proc_root: Path, pid: int) -> int:
    """The process of a pid, or of the thread with that number."""
    raw = read_bounded(proc_root / str(pid) / "status")
    status = None if raw is None else parse_status(raw)
    if status is None:
        raise CulpaError(f"there is no process {pid}", way_out="see ps -ef for those there are")
    return status.tgid


def process_stat(proc_root: Path, pid: int) -> TaskStat | None:
    """The stat file of a process; None where it is gone."""
    raw = read_bounded(proc_root / str(pid) / "stat")
    return None if raw is None else parse_stat(raw)


def _named(proc_root: Path, name: str) -> tuple[int, ...]:
    parents = {
        pid: stat.ppid
        for pid in numbers_in(proc_root)
        if pid != own_pid() and (stat := process_stat(proc_root, pid)) is not None
        if stat.state not in _DEAD and _answers_to(proc_root, pid, stat, name)
    }
    if not parents:
        raise CulpaError(
            f"there is no process named {printable(name)}",
            way_out="see ps -ef, or name it by PID or by :PORT if it listens",
        )
    groups = _families(proc_root, parents)
    if len(groups) > 1:
        raise _ambiguous(proc_root, f"several processes are named {printable(name)}", [min(group) for group in groups])
    return tuple(sorted(parents))


def _answers_to(proc_root: Path, pid: int, stat: TaskStat, name: str) -> bool:
    """Its kernel name, the first word of its command line, or its program is called so; a path means the program."""
    exe = (read_link(proc_root / str(pid) / "exe") or "").removesuffix(" (deleted)")
    if name.startswith("/"):
        return exe == name
    arguments = arguments_of(read_bounded(proc_root / str(pid) / "cmdline", MAX_CMDLINE_BYTES) or b"")
    first = arguments[0].split(" ")[0] if arguments else ""
    return name in {stat.comm, PurePosixPath(first).name, first.rstrip(":"), PurePosixPath(exe).name}


def _families(proc_root: Path, parents: dict[int, int]) -> list[set[int]]:
    """Group processes that belong together: parent and child, or listening on the same socket or port."""
    family = {pid: {pid} for pid in parents}
    links = [(pid, parent) for pid, parent in parents.items() if parent in parents]
    if len(parents) > 1:
        links += _sharing_a_port(proc_root, parents)
    for one, other in links:
        if family[one] is not family[other]:
            family[one] |= family[other]
            for member in family[other]:
                family[member] = family[one]
    return sorted({id(group): group for group in family.values()}.values(), key=min)


def _sharing_a_port(proc_root: Path, pids: Iterable[int]) -> Iterator[tuple[int, int]]:
    listening = {s.ino: s for s in SocketTable.read(proc_root, diagnose=False).sockets if s.listening and s.ino}
    first: dict[tuple[object, ...], int] = {}
    for pid in pids:
        for ino in socket_inodes(proc_root, pid):
            s = listening.get(ino)
            if s is not None:
                place = (s.netns, s.local_port) if s.local_port is not None else (ino,)
                yield pid, first.setdefault(place, pid)


def _ambiguous(proc_root: Path, what: str, pids: list[int]) -> UsageError:
    lines = [f"  {pid}  {read_cmdline(proc_root, pid) or '(no command line)'}" for pid in pids[:MAX_LISTED]]
    if len(pids) > MAX_LISTED:
        lines.append(f"  and {len(pids) - MAX_LISTED} more")
    return UsageError(what, way_out="name one by its PID:\n" + "\n".join(lines))


def _listening(proc_root: Path, port: int) -> tuple[int, ...]:
    table = SocketTable.read(proc_root, diagnose=False)
    found = table.listeners(port)
    near = [s for s in found if s.netns == table.own_netns]
    return _owners(proc_root, near or found, f"port {port}")


def _owners(proc_root: Path, listeners: list[Socket], place: str) -> tuple[int, ...]:
    """The processes behind listening sockets of one network namespace."""
    if not listeners:
        way_out = "see ss -lx for the sockets in use" if place.startswith("/") else "see ss -ltn for the ports in use"
        raise CulpaError(f"nobody listens on {printable(place)} of this host", way_out=way_out)
    held = Holders(proc_root).of({s.ino for s in listeners})
    pids = {pid for of_socket in held.values() for pid in of_socket}
    if not pids:
        raise CulpaError(f"cannot see which process listens on {printable(place)}", way_out="run culpa as root")
    by_namespace: dict[int | None, list[int]] = defaultdict(list)
    for s in listeners:
        by_namespace[s.netns].extend(held.get(s.ino, ()))
    groups = [of_namespace for of_namespace in by_namespace.values() if of_namespace]
    if len(groups) > 1:
        what = f"several network namespaces have a listener on {printable(place)}"
        raise _ambiguous(proc_root, what, sorted(min(group) for group in groups))
    # Under socket activation init keeps the socket that it handed to the service.
    return tuple(sorted(pids - {INIT} or pids))


def _at_address(proc_root: Path, host: str, port: int) -> Resolution:
    """Local listeners that a connection to this address would reach; none for an address of another host."""
    addresses = _addresses_of(host, port)
    if not addresses:
        return Resolution(pids=(), reason=f"the name {printable(host)} has no address that this host could look up")
    table = SocketTable.read(proc_root, diagnose=False)
    for address in addresses:
        reached = _reached(proc_root, table, address, port)
        if reached is not None:
            return Resolution(pids=_owners(proc_root, reached, f"{address} port {port}"))
    return Resolution(pids=(), reason=f"{printable(host)} ({addresses[0]}) is not an address of this host")


def _reached(proc_root: Path, table: SocketTable, address: str, port: int) -> list[Socket] | None:
    """Listeners of the namespace that has this address; None where no namespace has it."""
    if is_loopback(address):
        homes = [table.own_netns]
    else:
        homes = [ns for ns, pid in table.namespaces.items() if address in local_addresses(proc_root, pid)]
    if not homes:
        return None
    open_to_all = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound to
    everywhere = [s for s in table.listeners(port) if s.netns in homes]
    return [s for s in everywhere if s.local_addr == address] or [s for s in everywhere if s.local_addr in open_to_all]


def _addresses_of(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(plain_address(str(entry[4][0])) for entry in found))


def local_addresses(proc_root: Path, pid: int) -> frozenset[str]:
    """The addresses of the network namespace of a process (`pid` 0: culpa's own).

    IPv4 from the local routes in fib_trie (net/ipv4/fib_trie.c), IPv6 from if_inet6.
    """
    net = proc_root / (str(pid) if pid else "self") / "net"
    found: set[str] = set()
    before = ""
    for line in (read_bounded(net / "fib_trie") or b"").decode("ascii", "replace").split("\n"):
        if "/32 host LOCAL" in line:
            found.add(before.rpartition(" ")[2])
        before = line
    for line in (read_bounded(net / "if_inet6") or b"").decode("ascii", "replace").split("\n"):
        digits = line.partition(" ")[0]
        if len(digits) == 32:
            found.add(str(ipaddress.IPv6Address(bytes.fromhex(digits))))
    return frozenset(found)


def _at_path(proc_root: Path, path: str) -> tuple[int, ...]:
    table = SocketTable.read(proc_root, diagnose=False)
    found = [s for s in table.sockets if s.listening and s.family == "unix" and s.local_addr == path]
    return _owners(proc_root, found, path)


def peers_of(pids: Iterable[int], proc_root: Path = PROC, *, table: SocketTable | None = None) -> set[int]:
    """The processes at the other end of established TCP and unix sockets of `pids`: one level, without `pids`.

    Call it again with the answer for the next level. A connection that nobody has accepted yet counts for whoever
    listens there. Work is bounded by the limits of `sockets`.
    """
    watched = set(pids)
    sockets = SocketTable.read(proc_root) if table is None else table
    known = sockets.by_ino()
    wanted: set[int] = set()
    for pid in watched:
        for ino in sockets.holders.sockets_of(pid):
            s = known.get(ino)
            if s is None:
                continue
            if s.peer_ino is not None:
                wanted.add(s.peer_ino)
            else:
                wanted |= {listener.ino for listener in sockets.listener_of_unaccepted(s)}
    held = sockets.holders.of(wanted)
    return {pid for of_socket in held.values() for pid in of_socket} - watched
