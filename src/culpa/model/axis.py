"""One number line for all threads: thread i owns [i * span, (i + 1) * span).

Laying the threads' windows end to end turns "which segment of this thread holds this moment" into one binary search on
one sorted array, for millions of moments at once; every interval join of the model is made of that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NO_THREAD = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Threads (sorted tids) and the window they share, in nanoseconds of CLOCK_MONOTONIC."""

    tids: Int64s
    start_ns: int
    end_ns: int

    @property
    def span(self) -> int:
        """Room of one thread: the window's length and one more, so that an end never equals the next start."""
        return self.end_ns - self.start_ns + 1

    def lane(self, tids: Int64s) -> Int64s:
        """The index of each tid; `NO_THREAD` where it is not on the axis."""
        if len(self.tids) == 0:
            return np.full(len(tids), NO_THREAD, np.int64)
        found = np.searchsorted(self.tids, tids)
        found[found == len(self.tids)] = 0
        return np.where(self.tids[found] == tids, found, NO_THREAD).astype(np.int64)

    def place(self, lanes: Int64s, times_ns: Int64s) -> Int64s:
        """Moments of threads as points of the axis, clipped into the window."""
        return lanes * self.span + np.clip(times_ns - self.start_ns, 0, self.span - 1)

    def time(self, points: Int64s) -> Int64s:
        """The moments that points of the axis stand for."""
        return points % self.span + self.start_ns

    def move(self, points: Int64s, lanes: Int64s) -> Int64s:
        """The same moments on other threads."""
        return lanes * self.span + points % self.span


def distinct(points: Int64s) -> Int64s:
    """The points sorted, each once; on sorted runs laid end to end far faster than a hash."""
    ordered = np.sort(points, kind="stable")
    once: Int64s = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return once


def expand(first: Int64s, stop: Int64s) -> tuple[Int64s, Int64s]:
    """Unroll index ranges [first, stop): the owner of each element, and the element."""
    counts = np.maximum(stop - first, 0)
    owner = np.repeat(np.arange(len(first)), counts)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, first[owner] + offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Intervals on the axis that may overlap, sorted by start; `row` says which row of their table each one is."""

    start: Int64s
    end: Int64s
    row: Int64s

    @staticmethod
    def sorted(start: Int64s, end: Int64s, row: Int64s) -> Spans:
        """Drop the empty ones and sort."""
        keep = np.flatnonzero(end > start)
        order = keep[np.argsort(start[keep], kind="stable")]
        return Spans(start=start[order], end=end[order], row=row[order])

    def covering(self, points: Int64s) -> Int64s:
        """For each point the index of the last span that starts at or before it and still holds it, else -1.

        Exact for spans that do not overlap; among nested ones it sees the innermost.
        """
        if len(self.start) == 0:
            return np.full(len(points), -1, np.int64)
        found = np.searchsorted(self.start, points, side="right") - 1
        holds = (found >= 0) & (self.end[np.maximum(found, 0)] > points)
        return np.where(holds, found, -1).astype(np.int64)

    def depth(self, points: Int64s) -> Int64s:
        """How many spans hold each point."""
        begun = np.searchsorted(self.start, points, side="right")
        ended = np.searchsorted(np.sort(self.end), points, side="right")
        return (begun - ended).astype(np.int64)
