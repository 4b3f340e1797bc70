"""What really happened: for every nanosecond of a thread's time, who did or waited for what.

Computed from what the engine scheduled, by the causes that it wrote down when it scheduled them. It shares no code with
`culpa.model` and knows no tables, so it can be held against the model's answer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from culpa.sim.log import Block, Cause, Log, Off, Request, State
from culpa.sim.program import Need, Program

LeafKind = Literal["running", "runnable", "device", "sleep", "remote", "idle", "queued", "reclaim"]
Edge = Literal["peer", "queued", "journal", "lock", "job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """[start_ns, end_ns) of a thread's time and its explanation.

    `chain` leads from that thread to the one that did or waited for `kind`; `edges` says why each one waited for the
    next. `stage` tells queueing in front of the device from its service, `behind` whose other request was served
    meanwhile. `room` is what the thread did for memory, at a device or in a pause (`reclaim`). A leaf `queued` waits
    for a connection to be taken that nobody had taken by the end of the simulation.
    """

    start_ns: int
    end_ns: int
    kind: LeafKind
    chain: tuple[int, ...]
    edges: tuple[Edge, ...] = ()
    stage: Literal["queue", "service"] | None = None
    behind: int | None = None
    room: Need | None = None

    @property
    def tid(self) -> int:
        """The thread at the end of the chain."""
        return self.chain[-1]

    def under(self, tid: int, edge: Edge) -> Leaf:
        """The same, seen from a thread that waits for this one."""
        return replace(self, chain=(tid, *self.chain), edges=(edge, *self.edges))


@dataclass(frozen=True, slots=True, kw_only=True)
class StateInterval:
    """A thread was in one state during [start_ns, end_ns)."""

    start_ns: int
    end_ns: int
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The time in which a thread had requests to answer: from the end of the read to the end of the answer."""

    tid: int
    start_ns: int
    end_ns: int


def states(log: Log, tid: int, start_ns: int, end_ns: int) -> list[StateInterval]:
    """The thread's states over [start_ns, end_ns), gapless from its first moment on."""
    changes = log.states[tid]
    first = max(bisect_right(changes, start_ns, key=lambda change: change[0]) - 1, 0)
    intervals: list[StateInterval] = []
    for i in range(first, len(changes)):
        since, state = changes[i]
        until = changes[i + 1][0] if i + 1 < len(changes) else log.end_ns
        start, end = max(since, start_ns), min(until, end_ns)
        if end > start:
            intervals.append(StateInterval(start_ns=start, end_ns=end, state=state))
        if until >= end_ns:
            break
    return intervals


def explain(program: Program, log: Log, tid: int, start_ns: int, end_ns: int) -> list[Leaf]:
    """Explain [start_ns, end_ns) of a thread: leaves in order, without gap or overlap."""
    return [leaf for leaf in _explain(program, log, tid, start_ns, end_ns) if leaf.end_ns > leaf.start_ns]


def roots(program: Program, log: Log) -> list[Span]:
    """The requests of the target inside the window, per thread united where they overlap or touch, in order."""
    start_ns, end_ns = program.window
    served = sorted(
        (r.server_tid, max(r.read_ns, start_ns), min(end_ns if r.reply_ns is None else r.reply_ns, end_ns))
        for r in log.requests
        if r.server_pid == program.target_pid and r.server_tid is not None and r.read_ns is not None
    )
    united: list[Span] = []
    for tid, start, end in served:
        last = united[-1] if united else None
        if last is not None and last.tid == tid and start <= last.end_ns:
            united[-1] = Span(tid=tid, start_ns=last.start_ns, end_ns=max(last.end_ns, end))
        elif end > start:
            united.append(Span(tid=tid, start_ns=start, end_ns=end))
    return united


def probed(program: Program, log: Log) -> list[Request]:
    """What a client on another host asked of the target and what arrived there within the window."""
    start_ns, end_ns = program.window
    return [
        request
        for request in log.requests
        if request.client_tid is None
        and request.server_pid == program.target_pid
        and request.arrive_ns is not None
        and start_ns <= request.arrive_ns < end_ns
    ]


def probed_roots(program: Program, log: Log) -> list[Span]:
    """These requests from their arrival on, each at the thread that reads it; without those that nobody took."""
    end_ns = program.window[1]
    found: list[Span] = []
    for request in probed(program, log):
        tid = request.server_tid or log.owners.get(request.server_ino or 0)
        ends = [moment for moment in (request.reply_ns, request.delivered_ns) if moment is not None]
        if tid is not None and request.arrive_ns is not None:
            found.append(Span(tid=tid, start_ns=request.arrive_ns, end_ns=min([*ends, end_ns])))
    return found


def shares(program: Program, log: Log) -> Counter[tuple[int, LeafKind]]:
    """Nanoseconds of all roots by (tid, kind) of their leaves."""
    sums: Counter[tuple[int, LeafKind]] = Counter()
    for root in roots(program, log):
        for leaf in explain(program, log, root.tid, root.start_ns, root.end_ns):
            sums[leaf.tid, leaf.kind] += leaf.end_ns - leaf.start_ns
    return sums


