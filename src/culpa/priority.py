"""culpa's place among the programs of a host that has work of its own: after them, as long as that leaves it something.

Linux keeps these settings by thread; threads and processes inherit those of the thread that starts them.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
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
TASKS: Final = Path("/proc/self/task")
_ORDINARY: Final = os.sched_param(0)


class Priority:
    """Of the calling process: `give_way` once, at the beginning, in its first thread."""

    def __init__(self) -> None:
        self._usual: int | None = None

    def give_way(self) -> None:
        """Run, from now on, only where no other program wants to; once that is too little, less than others.

        All stays as it is where this could not be taken back (which needs root), or where somebody has chosen how culpa
        is to be scheduled.
        """
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        if os.sched_getscheduler(0) != os.SCHED_OTHER or not _can_take_back(usual):
            return
        _wait_behind_others(usual)
        self._usual = usual
        threading.Thread(target=self._until_starved, name="culpa-priority", daemon=True).start()

    def be_prompt(self) -> None:
        """The calling thread measures time, or empties what would overflow: it is as urgent as any."""
        if self._usual is not None:
            _queue_with_others(0, self._usual)

    def release(self, pid: int) -> None:
        """A program that was just started is not to give way with culpa."""
        if self._usual is not None:
            with suppress(ProcessLookupError):  # it has ended
                _queue_with_others(pid, self._usual)

    def _until_starved(self) -> None:
        self.be_prompt()
        waited, then = _waited_ns(), time.monotonic_ns()
        while True:
            time.sleep(LOOK_SECONDS)
            seen, now = _waited_ns(), time.monotonic_ns()
            # A thread without a CPU may hold Python's lock: then this one is late itself.
            late = now - then > LATE * LOOK_SECONDS * NS_PER_SECOND
            if late or any(ns - waited.get(tid, 0) > MOST_WAITING * (now - then) for tid, ns in seen.items()):
                return insist()
            waited, then = seen, now


def _wait_behind_others(usual: int) -> None:
    """The calling thread: the kernel heeds the second where the first was taken back."""
    os.sched_setscheduler(0, os.SCHED_IDLE, _ORDINARY)
    os.setpriority(os.PRIO_PROCESS, 0, min(LEAST_URGENT, usual + LESS))


def _queue_with_others(tid: int, usual: int) -> None:
    os.setpriority(os.PRIO_PROCESS, tid, usual)
    os.sched_setscheduler(tid, os.SCHED_OTHER, _ORDINARY)


def insist() -> None:
    """All threads of this process take part again, those that waited behind all others with less weight."""
    for task in TASKS.iterdir():
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setscheduler(int(task.name), os.SCHED_OTHER, _ORDINARY)


def _can_take_back(usual: int) -> bool:
    """Tried in a thread that ends: a container's root may lack the right."""
    able = []

    def attempt() -> None:
        _wait_behind_others(usual)
        with suppress(PermissionError):
            _queue_with_others(0, usual)
            able.append(True)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return bool(able)


def _waited_ns() -> dict[int, int]:
    """For how long each thread of this process was ready to run and had no CPU, up to when it last got one; zero where
    the kernel does not count.
    """
    found = {}
    for task in TASKS.iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found[int(task.name)] = int(task.joinpath("schedstat").read_bytes().split()[1])
    return found


PRIORITY: Final = Priority()
