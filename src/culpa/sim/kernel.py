"""The simulated kernel's core: the ways in and out of system calls, numbers, locks and helper channels.

Stands on `scheduler`; `sockets` and `storage` stand on it, `behaviour` makes threads out of all three. Every system
call is a generator of steps that writes its own row into the log. System call numbers are those of x86_64.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from culpa.sim.log import Cause, Job, Log, Syscall
from culpa.sim.program import Program
from culpa.sim.scheduler import Pause, Run, Scheduler
from culpa.units import dev_t

ChannelKind = Literal["pipe", "queue"]
T = TypeVar("T")
Does = Generator[Run | Pause, None, T]
"""Steps that end in a value."""

READ, WRITE, CLOSE, POLL, PREAD64, PAUSE, SENDTO, RECVFROM, CONNECT = 0, 1, 3, 7, 17, 34, 44, 45, 42
FSYNC, FDATASYNC, FUTEX, CLOCK_NANOSLEEP, EPOLL_WAIT, ACCEPT4 = 74, 75, 202, 230, 232, 288
IO_GETEVENTS, IO_SUBMIT, IO_URING_ENTER = 208, 209, 426
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129
CONTENDED = 2
"""What a mutex's word holds while somebody waits for it."""

FILE_DEV = dev_t(7, 5)
SOCKET_DEV, PIPE_DEV, ANON_DEV = dev_t(0, 8), dev_t(0, 14), dev_t(0, 15)
ANON_INO = 1060
IDLE = Cause(kind="idle")


@dataclass(slots=True, kw_only=True)
class Channel:
    """The way to a helper thread and back: two pipes, or two words of memory."""

    kind: ChannelKind
    helper_tid: int
    ino: int
    back_ino: int
    uaddr: int
    back_uaddr: int
    jobs: deque[Job] = field(default_factory=deque)


@dataclass(slots=True, kw_only=True)
class Lock:
    """A futex lock, or one of the kernel (which has no `uaddr`): whoever comes first after a release gets it."""

    number: int
    uaddr: int
    holder: int | None = None
    waiters: deque[int] = field(default_factory=deque)


@dataclass(slots=True, kw_only=True)
class Kernel:
    """What every system call needs, and what threads of one process share."""

    program: Program
    sched: Scheduler
    log: Log
    channels: dict[str, Channel] = field(default_factory=dict)
    locks: dict[str, Lock] = field(default_factory=dict)
    _numbers: int = 5000
    _fds: dict[int, int] = field(default_factory=dict)

    def number(self) -> int:
        """A number nobody has yet: an inode, a port."""
        self._numbers += 1
        return self._numbers

    def fd(self, pid: int) -> int:
        """A file descriptor the process has not used yet."""
        self._fds[pid] = self._fds.get(pid, 2) + 1
        return self._fds[pid]

    def user(self) -> Run:
        """The moment between two system calls."""
        return Run(ns=self.sched.draw(self.program.machine.user_ns))

    def cost(self) -> Run:
        """The CPU that a piece of a system call takes."""
        return Run(ns=self.sched.draw(self.program.machine.syscall_ns))

    def file(self, path: str) -> int:
        """The inode of a file."""
        return self.log.files.setdefault(path, 100_000 + len(self.log.files))

    def enter(
        self,
        tid: int,
        nr: int,
        args: tuple[int, int, int],
        *,
        dev: int | None = None,
        ino: int | None = None,
        kind: str | None = None,
    ) -> Syscall:
        """A system call begins."""
        call = Syscall(tid=tid, nr=nr, enter_ns=self.sched.now, args=args, dev=dev, ino=ino, file_type=kind)
        self.log.syscalls.append(call)
        return call

    def leave(self, call: Syscall, ret: int) -> None:
        """It ends."""
        call.exit_ns, call.ret = self.sched.now, ret

    def waker(self, true: int | None) -> int | None:
        """The waker that a tracer sees: the true one, or as often as the machine says, whoever was interrupted."""
        rng = self.sched.rng
        return true if rng.random() < self.program.machine.true_wakers else rng.choice([self.sched.interrupted(), None])
