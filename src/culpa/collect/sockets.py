"""Sockets of the host from /proc/net: who listens, who is at the other end, who holds them.

Parsers mirror net/ipv4/tcp_ipv4.c and net/unix/af_unix.c. TCP ends are paired by mirrored addresses, also across
network namespaces; the ends of a unix socket by `sockdiag`, since /proc/net/unix does not say.
"""

from __future__ import annotations

import ipaddress
import os
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from culpa.collect.procfs import decoded, namespace_inode, numbers_in, read_bounded, read_link
from culpa.collect.sockdiag import tcp_talk, unix_peers
from culpa.units import NS_PER_SECOND, printable

MAX_TABLE_BYTES = 64 << 20
"""About 400,000 connections of 150 bytes."""
MAX_NAMESPACES = 256
MAX_DUMP_BYTES = 64 << 20
NS_PER_MS = 1_000_000
MOST_NS = 3 * NS_PER_SECOND
"""About a million descriptors."""

_LISTEN, _TIME_WAIT = 0x0A, 0x06
"""include/net/tcp_states.h"""
_SOCKET = "socket:["
_UNIX_LISTENING = 1 << 16
"""__SO_ACCEPTCON of include/uapi/linux/net.h, in the flags of /proc/net/unix."""
_WORD_ORDER = "<" if sys.byteorder == "little" else ">"


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """One socket. `ino` 0: a connection that nobody has accepted yet."""

    ino: int
    netns: int | None
    family: str
    local_addr: str | None
    local_port: int | None
    peer_addr: str | None = None
    peer_port: int | None = None
    listening: bool = False
    peer_ino: int | None = None
    sent_ns: int | None = None
    received_ns: int | None = None


def parse_net_tcp(raw: bytes, *, family: str, netns: int | None) -> Iterator[Socket]:
    """Sockets of /proc/net/tcp or tcp6; those in TIME_WAIT have no owner and are left out."""
    for line in raw.split(b"\n")[1:]:
        fields = line.split()
        if len(fields) < 10 or int(fields[3], 16) == _TIME_WAIT:
            continue
        local_addr, local_port = _address(fields[1])
        peer_addr, peer_port = _address(fields[2])
        yield Socket(
            ino=int(fields[9]),
            netns=netns,
            family=family,
            local_addr=local_addr,
            local_port=local_port,
            peer_addr=peer_addr if peer_port else None,
            peer_port=peer_port or None,
            listening=int(fields[3], 16) == _LISTEN,
        )


def _address(field: bytes) -> tuple[str, int]:
    """`0100007F:1F90` or the 32 digits of IPv6: words of 32 bits in the host's own byte order."""
    digits, _, port = field.partition(b":")
    words = struct.unpack(f">{len(digits) // 8}I", bytes.fromhex(digits.decode("ascii")))
    packed = struct.pack(f"{_WORD_ORDER}{len(words)}I", *words)
    return plain_address(str(ipaddress.ip_address(packed))), int(port, 16)


def plain_address(text: str) -> str:
    """An address in its shortest form; IPv4 mapped into IPv6 becomes IPv4, a zone (`%eth0`) is dropped."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def parse_net_unix(raw: bytes, *, netns: int | None) -> Iterator[Socket]:
    """Sockets of /proc/net/unix. An abstract name starts with @; a name may hold blanks, even newlines."""
    for line in raw.split(b"\n")[1:]:
        fields = line.split(None, 7)
        if len(fields) < 7 or not fields[6].isdigit() or not fields[0].endswith(b":"):
            continue
        yield Socket(
            ino=int(fields[6]),
            netns=netns,
            family="unix",
            local_addr=printable(decoded(fields[7])) if len(fields) > 7 else None,
            local_port=None,
            listening=bool(int(fields[3], 16) & _UNIX_LISTENING),
        )


def distinct_namespaces(proc_root: Path) -> dict[int | None, int]:
    """One process for each network namespace of the host, by the namespace's inode; culpa's own first.

    A kernel that refuses to say (not root) leaves culpa's own namespace alone, under its inode or None.
    """
    found: dict[int | None, int] = {}
    own = read_link(proc_root / "self")
    own_pid = int(own) if own is not None and own.isdecimal() else 0
    found[namespace_inode(proc_root, own_pid, "net")] = own_pid
    for pid in numbers_in(proc_root):
        inode = namespace_inode(proc_root, pid, "net")
        if inode is not None and inode not in found and len(found) < MAX_NAMESPACES:
            found[inode] = pid
    return found


def sockets_of_namespace(proc_root: Path, pid: int, netns: int | None) -> Iterator[Socket]:
    """TCP and unix sockets of the network namespace of one process."""
    net = proc_root / (str(pid) if pid else "self") / "net"
    for family in ("tcp", "tcp6"):
        yield from parse_net_tcp(read_bounded(net / family, MAX_TABLE_BYTES) or b"", family=family, netns=netns)
    yield from parse_net_unix(read_bounded(net / "unix", MAX_TABLE_BYTES) or b"", netns=netns)


class Holders:
    """Which process holds which socket open, each process looked at once.

    The descriptors of a big host take a second to read, and several questions of one moment are about them.
    """

    def __init__(self, proc_root: Path) -> None:
        self._root = proc_root
        self._by_pid: dict[int, frozenset[int]] = {}

    def sockets_of(self, pid: int) -> frozenset[int]:
        """Inodes of the sockets a process holds open."""
        if pid not in self._by_pid:
            self._by_pid[pid] = socket_inodes(self._root, pid)
        return self._by_pid[pid]

    def of(self, inodes: Collection[int]) -> dict[int, list[int]]:
        """The processes that hold each of these sockets open, ascending; looks for `MOST_NS` at most."""
        wanted, found = frozenset(inodes), defaultdict(list)
        end_ns = time.monotonic_ns() + MOST_NS
        for pid in numbers_in(self._root) if wanted else ():
            for ino in wanted & self.sockets_of(pid):
                found[ino].append(pid)
            if time.monotonic_ns() > end_ns:
                break
        return dict(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketTable:
    """Every TCP and unix socket of the host at one moment. `own_netns` is culpa's network namespace."""

    holders: Holders

    sockets: tuple[Socket, ...]
    own_netns: int | None
    namespaces: Mapping[int | None, int]

    @classmethod
    def read(cls, proc_root: Path, *, diagnose: bool = True, talk: bool = False) -> SocketTable:
        """Read every network namespace once and pair the ends.

        Args:
            proc_root: where /proc is.
            diagnose: ask the kernel for the peers of unix sockets; False on a recorded /proc.
            talk: ask it also when connections last moved data.
        """
        namespaces = distinct_namespaces(proc_root)
        sockets = [s for netns, pid in namespaces.items() for s in sockets_of_namespace(proc_root, pid, netns)]
        peers = _tcp_peers(sockets)
        if diagnose:
            peers.update(unix_peers())
        paired = tuple(replace(s, peer_ino=peers.get(s.ino)) if s.ino in peers else s for s in sockets)
        if talk:
            paired = tuple(_with_talk(paired))
        return cls(holders=Holders(proc_root), sockets=paired, own_netns=next(iter(namespaces)), namespaces=namespaces)

    def listeners(self, port: int) -> list[Socket]:
        """The listening TCP sockets of a port, in all namespaces."""
        return [s for s in self.sockets if s.listening and s.local_port == port]

    def by_ino(self) -> dict[int, Socket]:
        """Sockets by inode, without those that have none yet."""
        return {s.ino: s for s in self.sockets if s.ino}

    def listener_of_unaccepted(self, client: Socket) -> list[Socket]:
        """Who would accept a connection whose other end nobody holds yet."""
        if client.peer_port is None or client.peer_addr is None:
            return []
        wanted = {client.peer_addr, "0.0.0.0", "::"}  # noqa: S104 - compared with, not bound to
        waiting = {
            s.netns
            for s in self.sockets
            if s.ino == 0 and s.local_port == client.peer_port and s.peer_port == client.local_port
        }
        return [s for s in self.listeners(client.peer_port) if s.netns in waiting and s.local_addr in wanted]


