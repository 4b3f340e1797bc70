"""Requests that have arrived and were not read yet: who has them, and what that thread is busy with.

A new connection is first with the thread that accepts it; then, and on a connection that is kept open, what arrives
waits for the thread that reads it. Whatever that thread does meanwhile is what the request is *queued behind*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from culpa import syscalls
from culpa.model.axis import NO_THREAD, Int64s
from culpa.model.calls import Calls, pick
from culpa.model.kinds import NONE
from culpa.model.timeline import Activity, Timeline

LONG_AGO = np.iinfo(np.int64).min // 4
"""Stands for "before this window" among moments."""
SEVERAL = "several requests at once"
UNNAMED = "another request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Connections that were accepted in the window, by the inode of the server's end, sorted.

    `lane`: who accepted it; `taken_ns`: when. `seen_ns`: per lane since when its thread was seen.
    """

    ino: Int64s
    lane: Int64s
    taken_ns: Int64s
    seen_ns: Int64s

    @staticmethod
    def of(timeline: Timeline, calls: Calls) -> Arrivals:
        """Read the accept calls."""
        axis, spans = timeline.axis, calls.spans
        accepted = np.flatnonzero(calls.among(spans.row, syscalls.ACCEPT))
        accepted = accepted[calls.ret(spans.row[accepted]) >= 0]
        ino = calls.ino(spans.row[accepted])
        order = np.argsort(ino, kind="stable")
        first_seen = np.full(len(axis.tids), axis.end_ns, np.int64)
        seen = np.flatnonzero(timeline.activity != Activity.UNSEEN)
        np.minimum.at(first_seen, timeline.start[seen] // axis.span, axis.time(timeline.start[seen]))
        begun = spans.start[accepted][order]
        return Arrivals(
            ino=ino[order], lane=begun // axis.span, taken_ns=axis.time(spans.end[accepted][order]), seen_ns=first_seen
        )

    def first_hand(self, ino: Int64s, reader: Int64s) -> tuple[Int64s, Int64s]:
        """Per connection the lane of the thread that accepted it, and until when it waited for that one.

        Args:
            ino: server ends of connections.
            reader: lanes of the threads that read the request.

        Returns:
            The reader's own lane and a moment long ago where the connection was there before the window.
        """
        if len(self.ino) == 0:
            return reader, np.full(len(ino), LONG_AGO, np.int64)
        found = np.minimum(np.searchsorted(self.ino, ino), len(self.ino) - 1)
        known = self.ino[found] == ino
        by = np.where(known, self.lane[found], reader)
        # A thread that was made for the connection has it only once it is there.
        until = np.maximum(self.taken_ns[found], pick(self.seen_ns, reader, LONG_AGO))
        return by, np.where(known & (by != reader), until, LONG_AGO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Which request each server thread works on: cells of the axis, sorted, the first before all of it.

    `start`: where a cell begins. `text`: index into `texts`, `NONE` where the thread works on none.
    """

    start: Int64s
    text: Int64s
    texts: tuple[str, ...]

    @staticmethod
    def of(begin: Int64s, end: Int64s, text: Int64s, texts: tuple[str, ...]) -> Busy:
        """Cells from intervals of the axis that may overlap; `text` indexes `texts`, which ends with `SEVERAL`."""
        begin, end, text = (values[end > begin] for values in (begin, end, text))
        rows = np.arange(1, len(begin) + 1)
        point = np.concatenate([begin, end])
        order = np.argsort(point, kind="stable")
        open_now = np.cumsum(np.concatenate([np.ones_like(rows), -np.ones_like(rows)])[order])
        which = np.cumsum(np.concatenate([rows, -rows])[order])
        point = point[order]
        last = np.append(point[1:] != point[:-1], True)[: len(point)]
        alone = np.where(open_now == 1, pick(text, np.where(open_now == 1, which - 1, NONE), NONE), NONE)
        cell = np.where(open_now > 1, len(texts) - 1, alone)
        return Busy(start=np.append(np.iinfo(np.int64).min, point[last]), text=np.append(NONE, cell[last]), texts=texts)

    def cells(self, start: Int64s, end: Int64s) -> tuple[Int64s, Int64s]:
        """The first cell that each interval of the axis touches, and the one after the last."""
        return np.searchsorted(self.start, start, side="right") - 1, np.searchsorted(self.start, end, side="left")


def only_taker(timeline: Timeline, calls: Calls, readers: Int64s, pids: tuple[int, ...]) -> int:
    """The one thread of these processes that accepts connections or reads requests, else `NO_THREAD`.

    Args:
        readers: lanes of threads that read a request.
    """
    accepting = calls.spans.start[calls.among(calls.spans.row, syscalls.ACCEPT)] // timeline.axis.span
    lanes = np.unique(np.concatenate([accepting, readers[readers >= 0]]))
    ours = lanes[np.isin(timeline.pid[lanes], pids)]
    return int(ours[0]) if len(ours) == 1 else NO_THREAD
