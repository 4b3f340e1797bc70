"""Threads that were made to stand still: by a signal, a tracer or the freezer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import lasted, seconds
from culpa.model.kinds import Kind

MIN_STOPPED_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""
MAX_WAYS = 3
"""By whom it was stopped, or let go on: so many are named."""


@rule(
    id="proc.stopped",
    title="It is stopped",
    needs=(),
    fixes=(),
    fires=(Lab("proc-stopped"), Lab("redis-stopped")),
    silent=(Lab("proc-stopped-healthy"), Lab("sleep-by-choice"), Lab("cpu-quota"), Lab("herring-stopped")),
)
def stopped(picture: Picture) -> Iterator[Finding]:
    """What it detects: threads on the request's chain stood still because a signal, a tracer (a debugger, strace) or
    the freezer of their control group stopped them.

    Why it slows you: a stopped thread does nothing at all until somebody lets it go on.

    How sure: the scheduler says in which state a thread left its CPU, or samples find it stopped. Who sent the signal
    is known where the call was seen; else whoever let it go on is named, if that was.

    What to do: ask whoever is named to leave the process alone; if it stays stopped, `kill -CONT` lets it go on.
    """
    by_process: dict[int, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.STOPPED):
        who = picture.blame.nodes[node].who
        by_process[picture.objects.pid_of.get(who, who)].append(node)
    for pid, nodes in by_process.items():
        moments = picture.moments(*nodes)
        if picture.share(moments.ns) < MIN_STOPPED_SHARE:
            continue
        name = f"{picture.objects.process(pid).comm}[{pid}]"
        ways = _ways(picture, nodes)
        limit = seconds(MIN_STOPPED_SHARE * picture.root.ns)
        evidence = [lasted(picture, f"{name} stopped", nodes, threshold=limit)]
        evidence += [lasted(picture, f"{name} stopped {way}", found) for way, found in ways]
        yield Finding(
            moments=moments,
            nearness=Nearness.NEIGHBOUR,
            pid=pid,
            tid=None,
            on=None,
            evidence=tuple(evidence),
            confidence=0.95 if ways else 0.85,
            title=f"It is stopped {ways[0][0]}" if ways else None,
        )


def _ways(picture: Picture, nodes: list[int]) -> list[tuple[str, list[int]]]:
    """By whom, or until who let it go on, as far as that was seen; the longest first."""
    found: dict[str, list[int]] = defaultdict(list)
    for node in nodes:
        on = picture.blame.nodes[node].on
        if on is not None and on.stage is not None:
            found[on.stage].append(node)
    return sorted(found.items(), key=lambda entry: (-picture.moments(*entry[1]).ns, entry[0]))[:MAX_WAYS]
