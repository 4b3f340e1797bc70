"""One number line for all threads: thread i owns [i * span, (i + 1) * span).

Laying the threads' windows end to end turns "which segment of this thread holds this moment" into one binary search on
one sorted array, for millions of moments at once; every interval join of the model is made of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Integers = npt.NDArray[np.signedinteger[Any]]
"""Of any width: row numbers and codes are kept narrow where there are millions of them."""
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

    def lane(self, tids: Integers) -> Integers:
        """The index of each tid; `NO_THREAD` where it is not on the axis."""
        if len(self.tids) == 0:
            return np.full(len(tids), NO_THREAD, np.int32)
        found = np.searchsorted(self.tids, tids).astype(np.int32)
        found[found == len(self.tids)] = 0
        found[self.tids[found] != tids] = NO_THREAD
        return found

    def place(self, lanes: Integers, times_ns: Int64s) -> Int64s:
        """Moments of threads as points of the axis, clipped into the window."""
        points: Int64s = np.clip(times_ns - self.start_ns, 0, self.span - 1)
        points += self._origin(lanes)
        return points

    def time(self, points: Int64s) -> Int64s:
        """The moments that points of the axis stand for."""
        return points % self.span + self.start_ns

    def move(self, points: Int64s, lanes: Integers) -> Int64s:
        """The same moments on other threads."""
        moved: Int64s = points % self.span
        moved += self._origin(lanes)
        return moved

    def _origin(self, lanes: Integers) -> Int64s:
        return np.multiply(lanes, self.span, dtype=np.int64)


def distinct(points: Int64s) -> Int64s:
    """The points sorted in place, each once; on sorted runs laid end to end far faster than a hash."""
    points.sort(kind="stable")
    once: Int64s = points[np.append(True, points[1:] != points[:-1])[: len(points)]]
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
    row: Integers

    @staticmethod
    def sorted(start: Int64s, end: Int64s, row: Integers) -> Spans:
        """Drop the empty ones and sort, in the memory of `start` and `end`."""
        order = np.flatnonzero(end > start).astype(np.int32)
        order = order[np.argsort(start[order], kind="stable")]
        count = len(order)
        start[:count], end[:count] = start[order], end[order]
        return Spans(start=start[:count], end=end[:count], row=row[order].astype(np.int32))

    def covering(self, points: Int64s) -> Integers:
        """For each point the index of the last span that starts at or before it and still holds it, else -1.

        Exact for spans that do not overlap; among nested ones it sees the innermost.
        """
        if len(self.start) == 0:
            return np.full(len(points), -1, np.int32)
        found = (np.searchsorted(self.start, points, side="right") - 1).astype(np.int32)
        found[self.end[found] <= points] = -1
        return found

    def depth(self, points: Int64s) -> Int64s:
        """How many spans hold each point."""
        begun = np.searchsorted(self.start, points, side="right")
        ended = np.searchsorted(np.sort(self.end), points, side="right")
        return (begun - ended).astype(np.int64)
