"""Waits for requests that the kernel works on beside the thread: io_uring_enter, and io_getevents of libaio.

Such a wait is interruptible and its call names no file. It was for the request whose completion was posted last before
the thread went on: the file and the operation are that request's. A block request of its submitter that was finished
just before the wake-up makes it a wait for the device; a worker of io_uring that ended it, a wait for what that worker
did. What the next piece of work comes through (a connection, a timer, a word of another thread) is no wait for a disk.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model.axis import NO_THREAD, Bools, Int64s
from culpa.model.calls import FAR_NS, Calls, integers, pick
from culpa.model.devices import BlockIndex, Keyed
from culpa.model.kernelwaits import KernelWaits
from culpa.model.kinds import NONE, Kind
from culpa.model.objects import Objects, Thing
from culpa.model.pieces import Pieces
from culpa.model.requests import Requests
from culpa.model.timeline import Activity, Timeline
from culpa.model.wakes import UNINTERRUPTIBLE, Wakes

CLOSE_NS = 1_000_000
"""So soon after its block request a wait ends, where nothing else tells what it was for."""
ETIME = 62
WORKER, TAKER = Thing(stage="a worker of io_uring"), Thing(stage="the thread that takes requests of io_uring")
_TO_FILE = ("reg", "blk", "dir")


class AsyncWaits:
    """Waits in calls that wait for such requests: what ended each of them."""

    def __init__(
        self, capture: Capture, timeline: Timeline, calls: Calls, blocks: BlockIndex, objects: Objects,
        requests: Requests,
    ) -> None:  # fmt: skip
        self._timeline, self._calls, self._objects = timeline, calls, objects
        self._wakes = wakes = Wakes.of(timeline, calls, syscalls.ASYNC_WAIT)
        self._rows = _described(capture, objects, requests)
        self._ended = self._ended_by()
        self._worker = self._worker_lanes()
        self._taker = self._taker_lanes()
        self._block = self._blocks_of(blocks)
        self._given = pick(self._rows["submit_ns"].fill_null(timeline.axis.start_ns).to_numpy(), self._ended, FAR_NS)
        self._done = pick(blocks.done, self._block, FAR_NS)
        self._timed_out = np.isin(calls.ret(wakes.call), (0, -ETIME)) & (self._ended == NONE)

    def _ended_by(self) -> Int64s:
        """For each wait the request, a row of `async_io`, that was completed last before the thread went on."""
        wakes, calls, axis = self._wakes, self._calls, self._timeline.axis
        key = np.stack([integers(self._rows, "pid"), integers(self._rows, "ring")], axis=1)
        done = self._rows["complete_ns"].fill_null(NONE).to_numpy()
        by_ring = Keyed(key, done, done >= 0, axis)
        ring = np.where(calls.among(wakes.call, syscalls.RING_WAIT), calls.ino(wakes.call), calls.arg(wakes.call, 0))
        begin = axis.time(wakes.start)
        follows = np.append(wakes.lane[1:] == wakes.lane[:-1], False)[: len(begin)]
        again = np.where(follows, np.append(begin[1:], 0)[: len(begin)], axis.end_ns)
        until = np.minimum(calls.exit_ns(wakes.call), again)
        return by_ring.last_within(np.stack([self._timeline.pid[wakes.lane], ring], axis=1), begin, until)

    def _worker_lanes(self) -> Int64s:
        """For each wait the worker of io_uring that ended it: it posted the completion, or had the waiter do that.

        Others' workers are bystanders, whom the interrupt of a device hit.
        """
        ender, giver = (pick(integers(self._rows, name), self._ended, NONE) for name in ("ender_tid", "tid"))
        giver = np.where(self._ended == NONE, self._own_tids(), giver)
        waker = self._timeline.waker[self._wakes.segment]
        pairs, which = np.unique(np.stack([waker, giver], axis=1), axis=0, return_inverse=True)
        held = np.array([self._objects.works_for(one, other) for one, other in pairs.tolist()], bool)
        believed = np.append(held, False)[which.reshape(-1)]
        workers = list(self._objects.ring_workers)
        tid = np.where(np.isin(ender, workers), ender, np.where(believed, waker, NONE))
        lanes: Int64s = self._timeline.axis.lane(tid).astype(np.int64)
        lanes[lanes == self._wakes.lane] = NO_THREAD
        return lanes

    def _own_tids(self) -> Int64s:
        """For each wait who waits."""
        lane = self._wakes.lane
        return self._timeline.axis.tids[lane] if len(lane) else lane

    def _taker_lanes(self) -> Int64s:
        """For each wait the thread that takes requests for the waiter and posts their completions (SQPOLL)."""
        tid = pick(integers(self._rows, "tid"), self._ended, NONE)
        takers = self._objects.ring_threads - self._objects.ring_workers
        return self._timeline.axis.lane(np.where(np.isin(tid, list(takers)), tid, NONE)).astype(np.int64)

    def _blocks_of(self, blocks: BlockIndex) -> Int64s:
        """For each wait the block request that it was for, else `NONE`."""
        wakes, axis = self._wakes, self._timeline.axis
        begin, end = axis.time(wakes.start), axis.time(wakes.start) + (wakes.end - wakes.start)
        told = self._ended != NONE
        to_file = pick(self._rows["to_file"].cast(pl.Int64).to_numpy(), self._ended, 0) != 0
        own = self._own_tids()
        tid = np.where(told, pick(integers(self._rows, "tid"), self._ended, NONE), own)
        found = blocks.ended_by(tid, np.where(told, begin, np.maximum(begin, end - CLOSE_NS)), end)
        # One that a worker gave to the device, and did not wait for.
        workers = pick(integers(self._rows, "ender_tid"), self._ended, NONE)
        found = np.where(found == NONE, blocks.ended_by(workers, begin, end), found)
        # A timer or a signal ended the wait, and when the thread ran at last the request was over as well.
        late = np.flatnonzero(told & (found == NONE))
        found[late] = blocks.in_flight(tid[late], end[late])
        found[(told & ~to_file) | (self._worker != NO_THREAD)] = NONE
        self._add_unfinished(found, blocks, own, end)
        return found

    def _add_unfinished(self, found: Int64s, blocks: BlockIndex, own: Int64s, end: Int64s) -> None:
        """Waits that last until the window ends, or that a timer ended, while the thread had something under way."""
        calls, call, axis = self._calls, self._wakes.call, self._timeline.axis
        lasts = calls.exit_ns(call) == FAR_NS
        cut_off = lasts | np.isin(calls.ret(call), (0, -ETIME))
        mine = np.flatnonzero((self._ended == NONE) & (found == NONE) & (self._worker == NO_THREAD) & cut_off)
        given, to_file = self._rows["submit_ns"].fill_null(NONE).to_numpy(), self._rows["to_file"].to_numpy()
        by_thread = Keyed(integers(self._rows, "tid")[:, None], given, to_file & (given >= 0), axis)
        open_ = by_thread.last_within(own[mine][:, None], np.full(len(mine), axis.start_ns), end[mine])
        open_[pick(self._rows["complete_ns"].fill_null(FAR_NS).to_numpy(), open_, NONE) <= end[mine]] = NONE
        found[mine] = blocks.in_flight(own[mine], end[mine])
        for row in mine[(found[mine] == NONE) & (open_ != NONE) & lasts[mine]].tolist():
            self._worker[row] = self._blocked_worker(int(own[row]))
        self._ended[mine] = open_

    def _blocked_worker(self, tid: int) -> int:
        """The one worker of a thread that waits uninterruptibly at the window's end; `NO_THREAD`: none or several."""
        timeline, axis = self._timeline, self._timeline.axis
        mine = [worker for worker in sorted(self._objects.ring_workers) if self._objects.works_for(worker, tid)]
        lanes = axis.lane(np.array(mine, np.int64))
        lanes = lanes[(lanes >= 0) & (timeline.pid[lanes] == timeline.pid[axis.lane(np.array([tid]))])]
        point = axis.place(lanes, np.full(len(lanes), axis.end_ns - 1))
        last = np.searchsorted(timeline.start, point, side="right") - 1
        state = timeline.state[last]
        blocked = (timeline.activity[last] == Activity.WAITING) & (state >= 0) & (state & UNINTERRUPTIBLE != 0)
        found = lanes[blocked]
        return int(found[0]) if len(found) == 1 else NO_THREAD

    def cuts(self) -> Int64s:
        """Points at which a thread that takes requests took one, and from which on it might have told of its end."""
        axis, lane = self._timeline.axis, self._wakes.lane
        mine = (self._taker != NO_THREAD) & (self._block != NONE)
        return np.concatenate([axis.place(lane[mine], moment[mine]) for moment in (self._given, self._done)])

    def put(self, matched: Int64s) -> Int64s:
        """The same rows of `blocks`, one for each segment of the timeline, with those that these waits were for."""
        known = self._block != NONE
        matched[self._wakes.segment[known]] = self._block[known]
        return matched

    def explain(self, pieces: Pieces, index: Int64s, kernel: KernelWaits, serving: Bools, resting: Bools) -> None:
        """Name what these waits were for.

        Args:
            pieces: cut where the requests of `put` were issued.
            index: pieces that are interruptible waits.
            kernel: divides the time of a device.
            serving: which of them lie within a request that the thread serves.
            resting: which of them sit in a call that may have begun with a question asked before the window.
        """
        self._rest_workers(pieces, index)
        row = self._wakes.row_of(pieces.segment[index])
        mine = row >= 0
        index, row, serving, resting = index[mine], row[mine], serving[mine], resting[mine]
        at_device, by_worker = self._block[row] != NONE, self._worker[row] != NO_THREAD
        moment = pieces.axis.time(pieces.start[index])
        taken = (moment >= self._given[row]) & (moment < self._done[row])
        by_taker = at_device & (self._taker[row] != NO_THREAD) & ~taken
        kernel.serve(index[at_device & ~by_taker])
        for which, lane, thing in ((by_worker, self._worker, WORKER), (by_taker, self._taker, TAKER)):
            pieces.follow(index[which], lane[row[which]], Kind.PEER)
            pieces.label(index[which], thing)
        rest = ~at_device & ~by_worker
        self._name_the_rest(pieces, index[rest], row[rest], serving[rest], resting[rest])
        self._wrap(pieces, index, row)

    def follow(self, pieces: Pieces, index: Int64s) -> None:
        """Follow waits for bytes of a pipe or a unix socket to the thread that sent them: it woke the waiter within its
        call on the other end.

        Args:
            index: pieces that are interruptible waits, whose idle ones are known by now.
        """
        wakes, calls = self._wakes, self._calls
        ino = pick(integers(self._rows, "ino"), self._ended, NONE)
        ends, which = np.unique(ino, return_inverse=True)
        peers = self._objects.unix_peers
        other = np.array([peers.get(number, number) for number in ends.tolist()], dtype=np.int64)[which.reshape(-1)]
        sends = calls.among(wakes.act, syscalls.SEND | syscalls.CLOSE) & (calls.ino(wakes.act) == other)
        sends &= (ino > 0) & (wakes.waker != wakes.lane) & (self._block == NONE)
        row = wakes.row_of(pieces.segment[index])
        mine = (row >= 0) & np.append(sends, False)[row]
        pieces.follow(index[mine], wakes.waker[row[mine]], Kind.PEER)

    def _rest_workers(self, pieces: Pieces, index: Int64s) -> None:
        """A thread of the kernel's pool that sleeps, in no call and not uninterruptibly, has nothing to do."""
        tids = np.append(pieces.axis.tids, NONE)[pieces.lane[index]]
        mine = index[np.isin(tids, list(self._objects.ring_threads))]
        pieces.kind[mine[pieces.call[mine] == NONE]] = Kind.IDLE

    def _name_the_rest(self, pieces: Pieces, index: Int64s, row: Int64s, serving: Bools, resting: Bools) -> None:
        """Waits for no disk: for work, for a timer, or for an answer that was asked for."""
        ended = self._ended[row]
        kept = pick(self._rows["to_file"].cast(pl.Int64).to_numpy(), ended, 0) != 0
        asked = pick(self._rows["asked"].cast(pl.Int64).to_numpy(), ended, 0) != 0
        timer = self._timed_out[row] | (self._is_op(ended, "timeout") & ~kept)
        pieces.kind[index[timer & serving]] = Kind.SLEEP
        idle = ~kept & ~asked & ~serving & ~resting
        pieces.kind[index[idle]] = Kind.IDLE
        ino = pick(integers(self._rows, "ino"), ended, NONE)
        for number in np.unique(ino[asked]).tolist():
            socket = self._objects.sockets.get(number)
            if socket is not None:
                pieces.label(index[asked & (ino == number)], Thing(peer=socket.peer, stage="through a ring"))

    def _is_op(self, rows: Int64s, op: str) -> Bools:
        named: Bools = pick((self._rows["op"] == op).fill_null(value=False).cast(pl.Int64).to_numpy(), rows, 0) != 0
        return named

    def _wrap(self, pieces: Pieces, index: Int64s, row: Int64s) -> None:
        """Put waits for files into the operation they are part of."""
        ended = self._ended[row]
        kept = pick(self._rows["to_file"].cast(pl.Int64).to_numpy(), ended, 0) != 0
        kept |= (ended == NONE) & (self._block[row] != NONE)
        syncs = kept & self._is_op(ended, "fsync")
        on = self._files(pieces, ended, pieces.call[index])
        pieces.wrap(index[syncs], Kind.FSYNC, on[syncs])
        pieces.wrap(index[kept & ~syncs], Kind.IO, on[kept & ~syncs])

    def _files(self, pieces: Pieces, ended: Int64s, call: Int64s) -> Int64s:
        """Things: the requests' files, else the calls."""
        dev, ino = (pick(integers(self._rows, name), ended, NONE) for name in ("dev", "ino"))
        nr = self._calls.nr(call).astype(np.int64)
        keys, inverse = np.unique(np.stack([dev, ino, nr], axis=1), axis=0, return_inverse=True)
        things = [
            Thing(path=self._objects.file(d, i)) if i > 0 else Thing(syscall=self._calls.numbers.name(n))
            for d, i, n in keys.tolist()
        ]
        numbers = np.array([pieces.things.intern(thing) for thing in things], np.int64)
        return numbers[inverse.reshape(-1)] if len(keys) else np.zeros(0, np.int64)


