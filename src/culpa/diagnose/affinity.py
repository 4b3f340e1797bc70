"""Waits for a CPU of threads that may use some of the host's CPUs only, while those that they may not use idled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.blame import Coverage
from culpa.diagnose.picture import Picture
from culpa.diagnose.runqueue import IDLE_TASK, charged
from culpa.model.axis import Bools
from culpa.units import parse_cpus

MIN_IDLE = 0.5
"""CPUs: of those that a thread may not use, so many idled at the time, all taken together."""
LEAST_SLICE_NS = 500_000_000
"""Idle time is counted in ticks of 4 to 10 ms."""
OWN = "culpa"
"""Source of what culpa's own threads took (`collect/ownuse.py`)."""
_IDLE = ("idle", "iowait")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A thread, the CPUs it may use, and the control group that has no others (None: it may be given others)."""

    pid: int
    cpus: frozenset[int]
    cgroup: str | None


def bound_threads(picture: Picture) -> Mapping[int, Bound]:
    """The threads that may not use all CPUs, by tid."""
    rows = picture.capture.frame(schema.AFFINITY).drop_nulls(["tid", "pid", "cpus"])
    found = {
        tid: Bound(pid=pid, cpus=parse_cpus(cpus) or frozenset(), cgroup=cgroup)
        for tid, pid, cpus, cgroup in rows.select("tid", "pid", "cpus", "cgroup").iter_rows()
    }
    return {tid: one for tid, one in found.items() if one.cpus}


def held_by_affinity(picture: Picture, coverage: Coverage) -> Bools:
    """Which waits of `runqueue.queued` lie behind another program's thread, or another one of its own, on the CPUs that
    a thread is bound to, while others idled. None of a check-up, in which the server's own rule looks at that.
    """
    held = np.zeros(len(coverage.node), bool)
    bound = {} if picture.is_checkup else bound_threads(picture)
    if not bound:
        return held
    use = CpuUse.read(picture)
    who = np.array([node.who for node in picture.blame.nodes], np.int64)[coverage.node]
    behind = charged(picture, coverage) > IDLE_TASK
    for at in np.flatnonzero(np.isin(who, list(bound)) & behind).tolist():
        others = use.numbers - bound[int(who[at])].cpus
        start_ns, end_ns = int(coverage.start_ns[at]), int(coverage.end_ns[at])
        held[at] = use.idle(frozenset(others), start_ns, end_ns) >= MIN_IDLE
    return held


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUse:
    """How much of each CPU idled: `parts[cpu]` has a share, 0..1, for each of the slices that begin at `since_ns`."""

    numbers: frozenset[int]
    since_ns: list[int]
    parts: Mapping[int, list[float]]

    @staticmethod
    def read(picture: Picture) -> CpuUse:
        """From /proc/stat, in slices between two readings; too short ones are put together.

        What culpa itself took counts as idle: it would be, without it.
        """
        counters = picture.capture.frame(schema.COUNTERS).filter(pl.col("object").str.contains(r"^cpu[0-9]+$"))
        rows = counters.filter(pl.col("source") == "/proc/stat")
        taken = _far_enough(rows["ts_ns"].unique().sort().to_list())
        own = counters.filter(pl.col("source") == OWN).select("object", "ts_ns", own="value")
        ticks = (
            rows.filter(pl.col("ts_ns").is_in(taken))
            .group_by("object", "ts_ns")
            .agg(idle=pl.col("value").filter(pl.col("field").is_in(_IDLE)).sum(), every=pl.col("value").sum())
            .join(own, on=["object", "ts_ns"], how="left")
            .with_columns(idle=pl.col("idle") + pl.col("own").fill_null(0))
            .sort("object", "ts_ns")
        )
        parts: dict[int, list[float]] = {}
        for (name,), cpu in ticks.group_by(["object"], maintain_order=True):
            idle, every = (np.diff(cpu[column].to_numpy()) for column in ("idle", "every"))
            if len(cpu) == len(taken):
                parts[int(str(name)[3:])] = np.where(every > 0, idle / np.maximum(every, 1), 0.0).clip(0, 1).tolist()
        return CpuUse(numbers=frozenset(parts), since_ns=taken[:-1], parts=parts)

    def idle(self, cpus: frozenset[int], start_ns: int, end_ns: int) -> float:
        """How many of these CPUs idled, in the slice in which the middle of [start_ns, end_ns) lies; 0: not known."""
        if not self.since_ns:
            return 0.0
        at = max(0, int(np.searchsorted(self.since_ns, (start_ns + end_ns) // 2, side="right")) - 1)
        return sum(self.parts[cpu][at] for cpu in cpus & self.parts.keys())


def _far_enough(moments: list[int]) -> list[int]:
    """Some of the moments, in order, the first and the last among them, so that no slice is too short."""
    taken = moments[:1]
    for moment in moments[1:]:
        if moment - taken[-1] >= LEAST_SLICE_NS:
            taken.append(moment)
    if moments and taken[-1] != moments[-1]:
        taken[-1:] = [moments[-1]] if len(taken) > 1 else [taken[0], moments[-1]]
    return taken
