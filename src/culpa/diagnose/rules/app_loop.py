"""One thread, many requests: a request waits while that thread serves another one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from culpa.capture import schema
from culpa.diagnose.code import line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.crews import crews, is_behind_another
from culpa.diagnose.rules.evidence import (
    activities,
    code_evidence,
    seconds,
    threads_of,
    waits_source,
    without_run_queue,
)
from culpa.diagnose.verdict import Evidence, On
from culpa.model.kinds import Kind

MIN_QUEUED_SHARE = 0.1


@rule(
    id="app.loop.blocked",
    title="The only thread that serves requests is busy with another one",
    needs=(schema.OFFCPU, schema.SYSCALLS, schema.MESSAGES),
    fixes=(),
    fires=(Lab("loop-blocked"),),
    silent=(Lab("loop-blocked-healthy"), Lab("lock-holders"), Lab("cpu-busy")),
)
def blocked(picture: Picture) -> Iterator[Finding]:
    """What it detects: requests have arrived and are not read, because the one thread that reads them works on another
    request until that is done.

    Why it slows you: an event loop, or a server with one thread, is only as fast as its slowest request.

    How sure: the thread's own calls show which request it works on and when it reads the next one. Where several
    threads read requests, of one process or of several behind one port, it is not a loop, and a Redis server does not
    count either: its one thread is how it is made, and there the slow command is the cause.

    What to do: move what takes long out of that thread: a worker, a queue, an asynchronous call; or start more of them.
    """
    alone = {tid for crew in crews(picture) if len(crew.tids) == 1 for tid in crew.tids}
    by_thread: dict[int, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.QUEUED):
        if is_behind_another(picture.blame.nodes[node].on):
            by_thread[picture.blame.nodes[node].who].append(node)
    for tid, nodes in by_thread.items():
        moments = picture.moments(*nodes)
        if tid not in alone or picture.share(without_run_queue(picture, nodes)) < MIN_QUEUED_SHARE:
            continue
        pid = picture.objects.pid_of.get(tid, tid)
        evidence = [_fact(picture, f"not read by {picture.objects.thread_name(tid)}", nodes)]
        evidence += [_fact(picture, f"queued behind {text}", found) for text, found in _by_request(picture, nodes)]
        evidence += [_fact(picture, f"meanwhile it was {what}", found) for what, found in activities(picture, nodes)]
        line = line_of(picture, threads_of(picture, nodes))
        if line is not None:
            evidence.append(code_evidence(line))
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=pid,
            tid=tid,
            on=On(code=line.place) if line else None,
            evidence=tuple(evidence),
            confidence=0.9,
        )


def _by_request(picture: Picture, nodes: list[int]) -> list[tuple[str, list[int]]]:
    """The requests that were served meanwhile, those that took longest first, at most three."""
    found: dict[str, list[int]] = defaultdict(list)
    for node in nodes:
        on = picture.blame.nodes[node].on
        found[(on.behind if on else None) or ""].append(node)
    return sorted(found.items(), key=lambda entry: (-picture.moments(*entry[1]).ns, entry[0]))[:3]


def _fact(picture: Picture, fact: str, nodes: list[int]) -> Evidence:
    return Evidence(
        fact=fact, value=seconds(picture.moments(*nodes).ns), unit="s", threshold=None, source=waits_source(picture)
    )
