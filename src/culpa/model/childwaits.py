"""Waits for a child process: spent on what the child did until it ended."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from culpa.model.axis import NO_THREAD, Int64s
from culpa.model.kinds import Kind
from culpa.model.pieces import Pieces
from culpa.model.timeline import Timeline

END_TO_WAKE_NS = 5_000_000
"""A process wakes its parent while it ends (do_notify_parent in kernel/exit.c), microseconds after its exit event."""


def ends(tasks: pl.DataFrame) -> Mapping[int, int]:
    """tid to the moment it ended, for threads that did."""
    return dict(tasks.drop_nulls(["tid", "exit_ns"]).select("tid", "exit_ns").iter_rows())


def explain(pieces: Pieces, timeline: Timeline, index: Int64s, ended: Mapping[int, int]) -> None:
    """Follow each wait to the thread that woke it, if that thread ended at that moment and is another process'.

    Args:
        index: pieces that wait in wait4 or waitid.
        ended: as from `ends`.
    """
    segment = pieces.segment[index]
    waker = timeline.waker[segment]
    lanes = pieces.axis.lane(waker)
    wake_ns = pieces.axis.time(timeline.end[segment] - 1)
    gap = np.array(
        [wake - ended.get(tid, -END_TO_WAKE_NS - 1) for tid, wake in zip(waker.tolist(), wake_ns.tolist(), strict=True)]
    )
    own = timeline.pid[pieces.lane[index]]
    others = np.where(lanes >= 0, timeline.pid[np.maximum(lanes, 0)], own) != own
    follow = others & (np.abs(gap) <= END_TO_WAKE_NS) if len(index) else np.zeros(0, bool)
    pieces.kind[index[follow]] = Kind.PEER
    pieces.next[index[follow]] = np.where(follow, lanes, NO_THREAD)[follow]
