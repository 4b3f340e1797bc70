"""One thread under the sampler: its /proc files kept open, read again only when it may have moved.

`schedstat` counts how often a thread got a CPU and `syscall` says `running` as soon as it is runnable. While both read
the same as before, the thread has slept on in the same call, and nothing else needs to be read.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from culpa.collect.openfiles import OpenFile, OpenFiles
from culpa.collect.procfs import parse_stat, parse_syscall, parse_wchan
from culpa.syscalls import ON_FD, SLEEPS_IN, Numbers

_FILE_BYTES = 1024
"""Each of these files is one line; stat, the longest, is below 400 bytes."""
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
_LASTING = frozenset("SDTt")
"""States that a thread leaves only by becoming runnable."""
FILES_PER_THREAD: Final = 4


class ThreadGone(Exception):
    """The thread has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look at a thread said. `idle`: asleep in a call that waits for work, or dead."""

    state: str
    nr: int | None = None
    arg0: int | None = None
    wchan: str | None = None
    file: OpenFile | None = None
    idle: bool = False


class WatchedThread:
    """A thread and what it was last seen doing."""

    __slots__ = (
        "_before",
        "_can_idle",
        "_directory",
        "_files",
        "_keep_open",
        "_on_fd",
        "_open",
        "last",
        "pid",
        "refused",
        "tid",
    )

    def __init__(
        self, proc_root: Path, pid: int, tid: int, *, numbers: Numbers, files: OpenFiles, keep_open: bool
    ) -> None:
        self.pid = pid
        self.tid = tid
        self.last: Seen | None = None
        self.refused: set[str] = set()
        self._on_fd = numbers.of(ON_FD)
        self._can_idle = numbers.of(SLEEPS_IN) if numbers.known else None
        self._files = files
        self._keep_open = keep_open
        self._directory = f"{proc_root}/{pid}/task/{tid}"
        self._open: dict[str, int] = {}
        self._before = b""

    def look(self) -> Seen:
        """What the thread does now; the same object as before if it cannot have moved since.

        Raises:
            ThreadGone: it has ended.
        """
        sched, call = self._read("schedstat"), self._read("syscall")
        now = sched + call
        unmoved = now == self._before and self.last is not None and self.last.state in _LASTING
        # Without counters or call nothing tells two waits apart.
        if not (unmoved and call and sched and not sched.endswith(b" 0\n")):
            self.last = self._look_closely(call)
        self._before = now
        assert self.last is not None
        return self.last

    def comm(self) -> str | None:
        """Its name."""
        stat = parse_stat(self._read("stat"))
        return stat.comm if stat else None

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _look_closely(self, raw_call: bytes) -> Seen:
        stat = parse_stat(self._read("stat"))
        if stat is None or stat.state in "ZXx":
            raise ThreadGone
        if stat.state not in _LASTING:
            return Seen(state=stat.state, idle=stat.state != "R")
        call = parse_syscall(raw_call)
        if call.running and raw_call:
            call = parse_syscall(self._read("syscall"))  # it fell asleep between the two files
        arg0 = call.args[0] if call.args else None
        on_fd = call.nr in self._on_fd and arg0 is not None and arg0 < 1 << 31
        waits = self._can_idle is None or not raw_call or call.nr in self._can_idle
        return Seen(
            state=stat.state,
            nr=call.nr,
            arg0=arg0,
            wchan=parse_wchan(self._read("wchan")),
            file=self._files.look(self.pid, arg0) if on_fd and arg0 is not None else None,
            idle=stat.state == "S" and waits,
        )

    def _read(self, name: str) -> bytes:
        """One file, empty where it is refused or the kernel does not have it."""
        try:
            descriptor = self._open.get(name)
            if descriptor is not None:
                return os.pread(descriptor, _FILE_BYTES, 0)
            return self._read_new(name)
        except OSError as problem:
            if problem.errno in _REFUSED:
                self.refused.add(name)
                return b""
            if problem.errno == errno.ENOENT and name != "stat" and Path(self._directory).exists():
                return b""
            if problem.errno in {errno.ENOENT, errno.ESRCH}:
                raise ThreadGone from problem
            raise

    def _read_new(self, name: str) -> bytes:
        descriptor = os.open(f"{self._directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        if self._keep_open:
            self._open[name] = descriptor
            return os.pread(descriptor, _FILE_BYTES, 0)
        try:
            return os.pread(descriptor, _FILE_BYTES, 0)
        finally:
            os.close(descriptor)
