"""Waits for another thread to end: a child process in wait4 or among many files, a thread that is joined."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.model.axis import Bools, Int64s
from culpa.model.calls import Calls
from culpa.model.kinds import NONE, Kind
from culpa.model.pieces import Pieces
from culpa.model.timeline import Timeline

END_TO_WAKE_NS = 5_000_000
"""A process wakes its parent while it ends (do_notify_parent in kernel/exit.c), microseconds after its exit event."""


def ends(tasks: pl.DataFrame) -> Mapping[int, int]:
    """tid to the moment it ended, for threads that did."""
    return dict(tasks.drop_nulls(["tid", "exit_ns"]).select("tid", "exit_ns").iter_rows())


def parents(tasks: pl.DataFrame) -> Mapping[int, int]:
    """pid to the pid of its parent, where that is known."""
    return dict(tasks.drop_nulls(["pid", "ppid"]).select("pid", "ppid").iter_rows())


def ended_at_wake(timeline: Timeline, segments: Int64s, ended: Mapping[int, int]) -> Bools:
    """Waits that were ended by a thread that itself ended at that moment.

    Args:
        segments: rows of the timeline.
        ended: as from `ends`.
    """
    waker = timeline.waker[segments]
    wake_ns = timeline.axis.time(timeline.end[segments] - 1)
    tids, inverse = np.unique(waker, return_inverse=True)
    end_ns = np.array([ended.get(tid, -END_TO_WAKE_NS - 1) for tid in tids.tolist()], dtype=np.int64)
    known = timeline.axis.lane(waker) >= 0
    near: Bools = known & (np.abs(wake_ns - end_ns[inverse]) <= END_TO_WAKE_NS) if len(segments) else known
    return near


def explain(
    pieces: Pieces, timeline: Timeline, index: Int64s, calls: Calls, ended: Mapping[int, int], parent: Mapping[int, int]
) -> None:
    """Follow waits for a child or for a thread of the same process to what that one did.

    Args:
        index: pieces that are interruptible waits.
        ended: as from `ends`.
        parent: as from `parents`.
    """
    _explain_loops(pieces, timeline, index, calls, ended, parent)
    call = pieces.call[index]
    for_child, joins = calls.among(call, syscalls.CHILD), calls.futex_for_work(call)
    index, for_child = index[for_child | joins], for_child[for_child | joins]
    lanes = pieces.axis.lane(timeline.waker[pieces.segment[index]])
    own = timeline.pid[pieces.lane[index]]
    others = np.where(lanes >= 0, timeline.pid[np.maximum(lanes, 0)], own) != own
    follow = ended_at_wake(timeline, pieces.segment[index], ended) & (others == for_child)
    pieces.follow(index[follow], lanes[follow], Kind.PEER)


def _explain_loops(
    pieces: Pieces, timeline: Timeline, index: Int64s, calls: Calls, ended: Mapping[int, int], parent: Mapping[int, int]
) -> None:
    """Waits on many files that a child of the waiter's ended by its own end: it closes its pipes, and a signal comes.

    A loop that idled goes on doing so; whoever waits for it waits for the child.
    """
    call = pieces.call[index]
    index = index[calls.among(call, syscalls.MANY_WAIT) & (calls.ret(call) > 0)]
    index = index[ended_at_wake(timeline, pieces.segment[index], ended)]
    lanes = pieces.axis.lane(timeline.waker[pieces.segment[index]])
    above = np.array([parent.get(pid, NONE) for pid in timeline.pid[lanes].tolist()], dtype=np.int64)
    mine = above == timeline.pid[pieces.lane[index]]
    pieces.follow(index[mine], lanes[mine], Kind.PEER)
