"""Time spent waiting for a lock, and what its holder did meanwhile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from culpa.capture import schema
from culpa.diagnose.code import line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import (
    activities,
    code_evidence,
    lasted,
    threads_of,
    without_run_queue,
)
from culpa.diagnose.verdict import On
from culpa.model.kinds import Kind

MIN_LOCK_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""


@rule(
    id="lock.contention",
    title="It waits for a lock",
    needs=(schema.OFFCPU, schema.SYSCALLS),
    fixes=(),
    fires=(Lab("lock-holders"),),
    silent=(Lab("lock-holders-healthy"), Lab("sleep-by-choice"), Lab("loop-blocked")),
)
def contention(picture: Picture) -> Iterator[Finding]:
    """What it detects: threads on the request's chain wait for a lock that threads of the same process hold.

    Why it slows you: only one of them goes on at a time; whatever the holder does meanwhile, everybody does.

    How sure: each wait in futex(2) was ended by a thread that was in futex(2) on the same word, and that word passes
    from waiter to waiter as a lock does. A wait for a result that another thread computes is not counted. Where the
    holder could not be told, the evidence says for how long.

    What to do: do less while holding the lock: no I/O, no sleep, no long computation; split it, or read a copy.
    """
    by_process: dict[int, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.LOCK):
        who = picture.blame.nodes[node].who
        by_process[picture.objects.pid_of.get(who, who)].append(node)
    for pid, nodes in by_process.items():
        held = [n for n in nodes if not _is_unknown(picture, n)]
        moments = picture.moments(*nodes)
        if not held or picture.share(without_run_queue(picture, nodes)) < MIN_LOCK_SHARE:
            continue
        longest = picture.blame.nodes[max(held, key=lambda n: (picture.blame.nodes[n].ns, -n))]
        lock = longest.on.lock if longest.on else None
        line = line_of(picture, threads_of(picture, held))
        evidence = [lasted(picture, f"waiting for a lock that {picture.objects.process(pid).comm}[{pid}] holds", nodes)]
        evidence += [
            lasted(picture, f"meanwhile the holder was {what}", found) for what, found in activities(picture, held)
        ]
        if len(held) < len(nodes):
            evidence.append(lasted(picture, "holder unknown", [n for n in nodes if n not in held]))
        if line is not None:
            evidence.append(code_evidence(line))
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=pid,
            tid=longest.who,
            on=On(lock=lock, code=line.place if line else None),
            evidence=tuple(evidence),
            confidence=0.9,
        )


def _is_unknown(picture: Picture, node: int) -> bool:
    on = picture.blame.nodes[node].on
    return on is not None and on.stage is not None
