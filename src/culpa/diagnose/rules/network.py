"""Waits for other hosts, and for what is lost on the way to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import reduce

from culpa.capture.schema import OFFCPU, RETRANSMITS
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.retransmits import Loss, losses
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.verdict import Evidence, On
from culpa.model.kinds import Kind
from culpa.model.peerwaits import LOOKING_UP
from culpa.units import format_count

MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""
EXAMINED = "the other end is the server that is examined: what holds it up is asked of the server itself"


@rule(
    id="net.remote-slow",
    title="The answer comes late from another host",
    needs=(),
    fixes=(),
    fires=(Lab("remote-slow"), Lab("packet-loss-beside")),
    silent=(Lab("remote-slow-healthy"), Lab("peer-in-netns"), Lab("packet-loss")),
)
def remote_slow(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for an answer on a connection whose other end is not on this host.

    Why it slows you: the other host, or the way to it, takes this long.

    How sure: the wait is measured from the question's write to the answer's arrival; whether the network or the other
    program is slow cannot be told from this side.

    What to do: run culpa on the other host. The answer of a name server is `net.name-lookup`; the time in which what
    this host sent got lost is `net.loss`, and is left out here. What got lost of the answer cannot be seen from this
    side.
    """
    if picture.is_checkup:
        raise Unseen(EXAMINED)
    lost = [loss.moments for loss in losses(picture)]
    found: dict[str, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.REMOTE):
        on = picture.blame.nodes[node].on
        if on is None or on.stage != LOOKING_UP:
            found[(on.peer if on else None) or "another host"].append(node)
    for peer, nodes in found.items():
        moments = reduce(Moments.minus, lost, picture.moments(*nodes))
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


@rule(
    id="net.loss",
    title="What it sends gets lost on the way",
    needs=(OFFCPU, RETRANSMITS),
    fixes=(),
    fires=(Lab("packet-loss"),),
    silent=(
        Lab("packet-loss-healthy"),
        Lab("packet-loss-beside"),
        Lab("remote-slow"),
        Lab("accept-queue"),
        Lab("herring-lossy"),
    ),
)
def loss(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for an answer, or for a connection to come about, and on that very connection
    the kernel waits for acknowledgements until its timer runs out, and sends again.

    Why it slows you: the timer is 200 ms at least and doubles each further time; for a connection that is asked for it
    is a second. A segment in a thousand is enough to make one request in a few hundred slow.

    How sure: each segment that is sent again is seen with its socket and time, and the wait for the answer went on for
    at least the shortest round trip after it. Counted is the time that the timer had run, not the rest of the wait.
    Segments that are sent again because later ones arrived are left out: they cost a round trip. What gets lost on the
    way back is sent again by the other host, and not seen here: it looks like `net.remote-slow`.

    What to do: look where it gets lost: errors and drops of the interfaces (`ip -s link`, `ethtool -S`), a full queue
    or shaper (`tc -s qdisc`), a firewall that drops (`nft list ruleset`), the path (`mtr`). `ss -ti` shows what a
    connection sent again. Connections that are kept open do not wait a second for each beginning.
    """
    if picture.is_checkup:
        raise Unseen(EXAMINED)
    for found in losses(picture):
        if picture.share(found.moments.ns) >= MIN_SHARE:
            yield Finding(
                moments=found.moments, nearness=Nearness.NEIGHBOUR, pid=found.pid, tid=found.tid,
                on=On(peer=found.peer), evidence=tuple(_sent_again(picture, found)), confidence=0.9,
            )  # fmt: skip


def _sent_again(picture: Picture, found: Loss) -> Iterator[Evidence]:
    who, opening = picture.objects.thread_name(found.tid), sum(one.connecting for one in found.resent)
    yield Evidence(
        fact=f"{who} waited for {found.peer} while what was sent there did not arrive", value=seconds(found.moments.ns),
        unit="s", threshold=seconds(MIN_SHARE * picture.root.ns), source="retransmits, messages, sockets",
    )  # fmt: skip
    yield Evidence(
        fact="segments sent again, after a timer ran out", value=len(found.resent), unit="", threshold=0,
        source="retransmits",
    )  # fmt: skip
    if opening:
        fact = f"{format_count(opening)} of them asked for a connection"
        yield Evidence(fact=fact, value=opening, unit="", threshold=None, source="retransmits")
    longest = max((one.timeout_ns or 0 for one in found.resent), default=0)
    if longest:
        fact = "longest time that the timer ran"
        yield Evidence(fact=fact, value=seconds(longest), unit="s", threshold=None, source="retransmits")
