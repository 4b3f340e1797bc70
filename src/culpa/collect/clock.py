"""What the clocks of the host did while culpa watched.

Events carry CLOCK_MONOTONIC, which is never set but stands still while the host is suspended. People read
CLOCK_REALTIME, which may be set at any time (clock_gettime(2)).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from culpa.capture.manifest import BlindSpot
from culpa.units import NS_PER_SECOND, format_ns

SLEW: Final = 1000e-6
"""Twice what adjtimex(2) lets a clock be steered by: 500 parts in a million."""
LEAST_STEP_NS: Final = NS_PER_SECOND // 20
"""The three clocks cannot be read at the same moment: a preempted reader sees them milliseconds apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One moment by three clocks, ns."""

    monotonic_ns: int
    realtime_ns: int
    boottime_ns: int

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        return cls(
            monotonic_ns=time.monotonic_ns(),
            realtime_ns=time.time_ns(),
            boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        )


def unsteady_clocks(begin: Moment, end: Moment) -> list[BlindSpot]:
    """What became wrong with times between two moments: a wall clock that was set, a host that slept."""
    watched_ns = end.monotonic_ns - begin.monotonic_ns
    slept_ns = end.boottime_ns - begin.boottime_ns - watched_ns
    stepped_ns = end.realtime_ns - begin.realtime_ns - watched_ns - slept_ns
    most_ns = LEAST_STEP_NS + round(abs(watched_ns) * SLEW)
    spots = []
    if slept_ns > most_ns:
        spots.append(
            BlindSpot(
                what=f"{format_ns(slept_ns)} in which the host was suspended",
                why="no clock of the events ran; a request of that time took longer than is said",
                way_out="watch again",
            )
        )
    if abs(stepped_ns) > most_ns:
        where = "forward" if stepped_ns > 0 else "back"
        spots.append(
            BlindSpot(
                what="times of day",
                why=f"the clock was set {where} by {format_ns(abs(stepped_ns))} while culpa watched",
                way_out="durations are right; compare times of day with other logs with care",
            )
        )
    return spots
