"""The ends of unix sockets, from the kernel's socket diagnosis (sock_diag(7), net/unix/diag.c).

/proc/net/unix lists unix sockets but not which two belong together; this read-only dump does, and needs no privilege.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

MAX_DUMP_BYTES = 64 << 20
ANSWER_SECONDS = 1.0

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_UDIAG_SHOW_PEER = 4
_UNIX_DIAG_PEER = 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_ATTRIBUTE = struct.Struct("=HH")
_MESSAGE_BYTES = 16
"""include/uapi/linux/{netlink,sock_diag,unix_diag}.h; struct unix_diag_msg is 16 bytes."""


def unix_peers() -> dict[int, int]:
    """Inode of the other end of each connected unix socket in culpa's network namespace; empty where refused.

    The dump is read-only and needs no privilege. It is missing on kernels without CONFIG_UNIX_DIAG.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking:
            asking.settimeout(ANSWER_SECONDS)
            body = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_PEER, 0, 0)
            header = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
            asking.send(header + body)
            return dict(_dumped_pairs(asking))
    except OSError:
        return {}


def _dumped_pairs(asking: socket.socket) -> Iterator[tuple[int, int]]:
    left = MAX_DUMP_BYTES
    while left > 0:
        data = asking.recv(1 << 17)
        left -= len(data)
        for kind, payload in _messages(data):
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                return
            pair = _pair_in(payload)
            if pair is not None:
                yield pair


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _pair_in(payload: bytes) -> tuple[int, int] | None:
    """(inode, peer's inode) of one struct unix_diag_msg with its attributes."""
    if len(payload) < _MESSAGE_BYTES:
        return None
    (ino,) = struct.unpack_from("=I", payload, 4)
    at = _MESSAGE_BYTES
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if length < _ATTRIBUTE.size:
            return None
        if kind == _UNIX_DIAG_PEER and at + 8 <= len(payload):
            return ino, int(struct.unpack_from("=I", payload, at + 4)[0])
        at += (length + 3) & ~3
    return None
