"""How much of what Redis' slow log times is a command's own work: its clock goes on while the main thread waits.

A command of microseconds stands in the log with 20 ms where its key lay in swap, where other programs had the CPU, or
where a quota stopped the server. Where waits were seen one by one `redisholds.seen` measures what was computed; here
is what can be said without: by what a quota took, and by the CPU time that the server counts of itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from culpa.diagnose import commandtable
from culpa.diagnose.redisholds import BLOCKING, Hold, all_logged, number_of
from culpa.diagnose.root import STALL_NS
from culpa.diagnose.runqueue import throttled
from culpa.units import NS_PER_SECOND

if TYPE_CHECKING:
    from culpa.diagnose.redisview import RedisView

USUAL_PERIOD_US = 100_000
"""Of a CPU quota (cpu.cfs_period_us, cpu.max)."""
TRANSACTION = "EXEC"
SCRIPTS = commandtable.CONTAINERS - {TRANSACTION}
MOST_UNLOGGED = 128
"""Of one verb: as many as the slow log keeps by default."""
MAIN_THREAD = ("used_cpu_user_main_thread", "used_cpu_sys_main_thread")
"""Seconds, since 6.2."""
WHOLE_SERVER = ("used_cpu_user", "used_cpu_sys")
"""Of all its threads: more than the main thread's, so that nothing is taken away that it computed."""
NEARLY_ALL = 0.8
"""Of the logged time: as precise as INFO once a second and a log of whole seconds are."""
OWN_PART = 0.25
"""Where less than so much can have been computed, the waiting is what has to be explained."""
OWN_LEAST_NS = 10_000_000
"""What is left of an entry that waited: the slow log's own default threshold, whatever was set."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the main thread had computed until then."""

    ts_ns: int
    cpu_ns: int


def of_log(view: RedisView, holds: tuple[Hold, ...]) -> tuple[Hold, ...]:
    """Entries of the slow log and what it left out, each only as long as the main thread can have worked on it."""
    return _computed(view, (*_unstopped(view, holds), *_unlogged(view)))


def _unlogged(view: RedisView) -> Iterator[Hold]:
    """Commands that the slow log has not (it is off, full, or they were below its threshold), by the server's count.

    Only verbs of which the others were long in the mean: whenever in the window, all of the same length. Scripts count
    their commands twice, so that what may lie within them is left out.
    """
    window, counted = view.picture.capture.manifest.window, view.counted("cmdstat_", "calls", "usec")
    in_scripts_us = sum(us for name, (_, us) in counted.items() if name.upper() in SCRIPTS)
    for name, (calls, us) in sorted(counted.items()):
        verb = name.upper()
        if verb in commandtable.ASKED_BY_CULPA or verb == TRANSACTION or "|" in verb:
            continue
        mine = [hold for hold in all_logged(view) if hold.verb == verb]
        left, left_us = int(calls) - len(mine), us - sum(hold.length_ns for hold in mine) / 1000
        if left < 1 or left_us * 1000 < left * STALL_NS or (verb not in SCRIPTS and left_us <= in_scripts_us):
            continue
        hold = Hold(
            verb=verb, start_ns=window.start_ns, end_ns=window.end_ns, length_ns=int(1000 * left_us / left),
            exact=False, counted=True,
        )  # fmt: skip
        yield from [hold] * min(left, MOST_UNLOGGED)


def _unstopped(view: RedisView, holds: tuple[Hold, ...]) -> tuple[Hold, ...]:
    """Entries of the slow log without the time for which a CPU quota stopped their command: the log's clock went on.

    Each period of it that a command was in may have had a stop, as long as they were in the mean. What is then below
    the log's own threshold is a short command that was stopped.
    """
    taken = throttled(view.picture) if view.pid in view.picture.capture.manifest.target.pids else None
    threshold_us = view.number("slowlog-log-slower-than", "CONFIG GET")
    if taken is None or not taken.times or threshold_us is None:
        return holds
    period_ns = int(1000 * (taken.period_us or USUAL_PERIOD_US))
    stop_ns = min(taken.ns // taken.times, period_ns)
    found = []
    for hold in holds:
        left_ns = hold.length_ns - stop_ns * math.ceil(hold.length_ns / period_ns)
        if left_ns >= 1000 * threshold_us:
            found.append(replace(hold, length_ns=left_ns))
    return tuple(found)


def _computed(view: RedisView, holds: tuple[Hold, ...]) -> tuple[Hold, ...]:
    """Entries of the slow log without the time that the main thread cannot have computed.

    All entries of the same seconds together cannot have computed longer than the thread did in these. What is
    missing each has waited for in proportion to its length; what then falls below the threshold was short, and what
    mostly waited has another cause.
    """
    looks, threshold_us = _looks(view), view.number("slowlog-log-slower-than", "CONFIG GET")
    least_ns = max(OWN_LEAST_NS, int(1000 * (threshold_us or 0)))
    found = []
    for hold in holds:
        part = 1.0 if hold.verb in BLOCKING else _computed_part(hold, holds, looks)
        if part >= NEARLY_ALL:
            found.append(hold)
        elif part >= OWN_PART and part * hold.length_ns >= least_ns:
            found.append(replace(hold, length_ns=int(part * hold.length_ns)))
    return tuple(found)


def _computed_part(hold: Hold, holds: Sequence[Hold], looks: Sequence[Look]) -> float:
    """What part of an entry, and of those of its seconds, can have been computed; 1 where that is not known."""
    if not looks or hold.end_ns <= looks[0].ts_ns or hold.start_ns >= looks[-1].ts_ns:
        return 1.0
    first = max((look for look in looks if look.ts_ns <= hold.start_ns), key=_when, default=looks[0])
    last = min((look for look in looks if look.ts_ns >= hold.end_ns), key=_when, default=looks[-1])
    logged_ns = {True: 0.0, False: 0.0}
    for one in holds:
        if one.verb not in BLOCKING:
            logged_ns[one.verb in SCRIPTS] += _within(one, first.ts_ns, last.ts_ns)
    most_ns = max(logged_ns.values())  # the log has the commands of a script as well: they may be within it
    return min(1.0, (last.cpu_ns - first.cpu_ns) / most_ns) if most_ns else 1.0


def _within(hold: Hold, start_ns: int, end_ns: int) -> float:
    """So much of an entry lies there, if it is as likely anywhere in its seconds."""
    overlap_ns = min(hold.end_ns, end_ns) - max(hold.start_ns, start_ns)
    return hold.length_ns * max(0, overlap_ns) / max(1, hold.end_ns - hold.start_ns)


def _when(look: Look) -> int:
    return look.ts_ns


def _looks(view: RedisView) -> list[Look]:
    """Each time that it said its CPU time; nothing where that went back (a restart) or was said only once."""
    for fields in (MAIN_THREAD, WHOLE_SERVER):
        looks = _added_up(view, fields)
        if len(looks) > 1 and all(a.cpu_ns <= b.cpu_ns for a, b in pairwise(looks)):
            return looks
    return []


def _added_up(view: RedisView, fields: tuple[str, ...]) -> list[Look]:
    told = view.said(*fields).group_by("ts_ns").agg("value").sort("ts_ns")
    sums = [(ts_ns, [number_of(value) for value in values]) for ts_ns, values in told.iter_rows()]
    return [
        Look(ts_ns, int(NS_PER_SECOND * sum(known)))
        for ts_ns, numbers in sums
        if len(known := [number for number in numbers if number is not None]) == len(fields)
    ]
