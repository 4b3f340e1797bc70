"""One thread, many requests: a request waits while that thread serves another one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from culpa.capture import schema
from culpa.diagnose.code import line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.crews import MIN_QUEUED_SHARE, crews, is_behind_another, served_meanwhile
from culpa.diagnose.rules.evidence import (
    activities,
    code_evidence,
    lasted,
    threads_of,
    without_run_queue,
)
from culpa.diagnose.verdict import On
from culpa.model.kinds import Kind


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
        evidence = [lasted(picture, f"not read by {picture.objects.thread_name(tid)}", nodes)]
        evidence += [
            lasted(picture, f"queued behind {text}", found) for text, found in served_meanwhile(picture, nodes)
        ]
        evidence += [lasted(picture, f"meanwhile it was {what}", found) for what, found in activities(picture, nodes)]
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
