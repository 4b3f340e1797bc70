"""Stopped threads: by a signal, a tracer or the freezer of their control group, and who did that or let them go on."""

from __future__ import annotations

import numpy as np

from culpa import syscalls
from culpa.model.axis import Int64s
from culpa.model.calls import Calls
from culpa.model.kinds import NONE
from culpa.model.objects import Objects, Thing
from culpa.model.pieces import Pieces
from culpa.model.timeline import Timeline
from culpa.model.wakes import FROZEN, TRACED


def explain(pieces: Pieces, timeline: Timeline, index: Int64s, calls: Calls, objects: Objects) -> None:
    """Name whoever stopped each thread where that call was seen, else whoever let it go on.

    Args:
        index: pieces in which a thread is stopped.
    """
    segments, inverse = np.unique(pieces.segment[index], return_inverse=True)
    stops = _stops(timeline, calls)
    for number, segment in enumerate(segments.tolist()):
        start_ns, end = int(timeline.axis.time(timeline.start[[segment]])[0]), int(timeline.end[segment])
        state = int(timeline.state[segment])
        pid = int(timeline.pid[timeline.start[segment] // timeline.axis.span])
        sender = _last_before(stops, pid, start_ns, timeline)
        waker = int(timeline.waker[segment])
        if state & FROZEN:
            stage = "by the freezer of its control group"
        elif state & TRACED:
            known = _lets_go(timeline, calls, waker, end)
            stage = f"by its tracer {objects.thread_name(waker)}" if known else "by a tracer"
        elif sender is not None:
            stage = f"by {objects.thread_name(sender)}"
        elif _lets_go(timeline, calls, waker, end):
            stage = f"until {objects.thread_name(waker)} let it go on"
        else:
            continue
        pieces.label(index[inverse == number], Thing(stage=stage))


def _stops(timeline: Timeline, calls: Calls) -> Int64s:
    """Spans of calls that sent a signal that stops."""
    row = calls.spans.row
    sending = np.flatnonzero(calls.among(row, syscalls.SEND_SIGNAL))
    signal = np.where(
        calls.among(row[sending], syscalls.SEND_TO_THREAD), calls.arg(row[sending], 2), calls.arg(row[sending], 1)
    )
    found = sending[np.isin(signal, list(syscalls.STOP_SIGNALS))]
    columns = (calls.arg(row[found], 0), timeline.axis.time(calls.spans.start[found]), calls.spans.start[found])
    return np.stack([*columns[:2], columns[2] // timeline.axis.span], axis=1)


def _last_before(stops: Int64s, pid: int, moment_ns: int, timeline: Timeline) -> int | None:
    """The tid that sent the last of these signals to the process, up to a moment."""
    ours = stops[(stops[:, 0] == pid) & (stops[:, 1] <= moment_ns)]
    return int(timeline.axis.tids[ours[np.argmax(ours[:, 1]), 2]]) if len(ours) else None


def _lets_go(timeline: Timeline, calls: Calls, waker: int, end: int) -> bool:
    """Whether the waker was in a call that lets stopped threads go on."""
    lane = timeline.axis.lane(np.array([waker]))
    if lane[0] < 0:
        return False
    act = calls.covering(timeline.axis.move(np.array([end - 1]), lane))
    return bool(act[0] != NONE and calls.among(act, syscalls.SEND_SIGNAL | syscalls.TRACE)[0])
