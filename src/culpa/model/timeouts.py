"""Timers of event loops that run out within a request and change nothing for it.

A loop wakes for the timers of everybody (node's clock for the Date header, a heartbeat) while a request waits for a
thread or a file. Where the thread does nothing for anybody between such a timer and its next wait, the wait went on:
what ended the last of them explains them all. A timer after which the thread goes on with its work was a sleep.
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


def go_on(pieces: Pieces, index: Int64s, calls: Calls) -> None:
    """Explain waits on many files that a timer interrupted as those are that came next.

    Args:
        index: pieces that are interruptible waits, in order of the axis, explained as far as it goes.
    """
    spans = calls.spans
    in_many = index[calls.among(pieces.call[index], syscalls.MANY_WAIT)]
    timers = in_many[pieces.kind[in_many] == Kind.SLEEP]
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
    for piece, last in zip(timers[nothing][::-1].tolist(), after[nothing][::-1].tolist(), strict=True):
        pieces.kind[piece], pieces.next[piece] = pieces.kind[last], pieces.next[last]
        pieces.on[piece], pieces.owner[piece] = pieces.on[last], pieces.owner[last]
