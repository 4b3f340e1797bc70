"""Which CPUs the watched threads may run on, where these are not all (sched_setaffinity(2), cpuset(7))."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import polars as pl

from culpa.capture.schema import AFFINITY
from culpa.collect.cgroups import UNIFIED, Hierarchies, read_membership
from culpa.collect.procfs import PROC, numbers_in, read_text
from culpa.units import format_cpus, parse_cpus

SYS: Final = Path("/sys")
MOST_NS: Final = 20_000_000
"""For one look: some ten thousand threads."""
MOST_ROWS: Final = 20_000
_GROUP_FILES: Final = (("cpuset", "cpuset.effective_cpus"), (UNIFIED, "cpuset.cpus.effective"))
"""Of version 1 and 2 of control groups (kernel/cgroup/cpuset.c)."""


class Affinities:
    """Looks at threads again and again, and keeps what was seen last of each: a command is gone at the end."""

    def __init__(self, *, proc_root: Path = PROC, sys_root: Path = SYS) -> None:
        self._proc = proc_root
        # What is set aside (isolcpus=) no thread may use that does not ask for it.
        online, isolated = (_cpus_in(sys_root / "devices/system/cpu" / name) for name in ("online", "isolated"))
        self._every = online - isolated
        self._seen: dict[int, tuple[int, int, str]] = {}
        self._hierarchies = Hierarchies.read(proc_root)

    def look(self, pids: Collection[int]) -> None:
        """Read it of every thread of these processes; of as many as a short while allows."""
        ts_ns = time.monotonic_ns()
        for pid, tid in self._threads(pids):
            try:
                cpus = os.sched_getaffinity(tid)
            except OSError:
                continue
            if cpus >= self._every:
                self._seen.pop(tid, None)
            elif len(self._seen) < MOST_ROWS:
                self._seen[tid] = (ts_ns, pid, format_cpus(cpus))
            if time.monotonic_ns() - ts_ns > MOST_NS:
                return

    def rows(self) -> pl.DataFrame:
        """`schema.AFFINITY`."""
        groups = {pid: self._group(pid) for pid in {pid for _, pid, _ in self._seen.values()}}
        found = [
            (ts_ns, tid, pid, cpus, _if_as_narrow(groups[pid], cpus)) for tid, (ts_ns, pid, cpus) in self._seen.items()
        ]
        return AFFINITY.frame({name: [row[at] for row in found] for at, name in enumerate(AFFINITY.schema)})

    def _threads(self, pids: Collection[int]) -> Iterator[tuple[int, int]]:
        for pid in sorted(pids):
            for tid in numbers_in(f"{self._proc}/{pid}/task"):
                yield pid, tid

    def _group(self, pid: int) -> tuple[str, frozenset[int]] | None:
        """The innermost control group that says which CPUs it has, and these; None where none does."""
        membership = read_membership(self._proc, pid)
        for controller, file in _GROUP_FILES if membership else ():
            path = membership.paths.get(controller) if membership else None
            for directory in self._hierarchies.directories(controller, path) if path else ():
                if cpus := _cpus_in(directory / file):
                    return str(directory), cpus
        return None


def _cpus_in(file: Path) -> frozenset[int]:
    """The CPUs that a file of /sys lists; none where it is missing or empty."""
    return parse_cpus((read_text(file) or "").strip()) or frozenset()


def _if_as_narrow(group: tuple[str, frozenset[int]] | None, cpus: str) -> str | None:
    """The group, if a thread that has these CPUs has all that the group has."""
    return group[0] if group is not None and group[1] <= (parse_cpus(cpus) or frozenset()) else None