def _described(capture: Capture, objects: Objects, requests: Requests) -> pl.DataFrame:
    """`schema.ASYNC_IO` with two columns more: `to_file` (it reads or writes a file), and `asked` (it awaits bytes at
    the client's end of a connection through which something was sent since the last came).
    """
    rows = capture.frame(schema.ASYNC_IO).sort("complete_ns", "submit_ns", nulls_last=True).with_row_index("row")
    asking = requests.exchanges.filter(pl.col("role") == "client")
    sent = asking.select("ino", at="ask_end_ns", row=pl.lit(None, pl.UInt32))
    moved = rows.filter(pl.col("op").is_in(["send", "recv", "read", "write"]) & (pl.col("file_type") == "sock"))
    is_out = pl.col("op").is_in(["send", "write"])
    moves = pl.concat([moved.select("ino", at="complete_ns", row=pl.when(~is_out).then("row")), sent])
    moves = moves.filter(pl.col("ino").is_in(list(objects.client_sockets)))
    last = moves.sort("ino", "at", nulls_last=True).with_columns(
        asked=pl.col("row").shift().over("ino").is_null() & pl.col("at").shift().over("ino").is_not_null()
    )
    asked = last.filter("asked")["row"].drop_nulls()
    by_file = pl.col("file_type").is_in(list(_TO_FILE)) | (
        pl.col("file_type").is_null() & (pl.col("interface") == "libaio")
    )
    return rows.with_columns(to_file=by_file.fill_null(value=False), asked=pl.col("row").is_in(asked.implode()))
