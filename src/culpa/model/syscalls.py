"""System call numbers to names, and the few classes of calls that the wait graph tells apart.

Only calls that the model or a report names are listed; numbers from arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h (aarch64, riscv64).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from culpa.model.axis import Bools, Int64s

X86_64: Mapping[int, str] = {
    0: "read", 1: "write", 2: "open", 3: "close", 4: "stat", 5: "fstat", 7: "poll", 8: "lseek", 9: "mmap", 11: "munmap",
    17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev", 23: "select", 24: "sched_yield", 26: "msync", 34: "pause",
    35: "nanosleep", 40: "sendfile", 42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg",
    47: "recvmsg", 56: "clone", 57: "fork", 58: "vfork", 59: "execve", 61: "wait4", 65: "semop", 72: "fcntl",
    73: "flock", 74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate", 78: "getdents", 82: "rename",
    83: "mkdir", 84: "rmdir", 85: "creat", 87: "unlink", 128: "rt_sigtimedwait", 130: "rt_sigsuspend", 162: "sync",
    202: "futex", 208: "io_getevents", 217: "getdents64", 220: "semtimedop", 230: "clock_nanosleep", 232: "epoll_wait",
    247: "waitid", 257: "openat", 262: "newfstatat", 263: "unlinkat", 264: "renameat", 270: "pselect6", 271: "ppoll",
    275: "splice", 277: "sync_file_range", 281: "epoll_pwait", 285: "fallocate", 288: "accept4", 295: "preadv",
    296: "pwritev", 299: "recvmmsg", 306: "syncfs", 307: "sendmmsg", 316: "renameat2", 326: "copy_file_range",
    327: "preadv2", 328: "pwritev2", 332: "statx", 426: "io_uring_enter", 435: "clone3",
    437: "openat2",
    441: "epoll_pwait2", 449: "futex_waitv",
}  # fmt: skip
GENERIC: Mapping[int, str] = {
    22: "epoll_pwait", 25: "fcntl", 32: "flock", 35: "unlinkat", 38: "renameat", 45: "truncate", 46: "ftruncate",
    47: "fallocate", 56: "openat", 57: "close", 61: "getdents64", 62: "lseek", 63: "read", 64: "write", 65: "readv",
    66: "writev", 67: "pread64", 68: "pwrite64", 69: "preadv", 70: "pwritev", 71: "sendfile", 72: "pselect6",
    73: "ppoll", 76: "splice", 79: "newfstatat", 80: "fstat", 81: "sync", 82: "fsync", 83: "fdatasync",
    84: "sync_file_range",
    95: "waitid", 98: "futex", 101: "nanosleep", 115: "clock_nanosleep", 124: "sched_yield", 133: "rt_sigsuspend",
    137: "rt_sigtimedwait", 192: "semtimedop", 193: "semop", 202: "accept", 203: "connect", 206: "sendto",
    207: "recvfrom", 211: "sendmsg", 212: "recvmsg", 220: "clone", 221: "execve", 222: "mmap", 227: "msync",
    242: "accept4", 243: "recvmmsg", 260: "wait4", 267: "syncfs", 269: "sendmmsg", 276: "renameat2",
    285: "copy_file_range", 286: "preadv2", 287: "pwritev2", 291: "statx", 426: "io_uring_enter", 435: "clone3",
    437: "openat2",
    441: "epoll_pwait2", 449: "futex_waitv",
}  # fmt: skip
BY_MACHINE: Mapping[str, Mapping[int, str]] = {"x86_64": X86_64, "aarch64": GENERIC, "riscv64": GENERIC}

SYNC = frozenset({"fsync", "fdatasync", "sync_file_range", "syncfs", "sync", "msync"})
FILE_IO = frozenset(
    {
        "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "open",
        "openat", "openat2", "creat", "close", "stat", "fstat", "newfstatat", "statx", "lseek", "truncate", "ftruncate",
        "fallocate", "unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "rmdir", "getdents",
        "getdents64", "copy_file_range", "sendfile", "splice",
    }
)  # fmt: skip
MANY_WAIT = frozenset({"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"})
"""Waits on several files at once; a return value of 0 says that the timer ended it."""
RECEIVE = frozenset({"read", "readv", "recvfrom", "recvmsg", "recvmmsg"})
SEND = frozenset({"write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice"})
ACCEPT = frozenset({"accept", "accept4"})
SLEEP = frozenset({"nanosleep", "clock_nanosleep"})
PAUSE = frozenset({"pause", "rt_sigsuspend", "rt_sigtimedwait"})
CHILD = frozenset({"wait4", "waitid"})
FUTEX = frozenset({"futex", "futex_waitv"})

FUTEX_COMMAND_MASK = 0x7F
FUTEX_WAIT_BITSET = 9
"""glibc waits with it on condition variables and semaphores, with plain FUTEX_WAIT on mutexes (uapi/linux/futex.h)."""
ETIMEDOUT = 110


class Numbers:
    """The calls of one machine (uname -m)."""

    __slots__ = ("_names",)

    def __init__(self, machine: str) -> None:
        self._names = BY_MACHINE.get(machine, {})

    def name(self, nr: int) -> str:
        """The call's name, or `syscall N`."""
        return self._names.get(nr, f"syscall {nr}")

    def among(self, nrs: Int64s, names: Iterable[str]) -> Bools:
        """Which of the numbers are calls of the class."""
        wanted = frozenset(names)
        return np.isin(nrs, [nr for nr, name in self._names.items() if name in wanted])
