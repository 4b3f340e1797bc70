"""Waits on many files that a timer ended.

A timer after which the thread goes on with its work was a sleep: within a request, and to whoever waits for a thread
that serves none. A loop wakes for the timers of everybody, too (node's clock for the Date header, a heartbeat), and
that changes nothing for whoever waits: where the thread does nothing for anybody between such a timer and its next
wait, the wait went on, and what ended the last of them explains them all.
"""

from __future__ import annotations

import numpy as np

from culpa import syscalls
from culpa.model.axis import Int64s
from culpa.model.calls import Calls
from culpa.model.kinds import NONE, Kind
from culpa.model.pieces import Pieces

DOES = syscalls.SEND | syscalls.CONNECT | syscalls.FUTEX | syscalls.ASYNC_WAIT | frozenset({"io_submit"})
"""What a thread does for somebody: it answers, asks, or hands something to another thread or to the kernel."""


def mark(pieces: Pieces, index: Int64s, calls: Calls) -> None:
    """Mark idle waits that a timer ended: such a thread rests, and yet others may wait for it.

    Args:
        index: pieces that are interruptible waits.
    """
    idle = index[pieces.kind[index] == Kind.IDLE]
    call = pieces.call[idle]
    pieces.rests[idle] = calls.among(call, syscalls.MANY_WAIT) & (calls.ret(call) == 0)


def go_on(pieces: Pieces, index: Int64s, calls: Calls) -> None:
    """Explain waits on many files that a timer interrupted as those are that came next.

    Args:
        index: pieces that are interruptible waits, in order of the axis, explained as far as it goes.
    """
    spans = calls.spans
    in_many = index[calls.among(pieces.call[index], syscalls.MANY_WAIT)]
    rests = pieces.rests[in_many] & (pieces.kind[in_many] == Kind.IDLE)
    timers = in_many[(pieces.kind[in_many] == Kind.SLEEP) | rests]
    if len(timers) == 0:
        return
    own = np.searchsorted(spans.start, pieces.start[timers], side="right") - 1
    after = np.append(in_many, NONE)[np.searchsorted(pieces.start[in_many], spans.end[own])]
    timers, own, after = timers[after != NONE], own[after != NONE], after[after != NONE]
    then = np.searchsorted(spans.start, pieces.start[after], side="right") - 1
    events = calls.among(spans.row, syscalls.MANY_WAIT) & (calls.ret(spans.row) != 0)
    does = np.flatnonzero(calls.among(spans.row, DOES) | events)
    nothing = np.append(does, len(spans.row))[np.searchsorted(does, own, side="right")] >= then
    nothing &= pieces.lane[timers] == pieces.lane[after]
    timers, after = timers[nothing], after[nothing]
    last = _last(timers, after)
    resting = pieces.kind[timers] == Kind.IDLE
    pieces.rests[timers[resting]] = pieces.rests[last[resting]] & (pieces.kind[last[resting]] == Kind.IDLE)
    timers, last = timers[~resting], last[~resting]
    for column in (pieces.kind, pieces.next, pieces.on, pieces.owner):
        column[timers] = column[last]


def _last(timers: Int64s, after: Int64s) -> Int64s:
    """For each of these pieces what comes after the last of the row that it begins: `after` may be one of them."""
    place = np.minimum(np.searchsorted(timers, after), max(len(timers) - 1, 0))
    goal = np.where(timers[place] == after, place, np.arange(len(timers))) if len(timers) else place
    while not np.array_equal(further := goal[goal], goal):
        goal = further
    return after[goal]
