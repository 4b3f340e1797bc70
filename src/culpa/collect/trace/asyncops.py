"""What the numbers of asynchronous operations mean: io_uring's opcodes, and those of libaio's iocbs.

Numbers from include/uapi/linux/io_uring.h (enum io_uring_op) and include/uapi/linux/aio_abi.h. Operations that do the
same thing have one name.
"""

from __future__ import annotations

from typing import Final

_RING: Final = (
    "nop", "read", "write", "fsync", "read", "write", "poll", "poll_remove", "sync_file_range", "send", "recv",
    "timeout", "timeout_remove", "accept", "cancel", "link_timeout", "connect", "fallocate", "openat", "close",
    "files_update", "statx", "read", "write", "fadvise", "madvise", "send", "recv", "openat", "epoll_ctl", "splice",
    "provide_buffers", "remove_buffers", "tee", "shutdown", "renameat", "unlinkat", "mkdirat", "symlinkat", "linkat",
    "msg_ring", "fsetxattr", "setxattr", "fgetxattr", "getxattr", "socket", "uring_cmd", "send", "send", "read",
    "waitid", "futex_wait", "futex_wake", "futex_waitv", "fixed_fd_install", "ftruncate", "bind", "listen", "recv",
    "epoll_wait", "read", "write", "pipe",
)  # fmt: skip
_IOCB: Final = {0: "read", 1: "write", 2: "fsync", 3: "fsync", 5: "poll", 6: "nop", 7: "read", 8: "write"}
_WITHOUT_FILE: Final = frozenset(
    {
        "nop", "poll_remove", "timeout", "timeout_remove", "cancel", "link_timeout", "openat", "close", "files_update",
        "statx", "madvise", "epoll_ctl", "provide_buffers", "remove_buffers", "renameat", "unlinkat", "mkdirat",
        "symlinkat", "linkat", "msg_ring", "setxattr", "getxattr", "socket", "waitid", "futex_wait", "futex_wake",
        "futex_waitv", "pipe",
    }
)  # fmt: skip
"""Their fd, if they have one, names no file that they read, write or wait for."""


def name(number: int, *, by_iocb: bool) -> str:
    """The operation's name; `operation N` of one that is newer than this table."""
    if by_iocb:
        return _IOCB.get(number, f"operation {number}")
    return _RING[number] if number < len(_RING) else f"operation {number}"


def on_file() -> int:
    """A bit for each opcode of io_uring whose fd names the file it works on."""
    return sum(1 << number for number, op in enumerate(_RING) if op not in _WITHOUT_FILE)
