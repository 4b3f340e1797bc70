"""Which CPUs culpa itself keeps busy: where nobody watches these would idle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from culpa.collect.procfs import PROC

_UTIME, _STIME, _PROCESSOR = 11, 12, 36
"""Fields 14, 15 and 39 of /proc/PID/task/TID/stat, counted from behind the name."""
_LEAST_FIELDS: Final = _PROCESSOR + 1


class OwnUse:
    """CPU time (ticks, as in /proc/stat) of this process's threads so far, by the CPU each was on at each look.

    A thread that moved between two looks is charged to the later CPU.
    """

    def __init__(self, proc_root: Path = PROC) -> None:
        self._tasks = proc_root / "self" / "task"
        self._known: dict[str, int] = {}
        self._ticks: Counter[int] = Counter()

    def look(self) -> Mapping[int, int]:
        """By CPU, since the first look."""
        is_first, now = not self._known, self._threads()
        for tid, (cpu, ticks) in now.items():
            if not is_first:
                self._ticks[cpu] += max(0, ticks - self._known.get(tid, 0))
        self._known = {tid: ticks for tid, (_, ticks) in now.items()}
        return dict(self._ticks)

    def _threads(self) -> Mapping[str, tuple[int, int]]:
        found = {}
        with suppress(FileNotFoundError):  # no /proc that tells
            for task in self._tasks.iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                    fields = (task / "stat").read_bytes().rpartition(b")")[2].split()
                    if len(fields) >= _LEAST_FIELDS:
                        found[task.name] = int(fields[_PROCESSOR]), int(fields[_UTIME]) + int(fields[_STIME])
        return found
