"""Sets of moments of the root: disjoint intervals per root item, and what can be done with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from culpa.diagnose.blame import Coverage
from culpa.model.axis import Int64s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Disjoint intervals [start_ns, end_ns) of root items, sorted by item and start."""

    item: Int64s
    start_ns: Int64s
    end_ns: Int64s

    @staticmethod
    def union(item: Int64s, start_ns: Int64s, end_ns: Int64s) -> Moments:
        """Merge what overlaps within an item."""
        keep = end_ns > start_ns
        item, start_ns, end_ns = item[keep], start_ns[keep], end_ns[keep]
        if len(item) == 0:
            return Moments(item=item, start_ns=start_ns, end_ns=end_ns)
        order = np.lexsort((start_ns, item))
        item, start_ns, end_ns = item[order], start_ns[order], end_ns[order]
        origin, room = int(start_ns.min()), int(end_ns.max() - start_ns.min()) + 1
        rank = np.cumsum(np.append(False, item[1:] != item[:-1]))
        begin, reach = rank * room + start_ns - origin, np.maximum.accumulate(rank * room + end_ns - origin)
        first = np.append(True, begin[1:] > reach[:-1])
        last = np.append(first[1:], True)
        return Moments(item=item[first], start_ns=start_ns[first], end_ns=reach[last] - rank[last] * room + origin)

    @staticmethod
    def of(coverage: Coverage) -> Moments:
        """Where nodes of the blame tree lie."""
        return Moments.union(coverage.item, coverage.start_ns, coverage.end_ns)

    @staticmethod
    def of_rows(item: list[int], start_ns: list[int], end_ns: list[int]) -> Moments:
        """From lists of equal length."""
        columns = (np.array(column, np.int64) for column in (item, start_ns, end_ns))
        return Moments.union(*columns)

    @staticmethod
    def of_all(parts: Iterable[Moments]) -> Moments:
        """What any of them holds."""
        all_parts = [Moments.of_rows([], [], []), *parts]
        return Moments.union(
            np.concatenate([part.item for part in all_parts]),
            np.concatenate([part.start_ns for part in all_parts]),
            np.concatenate([part.end_ns for part in all_parts]),
        )

    @property
    def ns(self) -> int:
        """Their total length."""
        return int((self.end_ns - self.start_ns).sum())

    def by_item(self, items: int) -> Int64s:
        """Length per root item 0 .. items - 1."""
        total: Int64s = np.zeros(items, np.int64)
        inside = self.item < items
        np.add.at(total, self.item[inside], (self.end_ns - self.start_ns)[inside])
        return total

    def overlap(self, start_ns: Int64s, end_ns: Int64s, item: Int64s) -> Int64s:
        """How much of each interval [start_ns, end_ns) of an item these moments cover."""
        covered: Int64s = np.maximum(self._before(item, end_ns) - self._before(item, start_ns), 0)
        return covered

    def minus(self, other: Moments) -> Moments:
        """What these hold and the other does not."""
        item = np.concatenate([self.item, other.item, self.item, other.item])
        moment = np.concatenate([self.start_ns, other.start_ns, self.end_ns, other.end_ns])
        ones, twos = np.ones(len(self.item), np.int64), np.full(len(other.item), 2, np.int64)
        step = np.concatenate([ones, twos, -ones, -twos])
        order = np.lexsort((moment, item))
        item, moment, level = item[order], moment[order], np.cumsum(step[order])
        alone = np.flatnonzero((level[:-1] == 1) & (item[:-1] == item[1:])) if len(level) else np.zeros(0, np.int64)
        return Moments.union(item[alone], moment[alone], moment[alone + 1])

    def plus(self, other: Moments) -> Moments:
        """What either holds."""
        return Moments.of_all((self, other))

    def longest(self, ns: int) -> Moments:
        """The longest intervals, the last of them cut, so that they add up to at most `ns`."""
        order = np.argsort(self.start_ns - self.end_ns, kind="stable")
        length = (self.end_ns - self.start_ns)[order]
        room = np.maximum(0, ns - (np.cumsum(length) - length))
        taken = np.minimum(length, room)
        return Moments.union(self.item[order], self.start_ns[order], self.start_ns[order] + taken)

    def within(self, spans: list[tuple[int, int]]) -> Moments:
        """The parts that lie in any of these spans of time [start, end), in ns, whatever their item."""
        if not spans:
            return Moments.of_rows([], [], [])
        ordered = np.array(sorted(spans), np.int64)
        start, end = ordered[:, 0], ordered[:, 1]
        first = np.searchsorted(np.maximum.accumulate(end), self.start_ns, side="right")
        count = np.maximum(np.searchsorted(start, self.end_ns, side="left") - first, 0)
        row = np.repeat(np.arange(len(self.item)), count)
        span = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(len(row))
        low, high = np.maximum(self.start_ns[row], start[span]), np.minimum(self.end_ns[row], end[span])
        return Moments.union(self.item[row], low, high)

    def common(self, other: Moments) -> int:
        """Length of what both hold."""
        return int(self.overlap(other.start_ns, other.end_ns, other.item).sum())

    def _before(self, item: Int64s, moment: Int64s) -> Int64s:
        """Covered length of each item before a moment."""
        if len(self.item) == 0 or len(item) == 0:
            return np.zeros(len(item), np.int64)
        low = min(int(self.start_ns.min()), int(moment.min()))
        room = max(int(self.end_ns.max()), int(moment.max())) - low + 1
        begin = self.item * room + self.start_ns - low
        length = self.end_ns - self.start_ns
        done = np.append(0, np.cumsum(length))
        point = item * room + moment - low
        index = np.searchsorted(begin, point, side="right")
        previous = np.maximum(index - 1, 0)
        partial = np.clip(point - begin[previous], 0, length[previous])
        whole = np.where(index > 0, done[previous] + partial, 0)
        base = done[np.searchsorted(begin, item * room, side="left")]
        before: Int64s = whole - base
        return before
