"""Connections that their listener has no room for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from culpa.capture.schema import COUNTERS
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.ruled_out import Counters
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.connectwaits import NOT_TAKEN
from culpa.model.kinds import NONE, Kind
from culpa.units import format_count

MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""
OVERFLOWS = "ListenOverflows"
"""Connections that were refused because the queue of a listener was full (net/ipv4/tcp_ipv4.c)."""
NETSTAT = "net/netstat"


@rule(
    id="net.accept-queue",
    title="Connections wait because the listener's queue is full",
    needs=(COUNTERS,),
    fixes=("listener-longer-queue",),
    fires=(Lab("accept-queue"),),
    silent=(Lab("accept-queue-healthy"), Lab("loop-blocked"), Lab("pool-exhausted"), Lab("remote-slow")),
)
def accept_queue(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request opens a connection to a program on this host and waits until it comes about, while
    the kernel counts connections that found a listener's queue full.

    Why it slows you: the kernel drops what asks for a connection when as many as the queue holds are not accepted yet.
    The client asks again after a second, then after two, then four, whether or not there is room before.

    How sure: the wait is measured, and on one host a connection waits for nothing else. That queues were full is
    counted for the whole network namespace (ListenOverflows), not for each listener. A connection that lies in the
    queue and is accepted late is no part of it: that is what its listener does meanwhile.

    What to do: have it accept sooner, with more threads or processes, or in a thread that does nothing else; a longer
    queue (the listener's backlog, and net.core.somaxconn, which bounds it) bridges short bursts only. `ss -ltn` shows
    what lies in the queue (Recv-Q) and how much it holds (Send-Q). Connections that are kept open wait once.
    """
    overflows = _overflows(picture)
    if not overflows:
        return
    found: dict[tuple[int, str | None], list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.QUEUED):
        on = picture.blame.nodes[node].on
        if on is not None and on.stage == NOT_TAKEN:
            found[picture.blame.nodes[node].who, on.peer].append(node)
    for (pid, peer), nodes in found.items():
        moments = picture.moments(*nodes)
        if picture.share(moments.ns) >= MIN_SHARE:
            yield Finding(
                moments=moments, nearness=Nearness.LIMIT, pid=pid, tid=None, on=On(peer=peer),
                evidence=tuple(_evidence(picture, pid, nodes, overflows)), confidence=0.9,
                fixes=(
                    Fix(
                        id="listener-longer-queue",
                        change="accept in a thread of its own, or start more workers; a larger backlog (and "
                        "net.core.somaxconn) for bursts",
                        reversible=True, risk="those that wait in a longer queue wait for their answer instead",
                    ),
                ),
            )  # fmt: skip


def _overflows(picture: Picture) -> float:
    """How often a queue was full, in the network namespaces of culpa and of the target."""
    counters, frame = Counters(picture.capture.frame(COUNTERS)), picture.capture.frame(COUNTERS)
    rows = frame.filter(frame["source"].str.ends_with(NETSTAT)).select("source", "object").unique().sort("source")
    grown = (counters.delta(source, place or "", OVERFLOWS) for source, place in rows.iter_rows())
    return sum(value for value in grown if value is not None)


def _evidence(picture: Picture, pid: int, nodes: list[int], overflows: float) -> Iterator[Evidence]:
    inside = picture.blame.inside(*nodes)
    calls = len(np.unique(inside.call[inside.call != NONE]))
    listener = picture.objects.thread_name(pid)
    yield Evidence(
        fact=f"waited for {format_count(max(1, calls))} connections that {listener} had no room for",
        value=seconds(picture.moments(*nodes).ns), unit="s", threshold=seconds(MIN_SHARE * picture.root.ns),
        source="offcpu, syscalls, sockets",
    )  # fmt: skip
    yield Evidence(
        fact=f"connections that found a listener's queue full ({OVERFLOWS})", value=overflows, unit="", threshold=0,
        source="/proc/net/netstat",
    )  # fmt: skip
