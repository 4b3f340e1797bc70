"""What the host knows about one Redis process beside its waits (`schema.COUNTERS`), and how late the host lets a busy
program run.

`object` is the process. smaps_rollup stalls a process while it is read, so it is read once.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import polars as pl

from culpa.capture.schema import COUNTERS
from culpa.collect import clocksource, numa
from culpa.collect.procfs import PROC, parse_stat, read_bounded, read_text
from culpa.units import NS_PER_SECOND

BASELINE_NS: Final = NS_PER_SECOND
_SMAPS: Final = re.compile(r"^(Rss|AnonHugePages|Swap):\s+(\d+) kB$", re.MULTILINE)
_ALLOWED: Final = re.compile(r"^Cpus_allowed_list:\s*(\S+)$", re.MULTILINE)
SYS: Final = Path("/sys")
FEW_CPUS: Final = 8
"""Of a process that may run on more, which ones they are does not matter."""
MAX_SIBLINGS: Final = 1024

Row = tuple[int, str, str, str, float]


class HostView:
    """Reads at the start and at the end of a window what belongs to one process."""

    def __init__(self, pid: int | None, *, proc_root: Path = PROC, sys_root: Path = SYS) -> None:
        self._pid = pid
        self._proc = proc_root
        self._sys = sys_root
        self._rows: list[Row] = []
        self._nodes: dict[int, str] = {}

    def baseline(self, length_ns: int = BASELINE_NS) -> None:
        """Keep one CPU busy for a second, and note the longest time for which it did not run."""
        longest_ns = longest_gap_ns(length_ns)
        self._note("intrinsic latency", "", "longest_ns", float(longest_ns))

    def start(self) -> None:
        """Faults and the CPU time of ended children so far, and what does not change."""
        if self._pid is None:
            return
        self._faults(self._pid)
        for tid, allowed in self._allowed(self._pid):
            self._note(f"/proc/{self._pid}/task/{tid}/status", str(self._pid), "Cpus_allowed", float(allowed))
        self._cpus(self._pid)
        chosen = re.search(r"\[(\w+)\]", read_text(self._sys / "kernel/mm/transparent_hugepage/enabled") or "")
        if chosen is not None:
            source = "/sys/kernel/mm/transparent_hugepage/enabled"
            self._note(source, "", "always", float(chosen[1] == "always"))
        for source, who, field, value in clocksource.readings(self._sys):
            self._note(source, who, field, value)
        self._nodes = numa.nodes(self._sys)
        if self._nodes:
            self._note(f"/sys/{numa.NODES}", "", "nodes", float(len(self._nodes)))

    def stop(self) -> pl.DataFrame:
        """Faults by now, and its memory; everything as `schema.COUNTERS`."""
        if self._pid is not None:
            self._faults(self._pid)
            source = f"/proc/{self._pid}/smaps_rollup"
            for name, value in _SMAPS.findall(read_text(self._proc / str(self._pid) / "smaps_rollup") or ""):
                self._note(source, str(self._pid), name, float(value))
            if len(self._nodes) > 1:
                self._numa(self._pid)
        names = ("ts_ns", "source", "object", "field", "value")
        return COUNTERS.frame({name: [row[at] for row in self._rows] for at, name in enumerate(names)})

    def _faults(self, pid: int) -> None:
        raw = read_bounded(self._proc / str(pid) / "stat")
        fields = (raw or b"").rpartition(b")")[2].split()
        if parse_stat(raw or b"") is not None and len(fields) > 9:
            self._note(f"/proc/{pid}/stat", str(pid), "minflt", float(fields[7]))
            self._note(f"/proc/{pid}/stat", str(pid), "majflt", float(fields[9]))
        if len(fields) > 14:
            self._note(f"/proc/{pid}/stat", str(pid), "children_ticks", float(fields[13]) + float(fields[14]))

    def _allowed(self, pid: int) -> Iterator[tuple[str, int]]:
        """Each thread and on how many CPUs it may run."""
        for directory in sorted((self._proc / str(pid) / "task").glob("[0-9]*")):
            found = _ALLOWED.search(read_text(directory / "status") or "")
            if found is not None:
                yield directory.name, cpus_in(found[1])

    def _cpus(self, pid: int) -> None:
        """The CPUs of its main thread, if they are few: with those of the same core, and of the same socket."""
        source = f"/proc/{pid}/task/{pid}/status"
        found = _ALLOWED.search(read_text(self._proc / str(pid) / "task" / str(pid) / "status") or "")
        if found is None or cpus_in(found[1]) > FEW_CPUS:
            return
        for cpu in cpus_of(found[1]):
            self._note(source, str(pid), "cpu", float(cpu))
            for field, file in (("same_core", "thread_siblings_list"), ("same_socket", "core_siblings_list")):
                path = self._sys / f"devices/system/cpu/cpu{cpu}/topology" / file
                for other in cpus_of((read_text(path) or "").strip())[:MAX_SIBLINGS]:
                    self._note(f"/sys/devices/system/cpu/cpu{cpu}/topology/{file}", f"cpu{cpu}", field, float(other))

    def _numa(self, pid: int) -> None:
        """Its memory by node, and of each node the CPUs that its main thread may run on."""
        text = read_text(self._proc / str(pid) / "numa_maps")
        allowed = _ALLOWED.search(read_text(self._proc / str(pid) / "task" / str(pid) / "status") or "")
        if text is None or allowed is None:
            return
        for node, kilobytes in numa.held_kb(text, self._nodes):
            self._note(f"/proc/{pid}/numa_maps", f"node{node}", "held_kb", kilobytes)
        may_run = set(cpus_of(allowed[1]))
        for node, cpus in self._nodes.items():
            self._note(f"/sys/{numa.NODES}/node{node}/cpulist", f"node{node}", "allowed_cpus",
                       float(len(may_run.intersection(cpus_of(cpus)))))  # fmt: skip

    def _note(self, source: str, who: str, field: str, value: float) -> None:
        self._rows.append((time.monotonic_ns(), source, who, field, value))


def longest_gap_ns(length_ns: int) -> int:
    """The longest time between two looks at the clock of a program that does nothing else.

    As `redis-cli --intrinsic-latency`: what is long here is the host's doing, and no server can be faster than that.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        clock = time.perf_counter_ns
        last = clock()
        end, longest = last + length_ns, 0
        while last < end:
            now = clock()
            if now - last > longest:
                longest = now - last
            last = now
    finally:
        if collecting:
            gc.enable()
    return longest


def cpus_in(text: str) -> int:
    """How many CPUs a list like `0-3,8` names."""
    return len(cpus_of(text))


def cpus_of(text: str) -> list[int]:
    """The CPUs that a list like `0-3,8` names."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if low.isdecimal() and (high.isdecimal() or not dash):
            found += range(int(low), int(high) + 1) if dash else [int(low)]
    return found
