"""Time that is spent computing, or slept away by choice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import inf

from culpa.diagnose import chatter, freeing, nospace, rereads, smallcalls, workers
from culpa.diagnose.code import line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import code_evidence, own_work, seconds, threads_of, waits_source
from culpa.diagnose.verdict import Evidence, On
from culpa.model.kinds import Kind

MIN_BUSY_SHARE = 0.5
"""Of the time for which it had a CPU: with less, something that it waits for is the larger part."""
MIN_SHARE_BY_ITSELF = 0.25
"""Of the root's time, where the computing alone makes a request slow: a part of that size can be worth its removal,
whatever else is waited for."""
MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""


def _by_process(picture: Picture, kind: Kind) -> list[list[int]]:
    """Nodes by process, largest first; workers behind one port count as one process, and so do the short-lived ones of
    one name: each may have a small part.
    """
    found: dict[int | str, list[int]] = defaultdict(list)
    teams = workers.passing(picture) | workers.teams(picture)
    for node in picture.nodes(kind):
        who, pid = picture.blame.nodes[node].who, _pid(picture, node)
        if who >= 0 and who not in picture.objects.kernel_tids:
            found[teams.get(pid, pid)].append(node)
    return list(found.values())


def _pid(picture: Picture, node: int) -> int:
    who = picture.blame.nodes[node].who
    return picture.objects.pid_of.get(who, who)


@rule(
    id="cpu.busy",
    title="It simply computes",
    needs=(),
    fixes=(),
    fires=(Lab("cpu-busy"), Lab("double-churn-count")),
    silent=(Lab("cpu-busy-healthy"), Lab("sleep-by-choice")),
)
def busy(picture: Picture) -> Iterator[Finding]:
    """What it detects: a process on the request's chain was on a CPU for at least half of the time for which it had one
    (time in which it queued for a CPU says nothing of what it does); or for a quarter of the time, and so long that the
    requests of a URL would be slower than `--slower-than` with nothing else.

    Why it slows you: nothing is waited for; the work itself takes this long.

    How sure: time on the CPU is measured at every context switch. It is a note unless a command, or a URL slower than
    `--slower-than`, is what was asked about: computing is what programs are for. What it computes to send one command
    after another, to read or write a few bytes after others or what it has read before, or to free large files, is not
    counted: that belongs to the round trips and to those calls. Nor is what others compute while they hold a lock or
    serve other requests.

    What to do: profile the named function or line.
    """
    busied = chatter.spent(chatter.repeated(picture)).plus(smallcalls.spent(picture)).plus(rereads.spent(picture))
    busied = busied.plus(freeing.spent(picture))
    queued_ns = picture.moments(*picture.nodes(Kind.RUNNABLE)).ns
    half_ns = max(MIN_BUSY_SHARE * (picture.root.ns - queued_ns), MIN_SHARE * picture.root.ns)
    limit_ns = min(half_ns, _slow_by_itself_ns(picture))
    for nodes in own_work(picture, _by_process(picture, Kind.RUNNING)):
        if not nodes or sum(picture.blame.nodes[node].ns for node in nodes) < limit_ns:
            continue
        moments = picture.moments(*nodes).minus(busied)
        if moments.ns < limit_ns:
            continue
        pid = _pid(picture, nodes[0])
        line = line_of(picture, threads_of(picture, nodes))
        fact = f"{picture.objects.thread_name(pid)} on a CPU"
        evidence = [
            Evidence(
                fact=fact,
                value=seconds(moments.ns),
                unit="s",
                threshold=seconds(limit_ns),
                source=waits_source(picture),
            )
        ]
        if line is not None:
            evidence.append(code_evidence(line))
        evidence += workers.more_like_it(picture, workers.beside(picture, nodes, pid))
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=pid,
            tid=None,
            on=On(code=line.place if line else None),
            evidence=tuple(evidence),
            confidence=0.9 if not picture.sampled else 0.6,
            only_note=not picture.is_slow,
        )


def _slow_by_itself_ns(picture: Picture) -> float:
    """From how much computing on, in all requests of a URL together, these are slow whatever else they wait for."""
    target = picture.capture.manifest.target
    if target.kind != "url" or not picture.is_slow:
        return inf
    return max(MIN_SHARE_BY_ITSELF * picture.root.ns, float(target.slower_than_ns * picture.request_count))


@rule(
    id="sleep.by-choice",
    title="It sleeps by its own choice",
    needs=(),
    fixes=(),
    fires=(Lab("sleep-by-choice"), Lab("peer-in-netns"), Lab("prefork")),
    silent=(Lab("sleep-by-choice-healthy"), Lab("peer-in-netns-healthy"), Lab("remote-slow")),
)
def sleeping(picture: Picture) -> Iterator[Finding]:
    """What it detects: inside a request a thread sleeps, or polls with a timer that runs out; or whoever it waits for
    does.

    Why it slows you: nobody makes it wait; the program asked for the pause.

    How sure: the system call ends by its own timer, and what comes next is work. Sleep between two attempts to write
    where there is no room is `fs.full`. It is a note unless a command, or a URL slower than `--slower-than`, was asked
    about.

    What to do: look at the named line; wait for the event instead of the clock.
    """
    for nodes in own_work(picture, _by_process(picture, Kind.SLEEP)):
        moments = picture.moments(*nodes)
        if not nodes or picture.share(moments.ns) < MIN_SHARE or nospace.is_why(picture, moments):
            continue
        pid = _pid(picture, nodes[0])
        line = line_of(picture, threads_of(picture, nodes))
        on = picture.blame.nodes[nodes[0]].on
        call = on.syscall if on else None
        evidence = [
            Evidence(
                fact=f"{picture.objects.thread_name(pid)} asleep in {call or 'a timer'}",
                value=seconds(moments.ns),
                unit="s",
                threshold=seconds(MIN_SHARE * picture.root.ns),
                source=waits_source(picture),
            )
        ]
        if line is not None:
            evidence.append(code_evidence(line))
        evidence += workers.more_like_it(picture, workers.beside(picture, nodes, pid))
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=pid,
            tid=picture.blame.nodes[nodes[0]].who,
            on=On(syscall=call, code=line.place if line else None),
            evidence=tuple(evidence),
            confidence=0.9,
            only_note=not picture.is_slow,
        )
