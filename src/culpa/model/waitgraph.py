"""Whose activity each wait was spent on.

Every thread's timeline is cut once more, so that each *piece* has one explanation: a leaf (it ran, it queued for a CPU,
the device served it, it slept by choice) or another thread whose activity at the same moments explains it. Following
those edges from moment to moment is all that blame does. What no evidence explains stays `unexplained`.

Wakers are believed only where they cannot be a bystander: the journal's thread, when the waiter's stack says "journal";
a thread that was in a call on the same lock, pipe or eventfd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model import childwaits, stopwaits, timeouts
from culpa.model.arrivals import Arrivals, Busy, only_taker
from culpa.model.asyncwaits import AsyncWaits
from culpa.model.axis import NO_THREAD, Axis, Bools, Int64s, distinct
from culpa.model.calls import UNKNOWN_NR, Calls
from culpa.model.connectwaits import ConnectWaits
from culpa.model.devices import BlockIndex
from culpa.model.filelocks import FileLockWaits
from culpa.model.filewaits import FileWaits
from culpa.model.hungwaits import HungWaits
from culpa.model.kernelwaits import KernelWaits
from culpa.model.kinds import NONE, Kind
from culpa.model.lockwaits import LockWaits
from culpa.model.lookups import Lookups
from culpa.model.objects import Objects, Thing
from culpa.model.peerwaits import Conversations, PeerWaits
from culpa.model.pieces import Pieces
from culpa.model.requests import Requests
from culpa.model.resting import debts
from culpa.model.stages import HELD_BUFFER, SWAP_IN, Stage, classify
from culpa.model.timeline import Activity, Timeline
from culpa.model.wakes import FROZEN, NOLOAD, STOPPED, TRACED, UNINTERRUPTIBLE
from culpa.model.writeback import Writeback

NOT_WATCHED = Thing(stage="not watched at that time")


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitGraph:
    """Pieces on the axis, sorted and gapless per thread.

    `kind`/`on`: what this thread's time is called. `via`/`via_on`: a second, inner level (the journal inside an fsync),
    `NONE` where there is none. `next`: the lane whose activity explains the piece, `NO_THREAD` for a leaf. `owner`:
    tid of whoever's data the innermost level of a leaf is about, `NONE` for the thread itself. `call`: row of `calls`
    that covers it, `exchange`: row of the exchange it waits for. `idle`: a wait for the next piece of work, which is
    explained only where somebody waits for this thread; `rests`: if it is of kind idle, a timer ended it. `first`: the
    piece begins what it is part of, `first_via`: the same one level down. `busy`: which request a thread works on;
    `arrivals`: who took connections; `taker`: the lane of the only thread of the target that takes requests,
    `NO_THREAD` if there are several.
    """

    axis: Axis
    start: Int64s
    end: Int64s
    kind: Int64s
    on: Int64s
    via: Int64s
    via_on: Int64s
    next: Int64s
    owner: Int64s
    call: Int64s
    exchange: Int64s
    idle: Bools
    rests: Bools
    first: Bools
    first_via: Bools
    things: tuple[Thing, ...]
    calls: pl.DataFrame
    busy: Busy
    arrivals: Arrivals
    taker: int

    @property
    def pieces(self) -> pl.DataFrame:
        """The pieces with tids and moments: tid, start_ns, end_ns, kind, via, on, next_tid, idle."""
        start_ns = self.axis.time(self.start)
        names = [kind.name.lower() for kind in Kind]
        return pl.DataFrame(
            {
                "tid": self.axis.tids[self.start // self.axis.span],
                "start_ns": start_ns,
                "end_ns": start_ns + (self.end - self.start),
                "kind": pl.Series([names[code] for code in self.kind.tolist()], dtype=pl.String),
                "via": pl.Series([names[c] if c != NONE else None for c in self.via.tolist()], dtype=pl.String),
                "on": self.on,
                "next_tid": np.append(self.axis.tids, NO_THREAD)[self.next],
                "idle": self.idle,
            }
        )


def build(capture: Capture, timeline: Timeline, requests: Requests) -> WaitGraph:
    """Explain every piece of every thread's time.

    Args:
        capture: needs `offcpu` and `syscalls`; `blocks`, `stacks` and `sockets` explain more.
        timeline: of the same capture.
        requests: of the same capture.
    """
    axis, objects = timeline.axis, Objects(capture)
    numbers = syscalls.Numbers(capture.manifest.host.machine)
    calls = Calls(capture.frame(schema.SYSCALLS), capture.frame(schema.THREAD_STATES), axis, numbers)
    arrivals = Arrivals.of(timeline, calls)
    talk = Conversations(requests, axis, arrivals, Lookups.of(objects, calls))
    blocks = BlockIndex(capture.frame(schema.BLOCKS), axis, objects.kernel_tids, objects.journal_tids)
    stages = _stages(capture.frame(schema.STACKS))
    beside = AsyncWaits(capture, timeline, calls, blocks, objects, requests)
    matched = beside.put(_match_blocks(timeline, calls, blocks, stages))
    writeback = Writeback(capture, objects, blocks)
    behind, throttled = writeback.behind(timeline, matched), writeback.throttled(timeline)
    locks = LockWaits(timeline, calls)
    cuts = np.concatenate([locks.cuts(), beside.cuts(), behind.points, throttled.points])
    pieces = _cut(timeline, matched, calls, talk, blocks, cuts)
    waits = _Waits(pieces, timeline)
    kernel = KernelWaits(pieces, timeline, calls, blocks, stages, objects, writeback, behind, throttled)
    kernel.explain(waits.blocked)
    waiting = calls.resting_pids - objects.pure_servers
    owed = debts(capture, objects, requests, waiting)
    rested = objects.pure_servers | (waiting - {debt.pid for debt in owed})
    serving = talk.serving.depth(pieces.start[waits.voluntary]) > 0
    resting = _asked_before(pieces, timeline, waits.voluntary, calls, rested)
    _explain_own_calls(pieces, waits.voluntary, calls, talk, objects, serving, resting)
    beside.explain(pieces, waits.voluntary, kernel, serving, resting)
    _follow_wakers(pieces, timeline, waits.voluntary, calls, objects, locks, talk, capture)
    beside.follow(pieces, waits.voluntary)
    stopwaits.explain(pieces, timeline, waits.stopped, calls, objects)
    hung = HungWaits(pieces, timeline, calls, objects, capture)
    hung.explain(waits.voluntary, owed)
    hung.explain_unread(waits.voluntary, talk)
    ConnectWaits.of(capture, calls, objects, pieces).explain(pieces, waits.voluntary)
    kernel.wrap(waits.blocked)
    taker = only_taker(timeline, calls, talk.readers, capture.manifest.target.pids)
    return _frozen(pieces, calls, talk.busy(_queued_at(pieces, capture, talk.readers)), arrivals, taker)


def _queued_at(pieces: Pieces, capture: Capture, readers: Int64s) -> Int64s:
    """Lanes at which requests may queue: where a piece says so, and in front of the target for culpa's own."""
    queues = pieces.next[pieces.kind == Kind.QUEUED]
    return np.unique(np.concatenate([queues, readers]) if capture.has(schema.REQUESTS) else queues)


