"""Who ended each interruptible wait, and the system call in which that thread did it.

The tracer names the thread in whose context a wake-up happened. It may be a bystander whom an interrupt hit, so a
waker alone explains nothing: the rules that read this ask that its call and the waiter's are about the same object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from culpa.model.axis import Bools, Int64s
from culpa.model.calls import Calls
from culpa.model.kinds import NONE
from culpa.model.timeline import UNKNOWN, Activity, Timeline

UNINTERRUPTIBLE, STOPPED, TRACED, NOLOAD, FROZEN = 0x2, 0x4, 0x8, 0x400, 0x8000
"""Bits of prev_state (include/linux/sched.h). A frozen task has one of its own since Linux 6.1 (f5d39b020809)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wakes:
    """Interruptible waits in some calls, in order of the axis; `start` and `end` are points of it.

    `segment`: row of the timeline. `call`: row of the call the wait sits in. `waker`: lane of the thread that ended
    it, `NO_THREAD` where nobody did or it is not on the axis. `act`: row of the call in which the waker was, `NONE`
    where it was in none.
    """

    segment: Int64s
    lane: Int64s
    start: Int64s
    end: Int64s
    call: Int64s
    waker: Int64s
    act: Int64s

    @staticmethod
    def of(timeline: Timeline, calls: Calls, names: frozenset[str]) -> Wakes:
        """The interruptible waits that sit in calls of a class."""
        waits = np.flatnonzero(is_voluntary(timeline)) if calls.are_there(names) else np.zeros(0, np.int64)
        call = calls.covering(timeline.start[waits])
        chosen = calls.among(call, names)
        segment, call = waits[chosen], call[chosen]
        end = timeline.end[segment]
        waker = timeline.axis.lane(timeline.waker[segment])
        # Inside the waker's call, or at its very end.
        moment = timeline.axis.move(end - 1, np.maximum(waker, 0))
        act = np.where(waker >= 0, calls.covering(moment), NONE)
        return Wakes(
            segment=segment, lane=timeline.start[segment] // timeline.axis.span, start=timeline.start[segment],
            end=end, call=call, waker=waker, act=act,
        )  # fmt: skip

    def only(self, which: Bools | Int64s) -> Wakes:
        """Some of them."""
        return Wakes(
            segment=self.segment[which], lane=self.lane[which], start=self.start[which], end=self.end[which],
            call=self.call[which], waker=self.waker[which], act=self.act[which],
        )  # fmt: skip

    def row_of(self, segments: Int64s) -> Int64s:
        """The row of each segment of the timeline, `NONE` where it is not among these waits."""
        if len(self.segment) == 0:
            return np.full(len(segments), NONE, np.int64)
        found = np.minimum(np.searchsorted(self.segment, segments), len(self.segment) - 1)
        return np.where(self.segment[found] == segments, found, NONE).astype(np.int64)


def is_voluntary(timeline: Timeline) -> Bools:
    """Segments in which a thread waits interruptibly and is not stopped."""
    state = np.where(timeline.state == UNKNOWN, 0, timeline.state)
    blocked = (state & UNINTERRUPTIBLE != 0) & (state & NOLOAD == 0)
    waits: Bools = (timeline.activity == Activity.WAITING) & ~blocked & (state & (STOPPED | TRACED) == 0)
    return waits
