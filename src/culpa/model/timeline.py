"""Each thread's time in the window, cut into running, runnable and waiting: no gap, no overlap.

An off-CPU record is [off, wake) waiting and [wake, on) runnable (all runnable if it was preempted); what lies between
two records is running. Before a thread was watched its time is `unseen`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model.axis import Axis, Int64s, Integers

UNKNOWN = -1


class Activity(IntEnum):
    """What a thread does in a segment."""

    UNSEEN = 0
    RUNNING = 1
    RUNNABLE = 2
    WAITING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Segments on the axis, sorted and gapless per thread; segment i ends where `end[i]` says.

    `state` is prev_state, `waker` a tid, `stack` a stack id: `UNKNOWN` where there is none.
    """

    axis: Axis
    pid: Int64s
    start: Int64s
    end: Int64s
    activity: Integers
    state: Integers
    waker: Integers
    stack: Integers

    @property
    def segments(self) -> pl.DataFrame:
        """The segments with tids and moments: tid, pid, start_ns, end_ns, kind, state, waker_tid, stack_id."""
        lane = self.start // self.axis.span
        start_ns = self.axis.time(self.start)
        return pl.DataFrame(
            {
                "tid": self.axis.tids[lane],
                "pid": self.pid[lane],
                "start_ns": start_ns,
                "end_ns": start_ns + (self.end - self.start),
                "kind": pl.Series([Activity(code).name.lower() for code in self.activity.tolist()], dtype=pl.String),
                "state": self.state,
                "waker_tid": self.waker,
                "stack_id": self.stack,
            }
        )


def build(capture: Capture) -> Timeline:
    """Cut every watched thread's window into segments.

    Args:
        capture: needs `offcpu`; `tasks` and `thread_states` say what threads without records did.

    Returns:
        Gapless segments for every thread that has records or a known state.
    """
    window = capture.manifest.window
    axis, pids, seen_from, seen_to = _threads(capture)
    rows = _offcpu_rows(_remembered(capture), axis, seen_from, seen_to)
    quiet = _quiet_rows(capture, axis, rows["lane"].to_numpy(), seen_from, seen_to)
    rows = pl.concat([rows, quiet]).sort("lane", "off", "on", "wake", "waker", "stack")
    return _cut(axis, pids, rows, seen_from, seen_to, window.start_ns)


def owners(capture: Capture) -> pl.DataFrame:
    """tid, pid of the threads with records; of a number that two processes had, the later one: its time is kept."""
    seen = pl.concat(
        [
            capture.frame(table).select("tid", "pid").drop_nulls()
            for table in (schema.OFFCPU, schema.SYSCALLS, schema.THREAD_STATES)
        ]
    )
    tasks = capture.frame(schema.TASKS).unique("tid", keep="last", maintain_order=True).select("tid", named="pid")
    known = seen.group_by("tid").agg(pl.col("pid").min()).join(tasks, on="tid", how="left")
    return known.select("tid", pid=pl.coalesce("named", "pid")).sort("tid")


def _threads(capture: Capture) -> tuple[Axis, Int64s, Int64s, Int64s]:
    """The axis, and per lane: pid, and the moments between which the thread was seen."""
    window = capture.manifest.window
    tasks = capture.frame(schema.TASKS).unique("tid", keep="last", maintain_order=True)
    threads = owners(capture).join(tasks.select("tid", "watched_ns", "exit_ns"), on="tid", how="left").sort("tid")
    axis = Axis(tids=threads["tid"].cast(pl.Int64).to_numpy(), start_ns=window.start_ns, end_ns=window.end_ns)
    low = threads["watched_ns"].fill_null(window.start_ns).clip(window.start_ns, window.end_ns).to_numpy()
    high = threads["exit_ns"].fill_null(window.end_ns).clip(window.start_ns, window.end_ns).to_numpy()
    return axis, threads["pid"].cast(pl.Int64).to_numpy(), low.astype(np.int64), np.maximum(low, high).astype(np.int64)


