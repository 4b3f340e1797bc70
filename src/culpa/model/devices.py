"""Which block request ended a wait, and which ones the device finished before it."""

from __future__ import annotations

import numpy as np
import polars as pl

from culpa.model.axis import Axis, Int64s, expand
from culpa.model.calls import pick

COMPLETION_LAG_NS = 100_000
"""The completion is recorded just before the waiter is woken; on a stacked device a worker thread lies between."""


class BlockIndex:
    """Block requests, findable by who submitted them, by inode and by device; rows keep the table's order.

    `kernel_tids`: the kernel's own threads; `journal_tids`: those of them that write journals.
    """

    def __init__(
        self, blocks: pl.DataFrame, axis: Axis, kernel_tids: frozenset[int] = frozenset(),
        journal_tids: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        self._axis = axis
        complete = blocks["complete_ns"].to_numpy(allow_copy=True) if len(blocks) else np.zeros(0)
        self.done: Int64s = blocks["complete_ns"].fill_null(np.iinfo(np.int64).max // 4).to_numpy()
        queued = blocks["queued_ns"].fill_null(axis.start_ns).to_numpy()
        self.issue = blocks["issue_ns"].fill_null(pl.Series(queued, dtype=pl.Int64)).to_numpy()
        self.dev = _integers(blocks, "dev")
        self._finished = ~np.isnan(complete.astype(float)) if len(blocks) else np.zeros(0, bool)
        self._by_thread = Keyed(_integers(blocks, "tid")[:, None], self.done, self._finished, axis)
        self._made_by_thread = Keyed(_integers(blocks, "tid")[:, None], queued, np.ones(len(blocks), bool), axis)
        self.inodes = inodes = np.stack([_integers(blocks, "ino_dev"), _integers(blocks, "ino")], axis=1)
        self._by_inode = Keyed(inodes, self.done, self._finished & (inodes[:, 1] > 0), axis)
        self._by_device = Keyed(self.dev[:, None], self.done, self._finished, axis)
        self._made = queued
        self.tid = _integers(blocks, "tid")
        reads, writes = ((blocks["op"] == op).fill_null(value=False).to_numpy() for op in ("read", "write"))
        passed_on = self._finished & reads & (inodes[:, 1] > 0) & np.isin(self.tid, list(kernel_tids))
        journal = self._finished & writes & np.isin(self.tid, list(journal_tids))
        every = np.zeros_like(self.dev)[:, None]
        self._passed_on, self._journal = (Keyed(every, self.done, which, axis) for which in (passed_on, journal))

    def ended(self, start: Int64s, end: Int64s, dev: Int64s, ino: Int64s) -> Int64s:
        """For each wait [start, end) on the axis the request whose completion ended it, else -1.

        Args:
            start, end: points of the axis, end being the wake.
            dev, ino: the file of the system call that waits, -1 where there is none.

        The waiter's own requests come first, then those of its file, then those of its file system's device. What was
        made after the wait did not end it: the waiter's next request can complete within the lag.
        """
        tid = self._axis.tids[start // self._axis.span] if len(start) else start
        begin, until = self._axis.time(start), self._axis.time(end)
        found = np.full(len(start), -1, np.int64)
        for index, keys, usable in (
            (self._by_thread, tid[:, None], tid >= 0),
            (self._by_inode, np.stack([dev, ino], axis=1), ino > 0),
            (self._by_device, dev[:, None], dev >= 0),
        ):
            missing = (found < 0) & usable
            row = index.last_before(keys[missing], begin[missing], until[missing])
            found[missing] = np.where(pick(self._made, row, -1) <= until[missing], row, -1)
        return found

    def ended_by(self, tid: Int64s, begin: Int64s, until: Int64s) -> Int64s:
        """For each (thread, stretch) the request of that thread that was finished last in it, else -1.

        Args:
            tid: who submitted it; -1 for nobody.
            begin, until: moments; what is recorded a little after `until` counts as well.
        """
        return np.where(tid >= 0, self._by_thread.last_before(tid[:, None], begin, until), -1)

    def in_flight(self, tid: Int64s, moment: Int64s) -> Int64s:
        """For each (thread, moment) the request of that thread that was made last before it, if unfinished, else -1."""
        found = self._made_by_thread.last_within(tid[:, None], np.full(len(tid), self._axis.start_ns), moment)
        over = self.done[found] <= moment if len(self.done) else np.zeros(len(tid), bool)
        return np.where((found >= 0) & ~over, found, -1)

    def passed_on(self, start: Int64s, end: Int64s) -> Int64s:
        """For each wait for a page the read that ended it and that a kernel thread sent, else -1.

        A limit holds back what a thread asks for; a kernel thread sends it later. A page fault has no call that names
        the file, so the moments must tell: made within the wait, and completed just before its end.
        """
        found = self._just_before(self._passed_on, start, end)
        return np.where(pick(self._made, found, -1) >= self._axis.time(start), found, -1)

    def journal_writes(self, start: Int64s, end: Int64s) -> Int64s:
        """For each wait for a buffer that a journal was writing the journal's write that ended it, else -1."""
        return self._just_before(self._journal, start, end)

    def _just_before(self, among: Keyed, start: Int64s, end: Int64s) -> Int64s:
        """The last of some requests that completed within the wait, at its end; else -1."""
        begin, until = self._axis.time(start), self._axis.time(end)
        found = among.last_before(np.zeros_like(start)[:, None], begin, until)
        return np.where(pick(self.done, found, -1) >= until - COMPLETION_LAG_NS, found, -1)

    def ahead(self, start: Int64s, end: Int64s, request: Int64s) -> tuple[Int64s, Int64s, Int64s, Int64s]:
        """What the device worked on before it came to the request that a wait is for.

        Args:
            start, end: waits, points of the axis.
            request: for each wait the row of the request that ended it.

        Returns:
            Rows (wait, request, begin, stop), sorted by wait and time: from `begin` to `stop` the device worked on that
            other request, the next to complete of those it was given no later than the one waited for. A wait that a
            timer ended before its request was done ends in the midst of such a one.
        """
        until = np.minimum(self._axis.time(start) + (end - start), self.done[request])
        order = np.argsort(self.done, kind="stable")
        order = order[self._finished[order]]
        nothing = np.zeros(0, np.int64)
        found: list[tuple[Int64s, Int64s]] = [(nothing, nothing)]
        for dev in np.unique(self.dev[request]).tolist():
            mine, rows = np.flatnonzero(self.dev[request] == dev), order[self.dev[order] == dev]
            low = np.searchsorted(self.done[rows], self._axis.time(start[mine]), side="right")
            high = np.searchsorted(self.done[rows], until[mine], side="left")
            more = (until[mine] < self.done[request[mine]]).astype(np.int64)
            nth, index = expand(low, np.minimum(high + more, len(rows)).astype(np.int64))
            keep = self.issue[rows[index]] <= self.issue[request[mine[nth]]]
            keep &= rows[index] != request[mine[nth]]
            found.append((mine[nth[keep]], rows[index[keep]]))
        wait: Int64s = np.concatenate([part[0] for part in found])
        other: Int64s = np.concatenate([part[1] for part in found])
        order = np.lexsort((np.arange(len(wait)), self.done[other], wait))
        wait, other = wait[order], other[order]
        over: Int64s = np.minimum(self.done[other], until[wait]).astype(np.int64)
        stop: Int64s = start[wait] + (over - self._axis.time(start[wait]))
        first = np.append(True, wait[1:] != wait[:-1])[: len(wait)]
        begin: Int64s = np.where(first, start[wait], np.append(0, stop[:-1])[: len(wait)]).astype(np.int64)
        return wait, other, begin, stop


class Keyed:
    """Rows sorted by (key, completion), searched by one binary search on a combined number."""

    def __init__(
        self, keys: Int64s, done: Int64s, usable: np.ndarray[tuple[int], np.dtype[np.bool_]], axis: Axis
    ) -> None:
        rows = np.flatnonzero(usable)
        self._axis = axis
        self._known = {tuple(key): i for i, key in enumerate(np.unique(keys[rows], axis=0).tolist())}
        code = np.array([self._known[tuple(key)] for key in keys[rows].tolist()], dtype=np.int64)
        point = axis.place(code, done[rows])
        order = np.argsort(point, kind="stable")
        self._point, self._row = point[order], rows[order]

    def last_within(self, keys: Int64s, begin: Int64s, until: Int64s) -> Int64s:
        """The last row of the key in [begin, until], else -1."""
        code = np.array([self._known.get(tuple(key), -1) for key in keys.tolist()], dtype=np.int64)
        if len(self._row) == 0 or len(code) == 0:
            return np.full(len(code), -1, np.int64)
        low, high = self._axis.place(code, begin), self._axis.place(code, until)
        found = np.maximum(np.searchsorted(self._point, high, side="right") - 1, 0)
        fits = (code >= 0) & (self._point[found] >= low) & (self._point[found] <= high)
        return np.where(fits, self._row[found], -1)

    def last_before(self, keys: Int64s, begin: Int64s, until: Int64s) -> Int64s:
        """The last row of the key that completed in [begin, until + lag], else -1."""
        code = np.array([self._known.get(tuple(key), -1) for key in keys.tolist()], dtype=np.int64)
        if len(self._row) == 0 or len(code) == 0:
            return np.full(len(code), -1, np.int64)
        low, wake, high = (self._axis.place(code, t) for t in (begin, until, until + COMPLETION_LAG_NS))
        before = np.searchsorted(self._point, wake, side="right") - 1
        holds = (before >= 0) & (self._point[np.maximum(before, 0)] >= low)
        found = np.where(holds, before, np.minimum(before + 1, len(self._row) - 1))
        point = self._point[found]
        fits = (code >= 0) & (point >= low) & (point <= high)
        return np.where(fits, self._row[found], -1)


def _integers(frame: pl.DataFrame, name: str) -> Int64s:
    return frame[name].cast(pl.Int64, strict=False).fill_null(-1).to_numpy()
