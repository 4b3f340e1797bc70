"""System calls by number and name, and the few classes of calls that culpa tells apart.

Only calls that some room names are listed. Numbers from arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h (aarch64, riscv64, loongarch64). What the probes must know of each call's arguments
stands in `collect/trace/calls.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

_NUMBERS: Mapping[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "munmap": (11, 215), "ioctl": (16, 29),
    "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "select": (23, None),
    "sched_yield": (24, 124), "msync": (26, 227), "pause": (34, None), "nanosleep": (35, 101), "sendfile": (40, 71),
    "connect": (42, 203), "accept": (43, 202), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "shutdown": (48, 210), "clone": (56, 220), "fork": (57, None), "vfork": (58, None),
    "execve": (59, 221), "wait4": (61, 260), "semop": (65, 193), "msgrcv": (70, 188), "fcntl": (72, 25),
    "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83), "truncate": (76, 45), "ftruncate": (77, 46),
    "getdents": (78, None), "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "creat": (85, None),
    "unlink": (87, None), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sync": (162, 81),
    "readahead": (187, 213), "futex": (202, 98), "io_getevents": (208, 4), "io_submit": (209, 2),
    "getdents64": (217, 61), "restart_syscall": (219, 128), "semtimedop": (220, 192), "fadvise64": (221, 223),
    "clock_nanosleep": (230, 115), "epoll_wait": (232, None), "epoll_ctl": (233, 21), "waitid": (247, 95),
    "openat": (257, 56), "newfstatat": (262, 79), "unlinkat": (263, 35), "renameat": (264, 38), "pselect6": (270, 72),
    "ppoll": (271, 73), "splice": (275, 76), "tee": (276, 77), "sync_file_range": (277, 84), "vmsplice": (278, 75),
    "epoll_pwait": (281, 22), "fallocate": (285, 47), "accept4": (288, 242), "preadv": (295, 69),
    "pwritev": (296, 70), "recvmmsg": (299, 243), "syncfs": (306, 267), "sendmmsg": (307, 269),
    "kill": (62, 129), "ptrace": (101, 117), "tkill": (200, 130), "tgkill": (234, 131), "renameat2": (316, 276),
    "copy_file_range": (326, 285), "preadv2": (327, 286), "pwritev2": (328, 287),
    "statx": (332, 291), "io_pgetevents": (333, 292), "io_uring_enter": (426, 426), "clone3": (435, 435),
    "openat2": (437, 437), "epoll_pwait2": (441, 441), "futex_waitv": (449, 449),
}  # fmt: skip
"""Name to number on x86_64 and on machines with the generic table."""
_COLUMN: Mapping[str, int] = {"x86_64": 0, "aarch64": 1, "riscv64": 1, "loongarch64": 1}

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
RING_WAIT = frozenset({"io_uring_enter"})
ASYNC_WAIT = RING_WAIT | {"io_getevents", "io_pgetevents"}
"""Waits for requests that the kernel works on beside the thread."""
RECEIVE = frozenset({"read", "readv", "recvfrom", "recvmsg", "recvmmsg"})
SEND = frozenset({"write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice"})
CLOSE = frozenset({"close"})
FILE_LOCK = frozenset({"flock", "fcntl"})
"""Asleep in one of these, a thread waits for the lock of a file: no other command of fcntl(2) sleeps for long."""
OPEN = frozenset({"open", "openat", "openat2"})
SEND_SIGNAL = frozenset({"kill", "tkill", "tgkill"})
SEND_TO_THREAD = frozenset({"tgkill"})
"""Process, thread, signal; the others have the signal second."""
TRACE = frozenset({"ptrace"})
STOP_SIGNALS = frozenset({19, 20, 21, 22})
"""SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU (asm-generic/signal.h, the same on x86)."""
ACCEPT = frozenset({"accept", "accept4"})
CONNECT = frozenset({"connect"})
SLEEP = frozenset({"nanosleep", "clock_nanosleep"})
PAUSE = frozenset({"pause", "rt_sigsuspend", "rt_sigtimedwait"})
CHILD = frozenset({"wait4", "waitid"})
FUTEX = frozenset({"futex"})
FUTEX_MANY = frozenset({"futex_waitv"})
"""A wait on several words at once; which ones lies in memory, not in the call."""

FUTEX_COMMAND_MASK, FUTEX_PRIVATE = 0x7F, 0x80
FUTEX_WAIT, FUTEX_WAIT_BITSET = 0, 9
"""glibc waits with the second on condition variables and semaphores, with the first on mutexes (uapi/linux/futex.h)."""
FUTEX_LOCKS = frozenset({6, 13})
"""FUTEX_LOCK_PI and FUTEX_LOCK_PI2."""
FUTEX_WAITS = frozenset({FUTEX_WAIT, FUTEX_WAIT_BITSET, 11}) | FUTEX_LOCKS
"""11: WAIT_REQUEUE_PI."""
FUTEX_WAKES = frozenset({1, 3, 4, 5, 7, 10, 12})
"""WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, UNLOCK_PI, WAKE_BITSET, CMP_REQUEUE_PI."""
FUTEX_MOVES = frozenset({3, 4, 12})
"""REQUEUE, CMP_REQUEUE and CMP_REQUEUE_PI: whom they do not wake they move to another word."""
FUTEX_UNLOCK_PI = 7
FUTEX_CONTENDED = 2
"""What a mutex's word holds while somebody waits for it: glibc, musl, Rust, Go (Drepper, "Futexes are tricky")."""
EAGAIN, ETIMEDOUT = 11, 110
ON_FD = frozenset(
    {
        "accept", "accept4", "close", "connect", "copy_file_range", "epoll_ctl", "epoll_pwait", "epoll_pwait2",
        "epoll_wait", "fadvise64", "fallocate", "fcntl", "fdatasync", "flock", "fstat", "fsync", "ftruncate",
        "getdents", "getdents64", "io_uring_enter", "ioctl", "lseek", "pread64", "preadv", "preadv2", "pwrite64",
        "pwritev", "pwritev2", "read", "readahead", "readv", "recvfrom", "recvmmsg", "recvmsg", "sendfile",
        "sendmmsg", "sendmsg", "sendto", "shutdown", "splice", "sync_file_range", "syncfs", "tee", "vmsplice",
        "write", "writev",
    }
)  # fmt: skip
"""The first argument is an fd."""
SLEEPS_IN = frozenset(
    {
        "accept", "accept4", "clock_nanosleep", "epoll_pwait", "epoll_pwait2", "epoll_wait", "futex", "futex_waitv",
        "io_getevents", "io_pgetevents", "io_uring_enter", "msgrcv", "nanosleep", "pause", "poll", "ppoll", "pselect6",
        "restart_syscall", "rt_sigsuspend", "rt_sigtimedwait", "select", "semtimedop", "wait4", "waitid",
    }
)  # fmt: skip
"""Asleep in it, a thread waits for work, a timer, a child or another thread."""


NARROW = 1 << 29
"""Set in the number of a call of a 32-bit program: those have numbers of their own (include/asm/unistd_32.h)."""


class Numbers:
    """The calls of one machine (uname -m); on a machine that is not listed nothing is known."""

    __slots__ = ("_names", "_numbers", "known")

    def __init__(self, machine: str) -> None:
        column = _COLUMN.get(machine)
        self.known = column is not None
        pairs = () if column is None else ((name, numbers[column]) for name, numbers in _NUMBERS.items())
        self._numbers = {name: number for name, number in pairs if number is not None}
        self._names = {number: name for name, number in self._numbers.items()}

    def name(self, nr: int) -> str:
        """The call's name, or `syscall N`; `32-bit syscall N` for those of 32-bit programs."""
        if nr >= NARROW:
            return f"32-bit syscall {nr & ~NARROW}"
        return self._names.get(nr, f"syscall {nr}")

    def of(self, names: Collection[str]) -> frozenset[int]:
        """The numbers of a class of calls, those that this machine has."""
        return frozenset(self._numbers[name] for name in names if name in self._numbers)