LETTERS: Mapping[str, int] = {"S": 1, "D": 2, "I": 1026, "T": 4, "t": 8}
"""The prev_state that stands for a letter of /proc/PID/stat."""


def _remembered(capture: Capture) -> pl.DataFrame:
    """`offcpu`, with the state and the stack of waits that were already there when the window began."""
    offcpu = capture.frame(schema.OFFCPU)
    old = (offcpu["off_ns"].is_null() & offcpu["state"].is_null()).arg_true()
    if old.is_empty():
        return offcpu
    before = (
        capture.frame(schema.THREAD_STATES)
        .sort("ts_ns")
        .unique("tid", keep="first", maintain_order=True)
        .filter(pl.col("state").is_in(list(LETTERS)))
        .select(
            "tid",
            was=pl.col("state").replace_strict(LETTERS, default=None, return_dtype=pl.Int32),
            at_stack="stack_id",
            at_ns="ts_ns",
        )
    )
    rows = offcpu[old].join(before, on="tid", how="left", maintain_order="left")
    ended = pl.coalesce("wake_ns", "on_ns")
    # What it did at that moment is not what it was woken from before.
    here = ended.is_null() | (ended > pl.col("at_ns"))
    found = rows.select(state=pl.when(here).then("was"), stack_id=pl.when(here).then("at_stack"))
    return offcpu.with_columns(offcpu[name].scatter(old, found[name]) for name in ("state", "stack_id"))


def _offcpu_rows(offcpu: pl.DataFrame, axis: Axis, seen_from: Int64s, seen_to: Int64s) -> pl.DataFrame:
    lanes = axis.lane(offcpu["tid"].fill_null(UNKNOWN).to_numpy())
    offcpu, lanes = offcpu.filter(pl.Series(lanes >= 0, dtype=pl.Boolean)), lanes[lanes >= 0]
    low, high = (pl.Series(seen[lanes], dtype=pl.Int64) for seen in (seen_from, seen_to))
    asleep = offcpu["state"].fill_null(1) != 0
    off = offcpu["off_ns"].fill_null(low)
    on = offcpu["on_ns"].fill_null(high)
    # Preempted: runnable at once. Slept and not seen to be woken: waiting until it ran (or until the end).
    wake = pl.select(pl.when(asleep).then(offcpu["wake_ns"].fill_null(on)).otherwise(off)).to_series()
    # Neither its start nor its wake was seen: it may have been waiting or merely runnable.
    blind = offcpu["off_ns"].is_null() & offcpu["wake_ns"].is_null() & offcpu["on_ns"].is_not_null()
    return pl.DataFrame(
        {
            "lane": lanes,
            "off": off,
            "wake": wake,
            "on": on,
            "state": offcpu["state"].fill_null(UNKNOWN),
            "waker": offcpu["waker_tid"].fill_null(UNKNOWN),
            "stack": offcpu["stack_id"].fill_null(UNKNOWN),
            "blind": blind,
        }
    )


def _quiet_rows(capture: Capture, axis: Axis, seen: Int64s, seen_from: Int64s, seen_to: Int64s) -> pl.DataFrame:
    """Threads without a single record: off their CPU all the time if /proc said so, else unseen."""
    states = capture.frame(schema.THREAD_STATES).sort("ts_ns").unique("tid", keep="last", maintain_order=True)
    known = {tid: (letter, stack) for tid, letter, stack in states.select("tid", "state", "stack_id").iter_rows()}
    lanes = np.setdiff1d(np.arange(len(axis.tids)), seen)
    found = [known.get(int(axis.tids[lane]), (None, None)) for lane in lanes]
    asleep = np.array([letter != "R" for letter, _ in found], dtype=bool)
    lanes, found = lanes[asleep], [one for one in found if one[0] != "R"]
    return pl.DataFrame(
        {
            "lane": lanes.astype(np.int32),
            "off": seen_from[lanes],
            "wake": seen_to[lanes],
            "on": seen_to[lanes],
            "state": pl.Series([LETTERS.get(letter or "", UNKNOWN) for letter, _ in found], dtype=pl.Int32),
            "waker": np.full(len(lanes), UNKNOWN, np.int32),
            "stack": pl.Series([UNKNOWN if stack is None else stack for _, stack in found], dtype=pl.Int32),
            "blind": pl.Series([letter is None for letter, _ in found], dtype=pl.Boolean),
        }
    )


