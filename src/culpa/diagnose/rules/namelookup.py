"""Waits for name servers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import NONE, Kind
from culpa.model.peerwaits import LOOKING_UP
from culpa.syscalls import Numbers
from culpa.units import format_count

MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""
USUAL_NS = 5_000_000
"""What a look-up may take in the mean: a name server in the same network answers within a few milliseconds."""
EAGAIN = 11
"""A receiving call with a timer of its own (SO_RCVTIMEO) ends so."""


@rule(
    id="net.name-lookup",
    title="It waits for a name server",
    needs=(),
    fixes=("app-names-remembered",),
    fires=(Lab("name-lookup"),),
    silent=(Lab("name-lookup-healthy"), Lab("remote-slow"), Lab("peer-in-netns")),
)
def name_lookup(picture: Picture) -> Iterator[Finding]:
    """What it detects: within the request a name is looked up, and the request waits for the name server's answer.

    Why it slows you: a program that needs an address waits for it before it does anything else. A question that gets
    lost is asked again only after seconds (5 by default, `options timeout:` in resolv.conf), and a program that keeps
    no names asks anew for each connection.

    How sure: the wait is measured from the question's first datagram to port 53 until its answer is read or the socket
    is closed; it is a note where an answer takes less than 5 ms in the mean. Whether the name server, or the way to it,
    is slow cannot be told from this side. Questions over TLS or HTTPS look like any other connection, and those that a
    helper on this host asks (systemd-resolved, nscd) are seen only as far as that helper is watched.

    What to do: ask that server yourself (`dig @ADDRESS NAME`); keep connections open, or addresses in memory, in place
    of a look-up for each request; a cache on this host (dnsmasq, systemd-resolved, nscd) answers at once what was asked
    before. Where questions are lost, mend the way there or take the server out of /etc/resolv.conf.
    """
    if picture.is_checkup:
        raise Unseen("the server that is examined is asked by its address")
    found: dict[str, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.REMOTE):
        on = picture.blame.nodes[node].on
        if on is not None and on.stage == LOOKING_UP:
            found[on.peer or "a name server"].append(node)
    for server, nodes in found.items():
        moments = picture.moments(*nodes)
        if picture.share(moments.ns) >= MIN_SHARE:
            tid = picture.blame.nodes[nodes[0]].who
            yield Finding(
                moments=moments, nearness=Nearness.NEIGHBOUR, pid=picture.objects.pid_of.get(tid, tid), tid=tid,
                on=On(peer=server), evidence=tuple(_evidence(picture, server, nodes)), confidence=0.9,
                only_note=_mean(picture, nodes) < USUAL_NS,
                fixes=(
                    Fix(
                        id="app-names-remembered",
                        change="keep the connection, or the address, from one request to the next; or let a cache on "
                        "this host answer (dnsmasq, systemd-resolved, nscd)",
                        reversible=True, risk="an address that changes is noticed later",
                    ),
                ),
            )  # fmt: skip


def _evidence(picture: Picture, server: str, nodes: list[int]) -> Iterator[Evidence]:
    who = picture.objects.thread_name(picture.blame.nodes[nodes[0]].who)
    yield Evidence(
        fact=f"{who} waited for the name server {server}", value=seconds(picture.moments(*nodes).ns), unit="s",
        threshold=seconds(MIN_SHARE * picture.root.ns), source="messages, sockets",
    )  # fmt: skip
    lengths = _lengths(picture, nodes)
    if len(lengths):
        fact = f"longest of {format_count(len(lengths))} look-ups"
        yield Evidence(fact=fact, value=seconds(max(lengths)), unit="s", threshold=None, source="messages")
    vain = _waits_in_vain(picture, nodes)
    if vain:
        fact = "waits that ended without an answer, so that it asked again or gave up"
        yield Evidence(fact=fact, value=vain, unit="", threshold=None, source="syscalls")


def _lengths(picture: Picture, nodes: list[int]) -> list[int]:
    """How long (ns) each question was waited for."""
    inside = picture.blame.inside(*nodes)
    waited: dict[int, int] = defaultdict(int)
    for exchange, start, end in zip(
        inside.exchange.tolist(), inside.start_ns.tolist(), inside.end_ns.tolist(), strict=True
    ):
        if exchange != NONE:
            waited[exchange] += end - start
    return list(waited.values())


def _mean(picture: Picture, nodes: list[int]) -> float:
    """Of a question (ns)."""
    lengths = _lengths(picture, nodes)
    return sum(lengths) / len(lengths) if lengths else 0.0


def _waits_in_vain(picture: Picture, nodes: list[int]) -> int:
    """How many of the calls that waited ended by their timer."""
    if picture.graph is None:
        return 0
    rows = np.unique(picture.blame.inside(*nodes).call)
    calls = picture.graph.calls[rows[rows != NONE].tolist()]
    numbers = Numbers(picture.capture.manifest.host.machine)
    polled = pl.col("nr").is_in(list(numbers.of(syscalls.MANY_WAIT))) & (pl.col("ret") == 0)
    received = pl.col("nr").is_in(list(numbers.of(syscalls.RECEIVE))) & (pl.col("ret") == -EAGAIN)
    return int(calls.filter(polled | received).height)
