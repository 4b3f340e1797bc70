"""What the kernel's socket diagnosis (sock_diag(7)) says that /proc/net does not.

Which two unix sockets belong together (net/unix/diag.c), and when a TCP connection last moved data each way
(net/ipv4/inet_diag.c). Both dumps are read-only, need no privilege and cover culpa's own network namespace.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_DUMP_BYTES = 64 << 20
ANSWER_SECONDS = 1.0

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
"""include/uapi/linux/{netlink,sock_diag}.h"""

_UDIAG_SHOW_PEER = 4
_UNIX_DIAG_PEER = 2
_UNIX_REQUEST = struct.Struct("=BBHIIIII")
_UNIX_MESSAGE_BYTES, _UNIX_INO_AT = 16, 4
"""include/uapi/linux/unix_diag.h: struct unix_diag_req and unix_diag_msg"""

_ESTABLISHED = 1 << 1
_INET_DIAG_INFO = 2
_INET_REQUEST = struct.Struct("=BBBxI48x")
_INET_MESSAGE_BYTES, _INET_INO_AT = 72, 68
_SENT_AGE_AT, _RECEIVED_AGE_AT, _TCP_INFO_BYTES = 44, 52, 136
_BYTES_ACKED_AT, _BYTES_RECEIVED_AT = 120, 128
"""include/uapi/linux/{inet_diag,tcp}.h: struct inet_diag_req_v2, inet_diag_msg, and tcp_info as of Linux 4.1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpTalk:
    """How long ago (ms, as exact as the kernel's tick) a connection last sent and last received data; None: never."""

    sent_ms: int | None
    received_ms: int | None


def unix_peers() -> dict[int, int]:
    """Inode of the other end of each connected unix socket; empty where refused or without CONFIG_UNIX_DIAG."""
    asked = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_PEER, 0, 0)
    found = {}
    for payload in _dump(asked):
        peer = _attribute(payload, _UNIX_MESSAGE_BYTES, _UNIX_DIAG_PEER, 4)
        if peer is not None:
            found[_ino(payload, _UNIX_INO_AT)] = int(struct.unpack_from("=I", peer)[0])
    return found


def tcp_talk() -> dict[int, TcpTalk]:
    """By socket inode, established TCP connections; empty where refused or without CONFIG_INET_TCP_DIAG."""
    found = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        asked = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), _ESTABLISHED)
        for payload in _dump(asked):
            info = _attribute(payload, _INET_MESSAGE_BYTES, _INET_DIAG_INFO, _TCP_INFO_BYTES)
            if info is not None:
                found[_ino(payload, _INET_INO_AT)] = _talk_in(info)
    return found


def _talk_in(info: bytes) -> TcpTalk:
    """The ages start with the connection, so the byte counters tell whether there was any data."""
    sent_age, received_age = (struct.unpack_from("=I", info, at)[0] for at in (_SENT_AGE_AT, _RECEIVED_AGE_AT))
    acked, received = (struct.unpack_from("=Q", info, at)[0] for at in (_BYTES_ACKED_AT, _BYTES_RECEIVED_AT))
    # The SYN counts as one acknowledged byte of the side that opened the connection.
    return TcpTalk(sent_ms=sent_age if acked > 1 else None, received_ms=received_age if received else None)


def _dump(request: bytes) -> Iterator[bytes]:
    """The messages that answer a dump request; nothing where the kernel refuses."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking:
            asking.settimeout(ANSWER_SECONDS)
            length = _HEADER.size + len(request)
            asking.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + request)
            yield from _dumped(asking)
    except OSError:
        return


def _dumped(asking: socket.socket) -> Iterator[bytes]:
    left = MAX_DUMP_BYTES
    while left > 0:
        data = asking.recv(1 << 17)
        left -= len(data)
        for kind, payload in _messages(data):
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                return
            yield payload


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _ino(payload: bytes, at: int) -> int:
    return int(struct.unpack_from("=I", payload, at)[0]) if len(payload) >= at + 4 else 0


def _attribute(payload: bytes, at: int, wanted: int, least_bytes: int) -> bytes | None:
    """The value of one attribute after the message's fixed part, if it is there and long enough."""
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if length < _ATTRIBUTE.size:
            return None
        if kind == wanted:
            value = payload[at + _ATTRIBUTE.size : at + length]
            return value if len(value) >= least_bytes else None
        at += (length + 3) & ~3
    return None
