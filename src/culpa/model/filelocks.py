"""Waits for the lock of a file: flock(2), fcntl(2) and lockf(3), and tries that are repeated after a sleep.

A waker is believed where its call is on the same file and can let a lock go (flock, fcntl, close), or where it ended:
its end lets go what it held. Whoever holds a lock all the while wakes nobody; of those the kernel's list of locks tells
(`schema.FILE_LOCKS`), as it does of the holder of a lock that is only tried for, as SQLite does it: a try that is
refused, a sleep, the next try on the same file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model import childwaits
from culpa.model.axis import NO_THREAD, Bools, Int64s
from culpa.model.calls import Calls, pick
from culpa.model.kinds import HOLDER_UNKNOWN, NONE, Kind
from culpa.model.objects import Objects, Thing
from culpa.model.pieces import Pieces
from culpa.model.timeline import Timeline
from culpa.model.wakes import Wakes

FILE_LOCK, TRIED_FOR = "of a file", "of a file, tried for again and again"
AT_RETURN_NS = 1_000_000
"""Before Linux 6.5 close(2) let a flock go on its way out to the program, after its return was seen."""


class FileLockWaits:
    """Explains waits for locks of files."""

    def __init__(
        self, timeline: Timeline, calls: Calls, objects: Objects, ended: Mapping[int, int], capture: Capture
    ) -> None:
        self._timeline, self._calls, self._objects = timeline, calls, objects
        self._held = _Held(capture.frame(schema.FILE_LOCKS))
        states = capture.frame(schema.THREAD_STATES).drop_nulls(["tid", "nr", "dev", "ino"]).sort("ts_ns")
        self._sits_on = {row[:2]: row[2:] for row in states.select("tid", "nr", "dev", "ino").iter_rows()}
        self._wakes = wakes = Wakes.of(timeline, calls, syscalls.FILE_LOCK)
        gone = childwaits.ended_at_wake(timeline, wakes.segment, ended)
        self._by = np.where((wakes.waker >= 0) & (gone | self._lets_go(wakes)), wakes.waker, NO_THREAD)

    def _lets_go(self, wakes: Wakes) -> Bools:
        """Wakers whose call, or the one just over, is on the file that the waiter's call is on."""
        calls, spans = self._calls, self._calls.spans
        moment = self._timeline.axis.move(wakes.end - 1, np.maximum(wakes.waker, 0))
        last = np.searchsorted(spans.start, moment, side="right") - 1
        near = (wakes.waker >= 0) & (pick(spans.end, last, NONE) >= moment - AT_RETURN_NS)
        act = pick(spans.row, np.where(near, last, NONE), NONE)
        same = (calls.ino(act) == calls.ino(wakes.call)) & (calls.dev(act) == calls.dev(wakes.call))
        found: Bools = same & calls.among(act, syscalls.FILE_LOCK | syscalls.CLOSE)
        return found

    def explain(self, pieces: Pieces, index: Int64s) -> None:
        """Follow each wait to whoever held the lock.

        Args:
            index: pieces that are interruptible waits.
        """
        row = self._wakes.row_of(pieces.segment[index])
        index, row = index[row >= 0], row[row >= 0]
        dev, ino = self._files(pieces, index)
        self._blame(pieces, index, dev, ino, pick(self._by, row, NO_THREAD), FILE_LOCK)

    def explain_tries(self, pieces: Pieces, index: Int64s) -> None:
        """The same for sleeps between a try that was refused and the next one.

        Args:
            index: pieces that are interruptible waits.
        """
        index = index[pieces.kind[index] == Kind.SLEEP]
        refused = self._refused_before(pieces.start[index])
        index, refused = index[refused != NONE], refused[refused != NONE]
        dev, ino = self._calls.dev(refused), self._calls.ino(refused)
        self._blame(pieces, index, dev, ino, np.full(len(index), NO_THREAD), TRIED_FOR)

    def _files(self, pieces: Pieces, index: Int64s) -> tuple[Int64s, Int64s]:
        """Device and inode of the files that calls are on; of a call still open /proc knows it."""
        call = pieces.call[index]
        dev, ino, nr = self._calls.dev(call), self._calls.ino(call), self._calls.nr(call)
        tids = pieces.axis.tids[pieces.lane[index]]
        for place in np.flatnonzero(ino == NONE).tolist():
            dev[place], ino[place] = self._sits_on.get((int(tids[place]), int(nr[place])), (NONE, NONE))
        return dev, ino

    def _refused_before(self, points: Int64s) -> Int64s:
        """For each sleep the row of the refused try that it follows and is to be followed by another, else `NONE`."""
        calls, spans, none = self._calls, self._calls.spans, len(self._calls.spans.row)
        locks = np.flatnonzero(calls.among(spans.row, syscalls.FILE_LOCK))
        fails = locks[calls.ret(spans.row[locks]) == -syscalls.EAGAIN]
        sleeps = np.flatnonzero(calls.among(spans.row, syscalls.SLEEP | syscalls.MANY_WAIT))
        own = np.searchsorted(spans.start, points, side="right") - 1
        failed = np.append(fails, NONE)[np.searchsorted(fails, own) - 1]
        again = np.append(locks, none)[np.searchsorted(locks, own)]
        before = np.append(sleeps, NONE)[np.searchsorted(sleeps, own) - 1]
        after = np.append(sleeps, none)[np.searchsorted(sleeps, own, side="right")]
        between = (failed > before) & (again < after)
        first, second = (np.where(between, which, NONE) for which in (failed, again))
        lanes = [pick(spans.start, which, NONE) // self._timeline.axis.span for which in (first, second)]
        rows = [pick(spans.row, which, NONE) for which in (first, second)]
        here = between & (lanes[0] == lanes[1]) & (lanes[0] == points // self._timeline.axis.span)
        here &= (calls.ino(rows[0]) == calls.ino(rows[1])) & (calls.dev(rows[0]) == calls.dev(rows[1]))
        return np.where(here, rows[0], NONE)

    def _blame(self, pieces: Pieces, index: Int64s, dev: Int64s, ino: Int64s, by: Int64s, lock: str) -> None:
        """Name the lock, and lead on to its holder; where only its process is known, name that."""
        pids = self._timeline.pid[pieces.lane[index]]
        keys = np.stack([dev, ino, pids], axis=1)
        for key in np.unique(keys, axis=0).tolist():
            here = np.flatnonzero((keys == key).all(axis=1))
            path = self._objects.file(key[0], key[1]) if key[1] != NONE else None
            holder = self._held.holders(key[0], key[1], key[2], pieces.axis.time(pieces.start[index[here]]))
            lanes = np.where(by[here] >= 0, by[here], self._only_lane(holder))
            known = (lanes >= 0) | (holder != NONE)
            for which, stage in ((known, None), (~known, HOLDER_UNKNOWN)):
                pieces.label(index[here[which]], Thing(path=path, lock=lock, stage=stage), Kind.LOCK)
            pieces.next[index[here]] = lanes
            pieces.owner[index[here]] = np.where(lanes >= 0, NONE, holder)
        pieces.idle[index] = False

    def _only_lane(self, pids: Int64s) -> Int64s:
        """The lanes of processes that have one thread; which of several holds a lock the kernel does not say."""
        lanes, threads = np.unique(self._timeline.pid, return_counts=True)
        single = np.isin(pids, lanes[threads == 1])
        return np.where(single, self._timeline.axis.lane(pids), NO_THREAD)


class _Held:
    """Who held which lock, whenever somebody looked."""

    def __init__(self, rows: pl.DataFrame) -> None:
        held = rows.filter(~pl.col("waits")).drop_nulls(["ts_ns", "pid", "dev", "ino"])
        self._held = held.sort("ts_ns", "exclusive")

    def holders(self, dev: int, ino: int, waiter: int, times_ns: Int64s) -> Int64s:
        """The process that held the file's lock when it was looked at next to each moment, but for the waiter; `NONE`
        where nobody was seen to.
        """
        of_file = (pl.col("dev") == dev) & (pl.col("ino") == ino) & (pl.col("pid") != waiter)
        rows = self._held.filter(of_file).unique("ts_ns", keep="last", maintain_order=True)
        seen, pids = rows["ts_ns"].to_numpy(), rows["pid"].cast(pl.Int64).to_numpy()
        if not len(seen):
            return np.full(len(times_ns), NONE, np.int64)
        after = np.minimum(np.searchsorted(seen, times_ns), len(seen) - 1)
        before = np.maximum(after - 1, 0)
        found: Int64s = pids[np.where(seen[after] - times_ns < times_ns - seen[before], after, before)]
        return found