class _Waits:
    """Sorts the pieces by what the scheduler saw, and names those that need no further evidence."""

    def __init__(self, pieces: Pieces, timeline: Timeline) -> None:
        activity = timeline.activity[pieces.segment]
        pieces.kind[activity == Activity.RUNNING] = Kind.RUNNING
        pieces.kind[activity == Activity.RUNNABLE] = Kind.RUNNABLE
        pieces.label(np.flatnonzero(activity == Activity.UNSEEN), NOT_WATCHED)
        waiting = activity == Activity.WAITING
        state = np.where(waiting, np.maximum(timeline.state[pieces.segment], 0), 0)
        stopped = waiting & (state & (STOPPED | TRACED | FROZEN) != 0)
        pieces.kind[stopped] = Kind.STOPPED
        blocked = waiting & ~stopped & (state & UNINTERRUPTIBLE != 0) & (state & NOLOAD == 0)
        self.stopped = np.flatnonzero(stopped)
        self.blocked = np.flatnonzero(blocked)
        self.voluntary = np.flatnonzero(waiting & ~stopped & ~blocked)


def _match_blocks(timeline: Timeline, calls: Calls, blocks: BlockIndex, stages: Mapping[int, Stage]) -> Int64s:
    """For each segment the block request that ended it, `NONE` where it is no uninterruptible wait or none did."""
    state, axis = np.maximum(timeline.state, 0), timeline.axis
    # What goes on at the end of the window was not ended by anything yet.
    over = axis.time(timeline.end) < axis.end_ns
    locks = np.isin(timeline.stack, [i for i, s in stages.items() if s.kind == "lock"])
    waits = (timeline.activity == Activity.WAITING) & (state & UNINTERRUPTIBLE != 0)
    # A lock is let go by a thread, whatever a device does at that moment.
    blocked = np.flatnonzero(waits & over & ~locks)
    matched = np.full(len(timeline.start), NONE, np.int64)
    start, end = timeline.start[blocked], timeline.end[blocked]
    stack = timeline.stack[blocked]
    # Memory is none of the call's file: only requests of the thread itself end such a wait.
    memory = np.isin(stack, [i for i, s in stages.items() if s.kind == "reclaim" or s.label == SWAP_IN])
    call = np.where(memory, NONE, calls.covering(start))
    matched[blocked] = blocks.ended(start, end, calls.dev(call), calls.ino(call))
    mapped = ~memory & np.isin(stack, [i for i, s in stages.items() if s.kind == "fault"])
    faults = blocked[(matched[blocked] < 0) & mapped]
    matched[faults] = blocks.passed_on(timeline.start[faults], timeline.end[faults])
    held = blocked[np.isin(stack, [i for i, s in stages.items() if s.label == HELD_BUFFER])]
    matched[held] = blocks.journal_writes(timeline.start[held], timeline.end[held])
    return matched


