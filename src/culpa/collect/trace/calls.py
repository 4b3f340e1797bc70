"""What each system call's number says about its arguments, per machine.

Numbers from the kernel's own tables: arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl (arm64). The bits
are enum call_bits of bpf/events.h.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from culpa.collect.trace.events import NR_MAX

FD: Final = 1 << 0
FD_RETURN: Final = 1 << 1
FD_GONE: Final = 1 << 2
IN: Final = 1 << 3
OUT: Final = 1 << 4
BUFFER: Final = 1 << 5
VECTOR: Final = 1 << 6
MSGHDR: Final = 1 << 7
SOCKET: Final = 1 << 8
WAKES: Final = 1 << 9
SLEEPS: Final = 1 << 10
SUBMITS: Final = 1 << 11
TAKES: Final = 1 << 12
MANY: Final = 1 << 13
TO: Final = 1 << 14

MACHINES: Final = ("x86_64", "aarch64")

_CALLS: Final[tuple[tuple[str, int | None, int | None, int], ...]] = (
    ("read", 0, 63, FD | IN | BUFFER),
    ("write", 1, 64, FD | OUT | BUFFER),
    ("open", 2, None, FD_RETURN | WAKES),
    ("close", 3, 57, FD | FD_GONE),
    ("fstat", 5, 80, FD),
    ("lseek", 8, 62, FD),
    ("ioctl", 16, 29, FD),
    ("pread64", 17, 67, FD | IN | BUFFER),
    ("pwrite64", 18, 68, FD | OUT | BUFFER),
    ("readv", 19, 65, FD | IN | VECTOR),
    ("writev", 20, 66, FD | OUT | VECTOR),
    ("sendfile", 40, 71, FD | OUT),
    ("connect", 42, 203, FD | SOCKET),
    ("accept", 43, 202, FD | FD_RETURN | SOCKET),
    ("sendto", 44, 206, FD | OUT | BUFFER | TO),
    ("recvfrom", 45, 207, FD | IN | BUFFER | SOCKET),
    ("sendmsg", 46, 211, FD | OUT | MSGHDR),
    ("recvmsg", 47, 212, FD | IN | MSGHDR),
    ("shutdown", 48, 210, FD | WAKES),
    ("bind", 49, 200, FD),
    ("listen", 50, 201, FD),
    ("getsockname", 51, 204, FD),
    ("getpeername", 52, 205, FD),
    ("setsockopt", 54, 208, FD),
    ("getsockopt", 55, 209, FD),
    ("fcntl", 72, 25, FD | WAKES),
    ("flock", 73, 32, FD | WAKES),
    ("fsync", 74, 82, FD),
    ("fdatasync", 75, 83, FD),
    ("ftruncate", 77, 46, FD),
    ("getdents", 78, None, FD),
    ("creat", 85, None, FD_RETURN),
    ("fchmod", 91, 52, FD),
    ("fchown", 93, 55, FD),
    ("fstatfs", 138, 44, FD),
    ("readahead", 187, 213, FD),
    ("getdents64", 217, 61, FD),
    ("fadvise64", 221, 223, FD),
    ("epoll_wait", 232, None, FD),
    ("epoll_ctl", 233, 21, FD),
    ("openat", 257, 56, FD_RETURN | WAKES),
    ("splice", 275, 76, FD | IN),
    ("sync_file_range", 277, 84, FD),
    ("epoll_pwait", 281, 22, FD),
    ("fallocate", 285, 47, FD),
    ("timerfd_settime", 286, 86, FD),
    ("timerfd_gettime", 287, 87, FD),
    ("accept4", 288, 242, FD | FD_RETURN | SOCKET),
    ("preadv", 295, 69, FD | IN | VECTOR),
    ("pwritev", 296, 70, FD | OUT | VECTOR),
    ("recvmmsg", 299, 243, FD | SOCKET),
    ("syncfs", 306, 267, FD),
    ("sendmmsg", 307, 269, FD | OUT | MSGHDR | MANY),
    ("copy_file_range", 326, 285, FD),
    ("preadv2", 327, 286, FD | IN | VECTOR),
    ("pwritev2", 328, 287, FD | OUT | VECTOR),
    ("io_uring_enter", 426, 426, WAKES),
    ("io_submit", 209, 2, SUBMITS | WAKES),
    ("io_getevents", 208, 4, TAKES),
    ("io_pgetevents", 333, 292, TAKES),
    ("nanosleep", 35, 101, SLEEPS),
    ("clock_nanosleep", 230, 115, SLEEPS),
    ("msgsnd", 69, 189, WAKES),
    ("msgrcv", 70, 188, WAKES),
    ("semop", 65, 193, WAKES),
    ("semtimedop", 220, 192, WAKES),
    ("clone", 56, 220, WAKES),
    ("fork", 57, None, WAKES),
    ("vfork", 58, None, WAKES),
    ("execve", 59, 221, WAKES),
    ("exit", 60, 93, WAKES),
    ("kill", 62, 129, WAKES),
    ("tkill", 200, 130, WAKES),
    ("futex", 202, 98, WAKES),
    ("exit_group", 231, 94, WAKES),
    ("tgkill", 234, 131, WAKES),
    ("clone3", 435, 435, WAKES),
    ("futex_wake", 454, 454, WAKES),
    ("openat2", 437, 437, FD_RETURN | WAKES),
    ("epoll_pwait2", 441, 441, FD),
)


def kinds(machine: str) -> npt.NDArray[np.uint16]:
    """The bits of every system call of `machine`, by number; `NR_MAX` entries.

    Raises:
        KeyError: a machine whose numbers are not known here.
    """
    column = {"x86_64": 1, "aarch64": 2}[machine]
    table = np.zeros(NR_MAX, dtype=np.uint16)
    for row in _CALLS:
        number = row[column]
        if isinstance(number, int):
            table[number] = row[3]
    return table


def fd_numbers(machine: str) -> npt.NDArray[np.intp]:
    """The calls whose first argument is an fd."""
    return np.flatnonzero(kinds(machine) & FD)


def ring_numbers() -> list[int]:
    """The call that serves rings of io_uring: it has one number everywhere."""
    return [row[1] for row in _CALLS if row[0] == "io_uring_enter" and row[1] is not None]


def sending_numbers(machine: str) -> npt.NDArray[np.intp]:
    """The calls that move bytes to their fd."""
    return np.flatnonzero(kinds(machine) & OUT)
