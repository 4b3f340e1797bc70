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
from culpa.model.filelocks import TRIED_FOR
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
    own, one of the kernel, held by whoever writes to a file, changes a directory, or a process's memory, or the lock of
    a file (flock, lockf, fcntl), also where the program tries for it again and again and sleeps in between.

    Why it slows you: only one of them goes on at a time; whatever the holder does meanwhile, everybody does.

    How sure: each wait in futex(2) was ended by a thread that was in futex(2) on the same word, and that word passes
    from waiter to waiter as a lock does. A wait for a result that another thread computes is not counted. A wait for a
    lock of the kernel is told by the kernel stack, its holder by who woke the waiter: these locks are handed on by the
    thread that lets them go. Who holds the lock of a file is told by whoever let it go, else by /proc/locks. Where the
    holder could not be told, the evidence says for how long; the lock of a file is named all the same.

    What to do: do less while holding the lock: no I/O, no sleep, no long computation; split it, or read a copy. Of the
    kernel's locks: write less at a time, or to another file or directory; map and unmap memory, and fork, less often.
    """
    for pid, nodes in _by_holder(picture):
        held, unheld = _told_apart(picture, nodes)
        moments = picture.moments(*nodes)
        named = held or [n for n in nodes if _of_file(picture, n)]
        if not named or picture.share(without_run_queue(picture, nodes)) < MIN_LOCK_SHARE:
            continue
        longest = picture.blame.nodes[max(named, key=lambda n: (picture.blame.nodes[n].ns, -n))]
        on = longest.on
        line = line_of(picture, threads_of(picture, named))
        process = f"{picture.objects.process(pid).comm}[{pid}]"
        fact = f"waiting for a lock that {process} holds" if held else f"{process} waiting for the lock of a file"
        evidence = [lasted(picture, fact, nodes)]
        evidence += [
            lasted(picture, f"meanwhile the holder was {what}", found) for what, found in activities(picture, held)
        ]
        if unheld:
            evidence.append(lasted(picture, "holder unknown", unheld))
        if line is not None:
            evidence.append(code_evidence(line))
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE if pid in chain_pids(picture, nodes) else Nearness.NEIGHBOUR,
            pid=pid,
            tid=longest.who,
            on=On(path=on.path, lock=on.lock, code=line.place if line else None) if on else None,
            evidence=tuple(evidence),
            confidence=0.9 if held else 0.7,
            # Who stands by until another one gives up tries for its lock all day.
            title=_OF_FILE[bool(held)] if on and on.path else None,
            only_note=on is not None and on.lock == TRIED_FOR and picture.root.basis == "threads",
        )


def _by_holder(picture: Picture) -> list[tuple[int, list[int]]]:
    """Waits for locks, those of the kernel and of files apart, by the process that holds them, or waits where nobody is
    known to; threads of the kernel are none.
    """
    found: dict[tuple[int, bool, str | None], list[int]] = defaultdict(list)
    for number in picture.nodes(Kind.LOCK):
        node = picture.blame.nodes[number]
        if node.who not in picture.objects.kernel_tids:
            in_memory = node.on is not None and (node.on.lock or "").startswith("0x")
            path = node.on.path if node.on else None
            found[picture.objects.pid_of.get(node.who, node.who), in_memory, path].append(number)
    return [(pid, nodes) for (pid, _, _), nodes in found.items()]


_OF_FILE = {
    True: "It holds the lock of a file that is waited for",
    False: "It waits for the lock of a file; who holds it was not seen",
}


def _of_file(picture: Picture, node: int) -> bool:
    on = picture.blame.nodes[node].on
    return on is not None and on.path is not None


def _told_apart(picture: Picture, nodes: list[int]) -> tuple[list[int], list[int]]:
    """Waits whose holder is known, and those whose holder is not."""
    known: list[int] = []
    unknown: list[int] = []
    for node in nodes:
        on = picture.blame.nodes[node].on
        (known if on is None or on.stage is None else unknown).append(node)
    return known, unknown