def _with_talk(sockets: Iterable[Socket]) -> Iterator[Socket]:
    """The sockets, with the moments at which TCP connections last sent and received."""
    # Before, not after: rather a moment too early than later than what the talk led to.
    now_ns, heard = time.monotonic_ns(), tcp_talk()
    for one in sockets:
        talk = heard.get(one.ino)
        if talk is None:
            yield one
        else:
            sent, received = (
                None if ms is None else now_ns - ms * NS_PER_MS for ms in (talk.sent_ms, talk.received_ms)
            )
            yield replace(one, sent_ns=sent, received_ns=received)


def _tcp_peers(sockets: Iterable[Socket]) -> dict[int, int]:
    """Inode of the other end by inode.

    Loopback addresses pair within one namespace only. Of several namespaces with the same addresses the own one wins;
    between several foreign ones nothing is guessed. What is left over is paired by the client's end alone.
    """
    ends: dict[tuple[str | None, int | None, str | None, int | None], list[Socket]] = defaultdict(list)
    # A table that changes while it is read may name one twice.
    connected = list({s.ino: s for s in sockets if s.ino and s.peer_port is not None}.values())
    for s in connected:
        ends[s.local_addr, s.local_port, s.peer_addr, s.peer_port].append(s)
    found: dict[int, int] = {}
    for s in connected:
        others = [o for o in ends.get((s.peer_addr, s.peer_port, s.local_addr, s.local_port), ()) if o.ino != s.ino]
        near = [o for o in others if o.netns == s.netns]
        far = [] if is_loopback(s.peer_addr) else others
        for candidates in (near, far):
            if len(candidates) == 1:
                found[s.ino] = candidates[0].ino
                break
    return found | _translated([s for s in connected if s.ino not in found])


def _translated(alone: Iterable[Socket]) -> dict[int, int]:
    """Ends of connections whose destination was rewritten on the way (a published port, a service address).

    The client's end is the same on both sides, the server's is not; they lie in two namespaces, and there must be one
    such client and one such server only.
    """
    by_client: dict[tuple[str | None, int | None], list[Socket]] = defaultdict(list)
    by_server: dict[tuple[str | None, int | None], list[Socket]] = defaultdict(list)
    for s in alone:
        by_client[s.local_addr, s.local_port].append(s)
        by_server[s.peer_addr, s.peer_port].append(s)
    found: dict[int, int] = {}
    for end, clients in by_client.items():
        servers = by_server.get(end, [])
        if len(clients) == len(servers) == 1 and clients[0].netns != servers[0].netns and not is_loopback(end[0]):
            found[clients[0].ino], found[servers[0].ino] = servers[0].ino, clients[0].ino
    return found


def is_loopback(address: str | None) -> bool:
    """127.0.0.0/8 or ::1."""
    return address is not None and ipaddress.ip_address(address).is_loopback


def socket_inodes(proc_root: Path, pid: int) -> frozenset[int]:
    """Inodes of the sockets a process holds open; none where it is gone or may not be read."""
    directory = f"{proc_root}/{pid}/fd"
    found = set()
    for number in numbers_in(directory):
        try:
            link = os.readlink(f"{directory}/{number}")  # noqa: PTH115 - a hundred thousand of them
        except OSError:
            continue
        if link.startswith(_SOCKET):
            found.add(int(link[len(_SOCKET) : -1]))
    return frozenset(found)
