"""The PINGs of a check-up that had to wait, one by one, and what accounts for their time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from culpa.diagnose.causes import Found
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.verdict import Stall, StallPart, Stalls
from culpa.model.axis import Int64s
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND

NO_REASON = frozenset({"cpu.busy", "sleep.by-choice"})
"""They say what a thread did meanwhile, and not why a client waits for that."""
MOST_LISTED = 1000
"""What a check-up of a minute can meet; of more than that the longest are listed."""


def of(picture: Picture, found: Sequence[Found]) -> Stalls | None:
    """The stalls of a check-up; None of anything else, and where only sums were kept, which have no moments."""
    if not picture.is_checkup or picture.seen == "sums":
        return None
    stalls, named = picture.root.stalls, _named(found)
    everything = Moments.of_all(named.values())
    parts = {cause: _within(stalls, moments) for cause, moments in named.items()}
    all_named, no_cpu = _within(stalls, everything), _within(stalls, _without_cpu(picture).minus(everything))
    length = stalls.end_ns - stalls.start_ns
    listed = np.sort(np.argsort(-length, kind="stable")[:MOST_LISTED])
    window = picture.capture.manifest.window
    return Stalls(
        since=window.start_ns / NS_PER_SECOND,
        until=window.end_ns / NS_PER_SECOND,
        count=len(length),
        seconds=_seconds(length.sum()),
        longest_seconds=_seconds(length.max(initial=0)),
        named_seconds=_seconds(all_named.sum()),
        cpu_seconds=_seconds(no_cpu.sum()),
        each=tuple(
            Stall(
                at=int(stalls.start_ns[row]) / NS_PER_SECOND,
                seconds=_seconds(length[row]),
                named_seconds=_seconds(all_named[row]),
                cpu_seconds=_seconds(no_cpu[row]),
                causes=tuple(
                    StallPart(id=cause, seconds=_seconds(ns[row])) for cause, ns in parts.items() if ns[row] > 0
                ),
            )
            for row in sorted(listed.tolist(), key=lambda row: int(stalls.start_ns[row]))
        ),
    )


def _named(found: Sequence[Found]) -> dict[str, Moments]:
    """The time of each cause by its id; not of what is left over (`Rule.last`), nor of risks."""
    named: dict[str, Moments] = {}
    for entry in found:
        if entry.rule.last or entry.rule.id in NO_REASON or entry.finding.kind == "risk":
            continue
        moments = entry.finding.moments
        named[entry.rule.id] = named[entry.rule.id].plus(moments) if entry.rule.id in named else moments
    return named


def _without_cpu(picture: Picture) -> Moments:
    """When the server's main thread was ready to run and had no CPU, whoever had it: what the blame tree shows."""
    servers = picture.capture.manifest.target.pids
    return picture.moments(*(n for n in picture.nodes(Kind.RUNNABLE) if picture.blame.nodes[n].who in servers))


def _within(stalls: Moments, moments: Moments) -> Int64s:
    return moments.overlap(stalls.start_ns, stalls.end_ns, stalls.item)


def _seconds(ns: int | np.int64) -> float:
    return round(int(ns) / NS_PER_SECOND, 6)
