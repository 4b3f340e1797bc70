"""Kinds of time: the nodes of the blame tree are named after them."""

from __future__ import annotations

from enum import IntEnum

from culpa.model.stages import StageKind

NO_THING = -1
NONE = -1
HOLDER_UNKNOWN = "holder unknown"
"""The stage of a wait for a lock of which nobody is known to have held it."""


class Kind(IntEnum):
    """Kinds of nodes of the blame tree; the names are those of the verdict."""

    REQUEST = 0
    RUNNING = 1
    RUNNABLE = 2
    IO = 3
    FSYNC = 4
    JOURNAL = 5
    DEVICE = 6
    LOCK = 7
    PEER = 8
    REMOTE = 9
    SLEEP = 10
    FAULT = 11
    RECLAIM = 12
    THROTTLE = 13
    STOPPED = 14
    QUEUED = 15
    IDLE = 16
    UNEXPLAINED = 17


OF_STAGE: dict[StageKind, Kind] = {
    "journal": Kind.JOURNAL,
    "device": Kind.DEVICE,
    "throttle": Kind.THROTTLE,
    "reclaim": Kind.RECLAIM,
    "fault": Kind.FAULT,
    "lock": Kind.LOCK,
    "unexplained": Kind.UNEXPLAINED,
}
