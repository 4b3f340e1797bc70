"""Where a server that listens in another network namespace may be reached from culpa's own, and whether it was.

Namespaces are read through /proc/PID/net and never entered. An address proves nothing: another server may have it too.
What proves who answers is the connection itself, whose other end must be a socket of that very process.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from culpa.collect.procfs import PROC, read_bounded
from culpa.collect.resolve import local_addresses
from culpa.collect.sockets import (
    Socket,
    SocketTable,
    parse_net_tcp,
    plain_address,
    socket_inodes,
)

End = tuple[str, int]
"""Address and port of one end of a TCP connection."""
ANYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with, not bound to
MAX_TABLE_BYTES: Final = 8 << 20
"""About 50,000 connections: of a namespace whose server is asked, and of the routes."""
_ROUTE_UP, _ROUTE_GATEWAY = 1, 2
"""RTF_UP and RTF_GATEWAY of include/uapi/linux/route.h."""


def ends_from_here(mine: Collection[Socket], table: SocketTable, pid: int, proc_root: Path = PROC) -> list[End]:
    """Addresses at which listeners of another network namespace may be reached, the surest first.

    First those that a connection of culpa's own namespace goes to (also a published port, whose destination was
    rewritten on the way), then the server's side of its connections, then the addresses of its interfaces; of the last
    two only such as lie on a link of this host, so that nothing goes to a stranger behind a gateway.

    Args:
        mine: sockets of the server in that namespace.
        table: sockets of the host.
        pid: the server's process.
        proc_root: where /proc is.
    """
    listening = [s for s in mine if s.listening and s.local_port is not None]
    ports = {s.local_port for s in listening}
    inodes = {s.ino for s in mine if s.local_port in ports}
    used = [(s.peer_addr, s.peer_port) for s in table.sockets if s.netns == table.own_netns and s.peer_ino in inodes]
    served = [(s.local_addr, s.local_port) for s in mine if s.peer_port is not None and s.local_port in ports]
    homes = sorted(local_addresses(proc_root, pid))
    bound = [
        (address, s.local_port)
        for s in listening
        for address in ([s.local_addr] if s.local_addr not in ANYWHERE else homes)
    ]
    linked = [end for end in (*served, *bound) if end[0] is not None and _is_near(end[0], proc_root)]
    return list(dict.fromkeys((str(host), int(port)) for host, port in (*used, *linked) if host and port))


def _is_near(address: str, proc_root: Path) -> bool:
    """Whether the best route to an address leads onto a link of this host and through no gateway."""
    wanted = ipaddress.ip_address(address)
    if wanted.is_loopback or wanted.is_unspecified or wanted.is_link_local:
        return False
    fitting = [
        (network.prefixlen, gateway) for network, gateway in _routes(proc_root, wanted.version) if wanted in network
    ]
    return bool(fitting) and not max(fitting, key=lambda route: route[0])[1]


def _routes(proc_root: Path, version: int) -> Iterator[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, bool]]:
    """Networks of the main table, and whether a gateway leads there (net/ipv4/fib_trie.c, net/ipv6/route.c)."""
    name = "route" if version == 4 else "ipv6_route"
    raw = read_bounded(proc_root / "self/net" / name, MAX_TABLE_BYTES) or b""
    for line in raw.decode("ascii", "replace").splitlines():
        fields = line.split()
        if version == 4 and len(fields) >= 8 and fields[0] != "Iface":
            flags, words = int(fields[3], 16), (int(fields[1], 16), int(fields[7], 16))
            target, mask = (ipaddress.IPv4Address(struct.pack("=I", word)) for word in words)
            network: ipaddress.IPv4Network | ipaddress.IPv6Network = ipaddress.IPv4Network(f"{target}/{mask}")
        elif version == 6 and len(fields) >= 10:
            flags = int(fields[8], 16)
            network = ipaddress.IPv6Network((bytes.fromhex(fields[0]), int(fields[1], 16)))
        else:
            continue
        if flags & _ROUTE_UP:
            yield network, bool(flags & _ROUTE_GATEWAY)


def other_end_is_of(connection: socket.socket, pid: int, proc_root: Path = PROC) -> bool | None:
    """Whether the other end of a connection of culpa's own is held by a process, in whatever namespace it lives.

    A unix socket says who listens; a TCP connection is looked up among those of the process's namespace.

    Returns:
        None where it has come there, and nobody has accepted it yet. False also where an end was rewritten on the way,
        or another program stands in between.
    """
    if connection.family == socket.AF_UNIX:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return bool(pid == struct.unpack("3i", credentials)[0])
    host, port = connection.getsockname()[:2]
    return talks_to(pid, (plain_address(host), port), proc_root)


def talks_to(pid: int, client: End, proc_root: Path = PROC) -> bool | None:
    """Whether a process holds a connection whose client, as the process's own namespace sees it, is this one."""
    mine = [s.ino for s in _connections(pid, proc_root) if (s.peer_addr, s.peer_port) == client]
    if not mine or any(mine):
        return bool(socket_inodes(proc_root, pid).intersection(mine))
    return None


def _connections(pid: int, proc_root: Path) -> Iterator[Socket]:
    net = proc_root / str(pid) / "net"
    for family in ("tcp", "tcp6"):
        raw = read_bounded(net / family, MAX_TABLE_BYTES) or b""
        yield from parse_net_tcp(raw, family=family, netns=None)
