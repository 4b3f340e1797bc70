"""culpa's place among the programs of a host that has work of its own: after them where that can wait.

While it watches, its clocks run and its buffers fill, so that it takes part like any other program. What it does before
and after, loading itself, looking around and judging, waits for a CPU that nobody else wants.

Linux keeps these settings by thread; threads and processes inherit those of the thread that starts them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from culpa.units import NS_PER_SECOND

LOOK_SECONDS: Final = 0.3
MOST_WAITING: Final = 0.75
"""Of the time between two looks: a thread of culpa that gets less than a quarter of a CPU is too slow to be of use."""
LATE: Final = 2.0
"""Times that long: whoever looks did not get to it."""
LESS: Final = 5
"""By so much nicer than it was started: a third of the CPU of a program beside it that wants all of it."""
LEAST_URGENT: Final = 19
SELF: Final = Path("/proc/self")
_ORDINARY: Final = os.sched_param(0)


class Priority:
    """Of all threads of the calling process."""

    def __init__(self) -> None:
        self._usual = os.getpriority(os.PRIO_PROCESS, 0)
        self._lock = threading.Lock()
        self._took_part = threading.Event()
        self._took_part.set()

    def give_way(self) -> None:
        """Run, from now on, only where no other program wants to; once that is too little, less than others.

        All stays as it is where this could not be taken back (which needs root), where somebody has chosen how culpa is
        to be scheduled, and where /proc does not tell its own threads.
        """
        if os.sched_getscheduler(0) != os.SCHED_OTHER or not _own_threads() or not self._can_take_back():
            return
        self._took_part = threading.Event()
        with self._lock:
            _set_all(os.SCHED_IDLE, min(LEAST_URGENT, self._usual + LESS))
        watcher = threading.Thread(
            target=self._until_starved, args=(self._took_part,), name="culpa-priority", daemon=True
        )
        watcher.start()

    @contextmanager
    def taking_part(self) -> Iterator[None]:
        """Run like any other program for as long as this lasts."""
        gave_way = not self._took_part.is_set()
        self._take_part()
        try:
            yield
        finally:
            if gave_way:
                self.give_way()

    def _take_part(self) -> None:
        self._took_part.set()
        if os.sched_getscheduler(0) == os.SCHED_IDLE or os.getpriority(os.PRIO_PROCESS, 0) != self._usual:
            with self._lock:
                _set_all(os.SCHED_OTHER, self._usual)

    def _until_starved(self, took_part: threading.Event) -> None:
        _set(0, os.SCHED_OTHER, self._usual)
        waited, then = _waited_ns(), time.monotonic_ns()
        while not took_part.wait(LOOK_SECONDS):
            seen, now = _waited_ns(), time.monotonic_ns()
            # A thread without a CPU may hold Python's lock: then this one is late itself.
            late = now - then > LATE * LOOK_SECONDS * NS_PER_SECOND
            if late or any(ns - waited.get(tid, 0) > MOST_WAITING * (now - then) for tid, ns in seen.items()):
                with self._lock:
                    if not took_part.is_set():
                        _set_all(os.SCHED_OTHER, min(LEAST_URGENT, self._usual + LESS))
                return
            waited, then = seen, now

    def _can_take_back(self) -> bool:
        """Tried in a thread that ends: a container's root may lack the right."""
        able = []

        def attempt() -> None:
            _set(0, os.SCHED_IDLE, min(LEAST_URGENT, self._usual + LESS))
            with suppress(PermissionError):
                _set(0, os.SCHED_OTHER, self._usual)
                able.append(True)

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        return bool(able)


def _own_threads() -> list[Path]:
    """Those of this process in /proc; none where it is not mounted, or is that of another pid namespace, in which these
    numbers are somebody else's.
    """
    try:
        if str(SELF.readlink()) != str(os.getpid()):
            return []
        return list((SELF / "task").iterdir())
    except FileNotFoundError:
        return []


def _set_all(policy: int, nice: int) -> None:
    for task in _own_threads():
        with suppress(ProcessLookupError):  # it has ended
            _set(int(task.name), policy, nice)


def _set(tid: int, policy: int, nice: int) -> None:
    """Of one thread; 0 is the calling one. The kernel heeds the nice value under the ordinary policy only."""
    os.setpriority(os.PRIO_PROCESS, tid, nice)
    os.sched_setscheduler(tid, policy, _ORDINARY)


def _waited_ns() -> dict[int, int]:
    """For how long each thread of this process was ready to run and had no CPU, up to when it last got one; zero where
    the kernel does not count.
    """
    found = {}
    for task in _own_threads():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found[int(task.name)] = int(task.joinpath("schedstat").read_bytes().split()[1])
    return found


PRIORITY: Final = Priority()