def _explain(program: Program, log: Log, tid: int, start_ns: int, end_ns: int) -> Iterator[Leaf]:
    for interval in states(log, tid, start_ns, end_ns):
        start, end = interval.start_ns, interval.end_ns
        if interval.state == "waiting":
            off = _off_at(log, tid, start)
            assert off.cause is not None
            yield from _wait(program, log, off, off.cause, start, end)
        else:
            yield Leaf(start_ns=start, end_ns=end, kind=interval.state, chain=(tid,))


def _off_at(log: Log, tid: int, moment_ns: int) -> Off:
    offs = log.offs[tid]
    return offs[bisect_right(offs, moment_ns, key=lambda off: off.off_ns) - 1]


def _wait(program: Program, log: Log, off: Off, cause: Cause, start: int, end: int) -> Iterator[Leaf]:
    match cause.kind:
        case "sleep" | "idle":
            yield Leaf(start_ns=start, end_ns=end, kind=cause.kind, chain=(off.tid,))
        case "reclaim":
            yield Leaf(start_ns=start, end_ns=end, kind=cause.kind, chain=(off.tid,), room=cause.room)
        case "block":
            yield from _device(log, log.blocks[cause.ids[0]], start, end, cause.room)
        case "commit":
            yield from _follow(program, log, off.tid, "journal", program.journal_tid, start, end)
        case "reply":
            yield from _reply(program, log, off, cause, start, end)
        case "job":
            job = log.jobs[cause.ids[0]]
            yield from _follow(program, log, off.tid, "job", job.helper_tid, start, end)
        case "turn":
            yield from _in_front(program, log, off, cause.ids[0], start, end)
        case "lock":
            yield from _held(program, log, off.tid, cause.ids[0], start, end)
        case _:
            assert_never(cause.kind)


def _follow(program: Program, log: Log, tid: int, edge: Edge, other: int, start: int, end: int) -> Iterator[Leaf]:
    for leaf in _explain(program, log, other, start, end):
        yield leaf.under(tid, edge)


def _device(log: Log, block: Block, start: int, end: int, room: Need | None) -> Iterator[Leaf]:
    """Until it was issued it queued behind those that were asked for earlier, then it was served; behind nobody's where
    they are its own.
    """
    issue = end if block.issue_ns is None else min(max(block.issue_ns, start), end)
    for other in log.blocks[: block.number]:
        begin, stop = max(start, other.issue_ns or issue), min(issue, other.complete_ns or issue)
        if stop > begin:
            behind = None if other.writer == block.tid else other.writer
            yield Leaf(
                start_ns=begin, end_ns=stop, kind="device", chain=(block.tid,), stage="queue", behind=behind, room=room
            )
    if end > issue:
        yield Leaf(start_ns=issue, end_ns=end, kind="device", chain=(block.tid,), stage="service", room=room)


def _reply(program: Program, log: Log, off: Off, cause: Cause, start: int, end: int) -> Iterator[Leaf]:
    """A client waits for the first of its requests that had no whole answer when the wait began."""
    asked = [log.requests[number] for number in cause.ids]
    request = next(r for r in asked if r.delivered_ns is None or r.delivered_ns > off.off_ns)
    reader = request.server_tid or log.owners.get(request.server_ino or 0)
    if request.server_pid is None:
        yield Leaf(start_ns=start, end_ns=end, kind="remote", chain=(off.tid,))
    elif reader is None:
        yield Leaf(start_ns=start, end_ns=end, kind="queued", chain=(off.tid,))
    else:
        read = end if request.read_ns is None else min(max(request.read_ns, start), end)
        yield from _follow(program, log, off.tid, "queued", reader, start, read)
        yield from _follow(program, log, off.tid, "peer", reader, read, end)


def _in_front(program: Program, log: Log, off: Off, lock: int, start: int, end: int) -> Iterator[Leaf]:
    """Nobody is overtaken: whoever took the lock last before the wait ended stood in front all the time, or held it."""
    taken = log.holders[lock]
    until = log.end_ns if off.wake_ns is None else off.wake_ns
    last = bisect_right(taken, until - 1, key=lambda entry: entry[0]) - 1
    yield from _follow(program, log, off.tid, "lock", taken[last][1], start, end)


def _held(program: Program, log: Log, tid: int, lock: int, start: int, end: int) -> Iterator[Leaf]:
    """Whoever hands the lock over next has it; where nobody did any more, whoever took it last."""
    since = start
    handed = log.handed[lock]
    for moment, holder in handed[bisect_right(handed, start, key=lambda entry: entry[0]) :]:
        if since >= end:
            return
        yield from _follow(program, log, tid, "lock", holder, since, min(moment, end))
        since = moment
    taken = log.holders[lock]
    first = bisect_right(taken, since, key=lambda entry: entry[0]) - 1
    if since < end:
        yield from _follow(program, log, tid, "lock", taken[first][1], since, end)
