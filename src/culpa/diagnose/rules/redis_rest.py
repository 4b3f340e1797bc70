"""Stalls of a Redis server that nothing accounts for."""

from __future__ import annotations

from collections.abc import Iterator

from culpa.diagnose.blame import NOT_RECEIVED
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND

LEAST_NS = 10_000_000
"""Less in a whole window is the host's noise."""
ASLEEP = ("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "select")
"""Where the event loop waits for the next question."""


@rule(
    id="redis.stall.unattributed",
    title="Redis stood still, and nothing that was seen accounts for it",
    needs=(),
    fixes=("redis-look-on-the-host",),
    fires=(Lab("redis-frozen"),),
    silent=(Lab("redis-frozen-healthy"), Lab("redis-stopped"), Lab("redis-keys")),
    last=True,
)
@each_server
def unattributed(view: RedisView) -> Iterator[Finding]:
    """What it detects: PING waited 5 ms or longer, and neither a command nor any other cause explains that time.

    Why it slows you: every client waited as long as PING did.

    How sure: the waiting was measured by culpa itself; what it is not is known, what it is not.

    Where the host is traced, three things are left out: time in which the main thread slept until something should
    arrive (the question was on its way to it, or culpa's own thread was late), time after it had answered, and time in
    which it was ready to run and had no CPU, because of other programs (`redis.cpu.starved`) or of culpa itself. Where
    events were only summed up, nothing is said: nobody saw what the server did then.

    What to do: look at the server from its own host, where the waits of its main thread can be followed.
    """
    picture = view.picture
    if not picture.is_checkup:
        raise Unseen("the server was not asked PING: that is for culpa redis URL")
    if picture.seen == "sums":
        raise Unseen("what the server did was only summed up, and sums do not tell when")
    rest = _unexplained(view)
    idle = [node for node in view.nodes(Kind.UNEXPLAINED) if _is_idle(view, node)]
    answered = [node for node in picture.nodes(Kind.QUEUED) if picture.blame.nodes[node].on == NOT_RECEIVED]
    if known := [*idle, *answered, *view.nodes(Kind.RUNNABLE)]:
        rest = rest.minus(picture.moments(*known))
    if rest.ns < LEAST_NS:
        return
    yield Finding(
        moments=rest, nearness=Nearness.KERNEL, pid=view.pid, tid=view.pid, on=On(peer=view.server),
        evidence=(
            *view.stall_facts(rest),
            Evidence(fact="of all stalls", value=round(view.stalls.ns / NS_PER_SECOND, 6), unit="s", threshold=None,
                     source="requests"),
            *view.all_monitored(),
        ),
        confidence=0.9,
        fixes=(Fix(id="redis-look-on-the-host", change="run culpa redis as root on the server's own host",
                   reversible=True, risk="none"),),
    )  # fmt: skip


def _unexplained(view: RedisView) -> Moments:
    """What of the stalls no cause explains; samples and the slow log miss the edges of one that they explain."""
    explained = view.picture.explained
    if explained is None:
        return view.stalls
    rest = view.stalls.minus(explained)
    if not view.picture.sampled:
        return rest
    left = rest.by_item(int(view.stalls.item.max(initial=-1)) + 1)
    whole = view.stalls.by_item(len(left))
    mostly = left[rest.item] * 2 > whole[rest.item]
    return Moments.union(rest.item[mostly], rest.start_ns[mostly], rest.end_ns[mostly])


def _is_idle(view: RedisView, node: int) -> bool:
    on = view.picture.blame.nodes[node].on
    return on is not None and on.syscall in ASLEEP
