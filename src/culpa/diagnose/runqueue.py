"""Time in which threads of the root's chain could have run and had no CPU: who had it, and what a quota took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.blame import Coverage
from culpa.diagnose.moments import Moments
from culpa.model.axis import Bools, Int64s
from culpa.model.calls import integers
from culpa.model.kinds import Kind

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

IDLE_TASK = 0
MIN_WAIT_NS = 500_000
"""Shorter ones are what a wake-up takes: whoever is woken waits for its waker, or for a CPU to leave its idle state."""
NOBODY = -1
MOST = 0.5
"""Of the waiting: from here on one process, or nobody, had the CPUs."""
_NS_OF_UNIT = {"throttled_time": 1, "throttled_usec": 1_000}
"""cpu.stat of control groups: nanoseconds in version 1, microseconds in version 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """A process that ran last on the CPU that a waiting thread then got; `ns` of waiting so charged to it."""

    pid: int
    ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled:
    """What the CPU quota of one control group took in the window: times stopped, time (ns), quota and period (us)."""

    group: str
    times: int
    ns: int
    quota_us: float | None
    period_us: float | None


def queued(picture: Picture) -> Coverage:
    """Where in the root's time threads were runnable and not running for long; kernel threads are left out."""
    nodes = [n for n in picture.nodes(Kind.RUNNABLE) if picture.blame.nodes[n].who not in picture.objects.kernel_tids]
    found = picture.blame.inside(*nodes)
    return part(found, found.end_ns - found.start_ns >= MIN_WAIT_NS)


def not_of_a_quota(picture: Picture) -> Coverage:
    """Those of `queued` that no CPU quota made."""
    quota = throttled(picture)
    return longest(queued(picture), quota.ns if quota else 0)[1]


def longest(coverage: Coverage, at_most_ns: int) -> tuple[Coverage, Coverage]:
    """Part the intervals: the longest ones that add up to at most so much, and the others.

    A quota stops a thread until its period ends, other runnable threads cede a CPU within a few milliseconds: the long
    waits are the quota's.
    """
    length = coverage.end_ns - coverage.start_ns
    order = np.argsort(-length, kind="stable")
    taken = np.zeros(len(length), bool)
    taken[order] = np.cumsum(length[order]) <= at_most_ns
    return part(coverage, taken), part(coverage, ~taken)


def moments_of(coverage: Coverage) -> Moments:
    """The root's moments that the intervals cover."""
    return Moments.of(coverage)


def charged(picture: Picture, coverage: Coverage) -> Int64s:
    """The process that each wait is charged to: whose thread ran last on the CPU that the waiting one then got, a
    sample of those that ran meanwhile. `IDLE_TASK` for the idle task.

    `NOBODY` for waits that did not end, for those behind a kernel thread (it cuts in for a moment and says nothing of
    who ran before it), and for those behind culpa itself: without it they would not be.
    """
    pid = _pids(picture, _ran_before(picture, coverage))
    aside = picture.objects.own_pids | picture.objects.kernel_tids - {IDLE_TASK}
    return np.where(np.isin(pid, list(aside)), NOBODY, pid)


def occupants(coverage: Coverage, pids: Int64s) -> list[Occupant]:
    """Who had the CPUs, largest first, as `charged` says it; pid 0 is the idle task."""
    rows = (
        pl.DataFrame({"pid": pids, "ns": coverage.end_ns - coverage.start_ns})
        .filter(pl.col("pid") != NOBODY)
        .group_by("pid")
        .agg(pl.col("ns").sum())
        .sort(["ns", "pid"], descending=[True, False])
    )
    return [Occupant(pid=pid, ns=ns) for pid, ns in rows.iter_rows()]


def behind(coverage: Coverage, pids: Int64s, occupants: Iterable[Occupant]) -> Moments:
    """The root's moments of the waits that are charged to these."""
    return moments_of(part(coverage, np.isin(pids, [occupant.pid for occupant in occupants])))


def not_behind_culpa(picture: Picture, coverage: Coverage) -> Coverage:
    """The waits that culpa itself did not cause."""
    pid = _pids(picture, _ran_before(picture, coverage))
    return part(coverage, ~np.isin(pid, list(picture.objects.own_pids)))


def throttled(picture: Picture) -> Throttled | None:
    """The quota that stopped a control group of the target most; None where none did."""
    rows = picture.capture.frame(schema.COUNTERS).filter(pl.col("source").str.ends_with("/cpu.stat")).sort("ts_ns")
    grown = rows.group_by("object", "field").agg(value=pl.col("value").last() - pl.col("value").first())
    stopped = [
        (value * _NS_OF_UNIT[field], group)
        for group, field, value in grown.iter_rows()
        if field in _NS_OF_UNIT and value > 0
    ]
    if not stopped:
        return None
    ns, group = max(stopped)
    times = grown.filter(object=group, field="nr_throttled")["value"].sum()
    quota, period = (_limit(picture, group, names) for names in (("cpu.cfs_quota_us", "cpu.max"), _PERIOD_FIELDS))
    return Throttled(group=group, times=int(times), ns=int(ns), quota_us=quota, period_us=period)


_PERIOD_FIELDS = ("cpu.cfs_period_us", "period")


def _limit(picture: Picture, group: str, names: tuple[str, ...]) -> float | None:
    rows = picture.capture.frame(schema.COUNTERS).filter(
        (pl.col("object") == group)
        & pl.col("field").is_in(names)
        & pl.col("source").str.contains("/cpu.", literal=True)
    )
    return None if rows.is_empty() else float(rows["value"][-1])


def part(coverage: Coverage, taken: Bools) -> Coverage:
    """Some of the intervals."""
    return Coverage(**{name: getattr(coverage, name)[taken] for name in Coverage.__dataclass_fields__})


def _pids(picture: Picture, tids: Int64s) -> Int64s:
    """Their processes, one for each."""
    distinct, index = np.unique(tids, return_inverse=True)
    return np.array([picture.objects.pid_of.get(tid, tid) for tid in distinct.tolist()], np.int64)[index]


def _ran_before(picture: Picture, coverage: Coverage) -> Int64s:
    """For each interval the tid that ran last on the CPU its thread then got; `NOBODY` where the wait did not end."""
    if picture.graph is None or len(coverage.node) == 0:
        return np.full(len(coverage.node), NOBODY, np.int64)
    axis = picture.graph.axis
    rows = picture.capture.frame(schema.OFFCPU).select("tid", "on_ns", "prev_tid").drop_nulls()
    got = axis.place(axis.lane(integers(rows, "tid")), rows["on_ns"].to_numpy())
    order = np.argsort(got, kind="stable")
    got, before = got[order], integers(rows, "prev_tid")[order]
    who = np.array([node.who for node in picture.blame.nodes], np.int64)[coverage.node]
    lanes = axis.lane(who)
    found = np.searchsorted(got, axis.place(lanes, coverage.end_ns), side="left")
    there = (lanes >= 0) & (found < len(got))
    there[there] = got[found[there]] // axis.span == lanes[there]
    return np.where(there, np.append(before, NOBODY)[np.where(there, found, -1)], NOBODY)