def _cut(
    timeline: Timeline, matched: Int64s, calls: Calls, talk: Conversations, blocks: BlockIndex, cuts: Int64s
) -> Pieces:
    """Cut the segments where an explanation changes: at syncs, at the peer's read and answer, at a request's issue, and
    at `cuts`: where a lock was handed over, or another's data comes next.
    """
    axis, begin, stop = timeline.axis, timeline.start, timeline.end
    sync = calls.among(calls.spans.row, syscalls.SYNC)
    ended = np.flatnonzero(matched >= 0)
    points = np.concatenate(
        [
            calls.spans.start[sync],
            calls.spans.end[sync],
            talk.cuts(axis),
            axis.place(begin[ended] // axis.span, blocks.issue[matched[ended]]),
            cuts,
        ]
    )
    points = distinct(np.concatenate([begin, stop, points]))
    segment = (np.searchsorted(begin, points, side="right") - 1).astype(np.int32)
    inside = (segment >= 0) & (stop[np.maximum(segment, 0)] > points) if len(begin) else np.zeros(len(points), bool)
    start, segment = points[inside], segment[inside]
    del points, inside  # of the largest arrays there are, several would stand side by side here
    end = np.append(start[1:], np.iinfo(np.int64).max)[: len(start)]
    np.minimum(end, stop[segment], out=end)
    pieces = Pieces(axis, start, end, segment)
    pieces.call[:] = calls.covering(start)
    pieces.request[:] = matched[segment]
    return pieces


def _explain_own_calls(
    pieces: Pieces,
    index: Int64s,
    calls: Calls,
    talk: Conversations,
    objects: Objects,
    serving: Bools,
    resting: Bools,
) -> None:
    """Interruptible waits, by the call they sit in; waits for bytes go on to the peers.

    `serving`: those within a request that the thread serves; `resting`: as `_asked_before` tells.
    """
    call = pieces.call[index]
    nr = calls.nr(call)
    pieces.label(index, Thing(stage="no system call seen"))
    for number in np.unique(nr[nr != UNKNOWN_NR]).tolist():
        pieces.label(index[nr == number], Thing(syscall=calls.numbers.name(int(number))))
    kernel = np.isin(pieces.axis.tids[pieces.lane[index]], list(objects.kernel_tids)) & (nr == UNKNOWN_NR)
    pieces.kind[index[kernel]] = Kind.IDLE
    many, receive = calls.among(call, syscalls.MANY_WAIT), calls.among(call, syscalls.RECEIVE)
    received = receive & (calls.is_socket(call) | calls.is_resting(call))
    for_work = (many | received) & ~resting | calls.among(call, syscalls.ACCEPT) | calls.futex_for_work(call)
    pieces.kind[index[for_work & ~serving]] = Kind.IDLE
    pieces.kind[index[calls.among(call, syscalls.PAUSE)]] = Kind.IDLE
    pieces.kind[index[calls.among(call, syscalls.SLEEP)]] = Kind.SLEEP
    # A timer that runs out inside a request is a sleep by choice; outside, see `timeouts`.
    pieces.kind[index[many & serving & (calls.ret(call) == 0)]] = Kind.SLEEP
    bytes_awaited = many | receive
    waits = PeerWaits(pieces, talk, objects)
    waits.explain(index[bytes_awaited], calls.ino(call[bytes_awaited]), receive[bytes_awaited])


def _asked_before(pieces: Pieces, timeline: Timeline, index: Int64s, calls: Calls, rested: frozenset[int]) -> Bools:
    """Waits that last all the time, of clients that may have asked before the window: they are not known to be idle."""
    theirs: Bools = ~np.isin(timeline.pid[pieces.lane[index]], list(rested))
    return calls.is_resting(pieces.call[index]) & theirs


def _follow_wakers(
    pieces: Pieces, timeline: Timeline, index: Int64s, calls: Calls, objects: Objects, locks: LockWaits,
    talk: Conversations, capture: Capture,
) -> None:  # fmt: skip
    """Interruptible waits that another thread ended by a call on the same object, or by its own end."""
    tasks = capture.frame(schema.TASKS)
    ended = childwaits.ends(tasks)
    file_locks = FileLockWaits(timeline, calls, objects, ended, capture)
    file_locks.explain_tries(pieces, index)
    pieces.idle[:] = pieces.kind == Kind.IDLE
    awaits = index[pieces.exchange[index] != NONE]
    # Who serves nobody and waits in a blocking command waits for its next piece of work, as it would at a pipe.
    blocks = talk.blocks[pieces.exchange[awaits]] & (talk.serving.depth(pieces.start[awaits]) == 0)
    pieces.idle[awaits[blocks]] = True
    timeouts.mark(pieces, index, calls)
    file_locks.explain(pieces, index)
    locks.explain(pieces, index, talk.serving.depth(pieces.start[index]) > 0)
    FileWaits(timeline, calls, objects, ended).explain(pieces, index)
    _queue_behind_requests(pieces, timeline, index, talk)
    unknown = index[pieces.next[index] == NO_THREAD]
    childwaits.explain(pieces, timeline, unknown, calls, ended, childwaits.parents(tasks))
    timeouts.go_on(pieces, index, calls)


def _queue_behind_requests(pieces: Pieces, timeline: Timeline, index: Int64s, talk: Conversations) -> None:
    """A request whose thread waits for what a thread of its process hands on from within another request is queued.

    What a thread gives away while it serves a request of its own is something the requests share: a free connection,
    a place among so many. A result is computed by threads that read no requests.
    """
    by = pieces.next[index]
    index = index[(pieces.kind[index] == Kind.PEER) & (by != NO_THREAD) & (pieces.exchange[index] == NONE)]
    by = pieces.next[index]
    ours = timeline.pid[by] == timeline.pid[pieces.lane[index]]
    handed_on = talk.serving.depth(pieces.axis.move(pieces.end[index] - 1, by)) > 0
    waits = talk.serving.depth(pieces.start[index]) > 0
    pieces.kind[index[ours & handed_on & waits & (by != pieces.lane[index])]] = Kind.QUEUED


def _stages(stacks: pl.DataFrame) -> dict[int, Stage]:
    rows = stacks.drop_nulls(["stack_id", "frames"]).select("stack_id", "frames")
    return {int(stack_id): classify(frames) for stack_id, frames in rows.iter_rows()}


def _frozen(pieces: Pieces, calls: Calls, busy: Busy, arrivals: Arrivals, taker: int) -> WaitGraph:
    return WaitGraph(
        axis=pieces.axis,
        start=pieces.start,
        end=pieces.end,
        kind=pieces.kind,
        on=pieces.on,
        via=pieces.via,
        via_on=pieces.via_on,
        next=pieces.next,
        owner=pieces.owner,
        call=pieces.call,
        exchange=pieces.exchange,
        idle=pieces.idle,
        rests=pieces.rests,
        first=pieces.begins(),
        first_via=pieces.begins_within(),
        things=pieces.things.all(),
        calls=calls.frame,
        busy=busy,
        arrivals=arrivals,
        taker=taker,
    )
