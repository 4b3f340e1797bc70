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
TASKS: Final = Path("/proc/self/task")
_ORDINARY: Final = os.sched_param(0)


class Priority:
    """Of the calling process: `give_way` once, at the beginning, in its first thread."""

    def __init__(self) -> None:
        self._gave_way = False
        self._lock = threading.Lock()

    def give_way(self) -> None:
        """Run, from now on, only where no other program wants to; in full again once that is too little.

        All stays as it is where this could not be taken back (which needs root), or where somebody has chosen how culpa
        is to be scheduled.
        """
        if os.sched_getscheduler(0) != os.SCHED_OTHER or not _can_take_back():
            return
        os.sched_setscheduler(0, os.SCHED_IDLE, _ORDINARY)
        self._gave_way = True
        threading.Thread(target=self._until_starved, name="culpa-priority", daemon=True).start()

    def be_prompt(self) -> None:
        """The calling thread measures time, or empties what would overflow: it is as urgent as any."""
        if self._gave_way:
            os.sched_setscheduler(0, os.SCHED_OTHER, _ORDINARY)

    def release(self, pid: int) -> None:
        """A program that was just started is not to give way with culpa."""
        if self._gave_way:
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(pid, os.SCHED_OTHER, _ORDINARY)

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


def insist() -> None:
    """Every thread of this process as urgent as any."""
    for task in TASKS.iterdir():
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setscheduler(int(task.name), os.SCHED_OTHER, _ORDINARY)


def _can_take_back() -> bool:
    """Tried in a thread that ends: a container's root may lack the right."""
    able = []

    def attempt() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, _ORDINARY)
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, _ORDINARY)
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
