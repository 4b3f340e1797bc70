"""Turns of Redis' event loop that are long because one client sends very many commands at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from culpa.diagnose import redisbatches
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.redisbatches import Batch
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.root import STALL_NS
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.rules.redis_said import fact
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import format_bytes, format_count

MANY = 500
"""Commands in one turn: culpa's own questions at the beginning are some sixty."""
MOST, LONGEST = "eventloop_cmd_per_cycle_max", "eventloop_duration_max"


@rule(
    id="redis.cycle.batch",
    title="Redis works on many commands of one client in one go",
    needs=(),
    fixes=("redis-smaller-batches",),
    fires=(Lab("redis-batch"),),
    silent=(Lab("redis-batch-healthy"), Lab("redis-keys"), Lab("redis-script"), Lab("redis-bigkey-read")),
)
@each_server
def batch(view: RedisView) -> Iterator[Finding]:
    """What it detects: a pipeline or a transaction of many short commands runs for 5 ms or longer in one turn of the
    event loop, while other clients wait.

    Why it slows you: after each read Redis works through all whole commands that it got, and EXEC runs all that was
    queued, before anybody else is looked at. Its slow log times single commands, and shows none.

    How sure: where the host is traced, what the main thread computed between one read and its next step is measured;
    the message held several commands, and the slow log has nothing that makes up half of that time. Else, since 7.2, it
    is what the server says of the longest turn, if that was in the window.

    What to do: send fewer commands at once (some hundred small ones, or less than 16 KB); split the transaction.
    """
    batches = redisbatches.seen(view)
    if batches is None:
        yield from _said(view)
        return
    if not batches:
        return
    moments = redisbatches.moments(view, batches)
    longest = max(batches, key=lambda one: one.length_ns)
    yield Finding(
        moments=moments, nearness=Nearness.NEIGHBOUR if view.is_bystander else Nearness.CODE, pid=view.pid,
        tid=view.pid, on=On(peer=view.server, command=_largest(batches)),
        evidence=(*_measured(view, batches, longest), *view.stall_facts(moments), *_of_cycles(view)),
        confidence=0.9 if view.picture.graph is not None else 0.75, fixes=(_SMALLER,),
    )  # fmt: skip


def _largest(batches: tuple[Batch, ...]) -> str:
    """The first command of those that took most."""
    spent: Counter[str] = Counter()
    for one in batches:
        spent[one.name] += one.length_ns
    return min(spent, key=lambda name: (-spent[name], name))


def _measured(view: RedisView, batches: tuple[Batch, ...], longest: Batch) -> Iterator[Evidence]:
    times = "once" if len(batches) == 1 else f"{format_count(len(batches))} times"
    told = f"main thread at several commands of one message, beginning with {_largest(batches)}, {times}, the longest"
    source = "messages, offcpu: main thread" if view.picture.graph is not None else "messages"
    yield fact(f"{told} for {longest.length_ns / 1e6:.3g} ms", seconds(sum(one.length_ns for one in batches)), source,
               unit="s")  # fmt: skip
    size = format_bytes(max(one.bytes for one in batches))
    yield fact("read in one go, at most", size, "messages")
    ran = view.delta("total_commands_processed")
    served = view.picture.served.get(view.pid) if view.pid is not None else None
    if ran is not None and served is not None and len(served.requests):
        told = f"commands that it counted, for {format_count(len(served.requests))} messages"
        yield fact(told, ran, "INFO stats: total_commands_processed")
    if (buffer := view.number("client_recent_max_input_buffer")) is not None:
        source = "INFO clients: client_recent_max_input_buffer"
        yield fact("most that waited in the buffer of one client lately", format_bytes(int(buffer)), source)


def _of_cycles(view: RedisView) -> Iterator[Evidence]:
    if (most := view.number(MOST)) is not None:
        yield fact("most commands in one turn of its event loop since it started", most, f"INFO debug: {MOST}")
    if (longest_us := view.number(LONGEST)) is not None:
        yield fact("its longest turn since it started", longest_us / 1000, f"INFO debug: {LONGEST}", unit="ms")


def _said(view: RedisView) -> Iterator[Finding]:
    """By its own record of turns (since 7.2): a new one that is long, of very many commands.

    Raises:
        Unseen: it keeps none, or an older one hides what happened, and somebody waited.
    """
    most, longest_us = view.delta(MOST), view.delta(LONGEST)
    many, lasted_ns = view.number(MOST) or 0.0, int(1000 * (view.number(LONGEST) or 0.0))
    if most and longest_us and many >= MANY and lasted_ns >= STALL_NS:
        moments = view.free_stalls.longest(lasted_ns)
        yield Finding(
            moments=moments, nearness=Nearness.CODE, pid=view.pid, tid=view.pid, on=On(peer=view.server),
            evidence=(*_of_cycles(view), *view.stall_facts(moments)), confidence=0.7, fixes=(_SMALLER,),
        )  # fmt: skip
    elif view.stalls.ns:
        raise Unseen("how many commands came at once is seen with tracing, or said by the server itself since 7.2")


_SMALLER = Fix(
    id="redis-smaller-batches",
    change="send pipelines in portions of some hundred commands, or 16 KB, and read the answers between them; split "
    "transactions",
    reversible=True, risk="a transaction that is split is not atomic as a whole",
)  # fmt: skip
