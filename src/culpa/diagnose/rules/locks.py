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
from culpa.diagnose.rules.owners import chain_pids
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
    silent=(Lab("lock-holders-healthy"), Lab("sleep-by-choice"), Lab("loop-blocked"), Lab("herring-lock")),
)
def contention(picture: Picture) -> Iterator[Finding]:
    """What it detects: threads on the request's chain wait for a lock that other threads hold: one of the program's
    own, or one of the kernel, held by whoever writes to a file, changes a directory, or a process's memory.

    Why it slows you: only one of them goes on at a time; whatever the holder does meanwhile, everybody does.

    How sure: each wait in futex(2) was ended by a thread that was in futex(2) on the same word, and that word passes
    from waiter to waiter as a lock does. A wait for a result that another thread computes is not counted. A wait for a
    lock of the kernel is told by the kernel stack, its holder by who woke the waiter: these locks are handed on by the
    thread that lets them go. Where the holder could not be told, the evidence says for how long.

    What to do: do less while holding the lock: no I/O, no sleep, no long computation; split it, or read a copy. Of the
    kernel's locks: write less at a time, or to another file or directory; map and unmap memory, and fork, less often.
    """
    for pid, nodes in _by_holder(picture):
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
            nearness=Nearness.CODE if pid in chain_pids(picture, nodes) else Nearness.NEIGHBOUR,
            pid=pid,
            tid=longest.who,
            on=On(lock=lock, code=line.place if line else None),
            evidence=tuple(evidence),
            confidence=0.9,
        )


def _by_holder(picture: Picture) -> list[tuple[int, list[int]]]:
    """Waits for locks, those of the kernel apart, by the process that holds them; threads of the kernel are none."""
    found: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for number in picture.nodes(Kind.LOCK):
        node = picture.blame.nodes[number]
        if node.who not in picture.objects.kernel_tids:
            in_memory = node.on is not None and (node.on.lock or "").startswith("0x")
            found[picture.objects.pid_of.get(node.who, node.who), in_memory].append(number)
    return [(pid, nodes) for (pid, _), nodes in found.items()]


def _is_unknown(picture: Picture, node: int) -> bool:
    on = picture.blame.nodes[node].on
    return on is not None and on.stage is not None
