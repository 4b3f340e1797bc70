"""Waits for other hosts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.verdict import Evidence, On
from culpa.model.kinds import Kind
from culpa.model.peerwaits import LOOKING_UP

MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""


@rule(
    id="net.remote-slow",
    title="The answer comes late from another host",
    needs=(),
    fixes=(),
    fires=(Lab("remote-slow"),),
    silent=(Lab("remote-slow-healthy"), Lab("peer-in-netns")),
)
def remote_slow(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for an answer on a connection whose other end is not on this host.

    Why it slows you: the other host, or the way to it, takes this long.

    How sure: the wait is measured from the question's write to the answer's arrival; whether the network or the other
    program is slow cannot be told from this side.

    What to do: run culpa on the other host, or look at the connection's retransmissions. The answer of a name server is
    `net.name-lookup`.
    """
    if picture.is_checkup:
        raise Unseen("the other end is the server that is examined: what holds it up is asked of the server itself")
    found: dict[str, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.REMOTE):
        on = picture.blame.nodes[node].on
        if on is None or on.stage != LOOKING_UP:
            found[(on.peer if on else None) or "another host"].append(node)
    for peer, nodes in found.items():
        moments = picture.moments(*nodes)
        if picture.share(moments.ns) < MIN_SHARE:
            continue
        tid = picture.blame.nodes[nodes[0]].who
        who = picture.objects.thread_name(tid) if tid >= 0 else "culpa's own request"
        yield Finding(
            moments=moments,
            nearness=Nearness.NEIGHBOUR,
            pid=picture.objects.pid_of.get(tid, tid) if tid >= 0 else None,
            tid=tid if tid >= 0 else None,
            on=On(peer=peer),
            evidence=(
                Evidence(
                    fact=f"{who} waited for {peer}",
                    value=seconds(moments.ns),
                    unit="s",
                    threshold=seconds(MIN_SHARE * picture.root.ns),
                    source="messages, sockets",
                ),
            ),
            confidence=0.85,
        )