def _cut(
    axis: Axis, pids: Int64s, rows: pl.DataFrame, seen_from: Int64s, seen_to: Int64s, window_start: int
) -> Timeline:
    """Lay the boundaries down in order; a boundary never goes back, so that records that overlap lose, not the sum."""
    lane = rows["lane"].to_numpy()
    offs, wakes, ons = (axis.place(lane, rows[name].to_numpy()) for name in ("off", "wake", "on"))
    lanes = np.arange(len(axis.tids), dtype=np.int32)
    # Per thread: unseen from the window's start, running from when it was seen, unseen again after it ended.
    point = np.concatenate(
        [axis.place(lanes, np.full(len(lanes), window_start)), axis.place(lanes, seen_from), offs, wakes, ons]
    )
    del offs, wakes, ons
    index, unknown = np.arange(len(lane), dtype=np.int32), np.full(len(lane), UNKNOWN, np.int32)
    kind = np.concatenate(
        [
            np.full(len(lanes), Activity.UNSEEN, np.int8),
            np.full(len(lanes), Activity.RUNNING, np.int8),
            np.where(rows["blind"].to_numpy(), np.int8(Activity.UNSEEN), np.int8(Activity.WAITING)),
            np.full(len(lane), Activity.RUNNABLE, np.int8),
            np.full(len(lane), Activity.RUNNING, np.int8),
        ]
    )
    row = np.concatenate([np.full(2 * len(lanes), UNKNOWN, np.int32), index, index, unknown])
    owner = np.concatenate([lanes, lanes, lane, lane, lane])
    order_key = np.concatenate(
        [np.full(2 * len(lanes), -1, np.int64), *(3 * index.astype(np.int64) + i for i in range(3))]
    )
    order = np.lexsort((order_key, owner))
    point, kind, row, owner = point[order], kind[order], row[order], owner[order]
    del order, order_key
    np.maximum.accumulate(point, out=point)
    end = np.append(point[1:], axis.span * len(lanes) - 1)
    last = np.append(owner[1:] != owner[:-1], True) if len(owner) else np.zeros(0, bool)
    end[last] = axis.place(owner[last], seen_to[owner[last]])
    tail = axis.place(lanes, seen_to), axis.place(lanes, np.full(len(lanes), axis.end_ns))
    point, end = np.concatenate([point, tail[0]]), np.concatenate([end, tail[1]])
    kind = np.concatenate([kind, np.full(len(lanes), Activity.UNSEEN, np.int8)])
    row = np.concatenate([row, np.full(len(lanes), UNKNOWN, np.int32)])
    keep = np.flatnonzero(end > point)
    keep = keep[np.argsort(point[keep], kind="stable")]
    return _timeline(axis, pids, rows, point[keep], end[keep], kind[keep], row[keep])


def _timeline(
    axis: Axis, pids: Int64s, rows: pl.DataFrame, start: Int64s, end: Int64s, kind: Integers, row: Integers
) -> Timeline:
    def of_row(name: str) -> Integers:
        values = np.append(rows[name].to_numpy(), np.int32(UNKNOWN))
        return values[row]

    return Timeline(
        axis=axis,
        pid=pids,
        start=start,
        end=end,
        activity=kind,
        state=of_row("state"),
        waker=of_row("waker"),
        stack=of_row("stack"),
    )
