"""The children that a Redis makes to save and to rewrite: how often, and whether the host has memory for them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from culpa.diagnose import hostroom, redissaving
from culpa.diagnose.finding import Unseen
from culpa.diagnose.redisview import RedisView
from culpa.diagnose.rule import Rule
from culpa.diagnose.rules.redis_fixes import set_config
from culpa.diagnose.rules.redis_said import Said, fact, state, words
from culpa.diagnose.verdict import Evidence, Fix
from culpa.units import format_bytes, format_count

MIN_REWRITES = 2
"""In the window: one is what a growing file is for."""
REWRITE_EVERY_S = 60
"""More often than this a file is rewritten before it is of use."""
USUAL_MIN_SIZE, USUAL_PERCENTAGE = 64 << 20, 100
"""Defaults of auto-aof-rewrite-min-size (bytes) and auto-aof-rewrite-percentage (redis.conf)."""
NEARLY_ALL = 0.9
"""Of the memory there is room for (BetterDB's monitor warns at 80 % and calls 90 % critical)."""
SMALL_COPY = 10_000_000
"""No host is out of memory for want of this, and INFO's figures are no finer."""


@state(
    "redis.aof.rewrite-loop",
    "Redis rewrites its append-only file again and again",
    "each rewrite forks, copies every page that is written meanwhile, and writes the whole file anew",
)
def rewrite_loop(view: RedisView) -> Said | None:
    """Its append-only file is rewritten more than once a minute by Redis' own settings; what somebody asked for
    (BGREWRITEAOF) is left out.
    """
    if view.need("aof_enabled") == 0 or view.seconds <= 0:
        return None
    begun = _rewrites(view)
    asked = view.grown("cmdstat_bgrewriteaof", "calls")
    if begun - asked < MIN_REWRITES or view.seconds / (begun - asked) > REWRITE_EVERY_S:
        return None
    names = ("auto-aof-rewrite-percentage", "auto-aof-rewrite-min-size")
    percentage, least = (view.need(name, "CONFIG GET") for name in names)
    told = f"rewrites of the append-only file in {view.seconds:.3g} s, by itself"
    limit = round(max(1.0, view.seconds / REWRITE_EVERY_S), 1)
    facts = [fact(told, begun - asked, "INFO persistence", limit=limit)]
    for field, words_ in (("aof_base_size", "length after the last of them"), ("aof_current_size", "length by now")):
        if (size := view.number(field)) is not None:
            facts.append(fact(words_, format_bytes(int(size)), f"INFO persistence: {field}"))
    facts += [fact(names[0], percentage, "CONFIG GET", unit="%", limit=USUAL_PERCENTAGE),
              fact(names[1], format_bytes(int(least)), "CONFIG GET", limit=format_bytes(USUAL_MIN_SIZE))]  # fmt: skip
    facts += children_facts(view)
    return Said(
        evidence=tuple(facts), setting=f"{names[0]} {percentage:.0f}, {names[1]} {least:.0f}",
        fixes=(_rarer(view, percentage, least),),
    )  # fmt: skip


def _rewrites(view: RedisView) -> float:
    """How many began (since 7.0 they are counted), or how many ended: each leaves another base size, as a rule."""
    counted = view.delta("aof_rewrites")
    if counted is not None:
        return counted
    sizes = view.values("aof_base_size")
    return float(sum(before != after for before, after in pairwise(sizes)))


def children_facts(view: RedisView) -> Iterator[Evidence]:
    """Its children, as the kernel has them: those that are still there, or were when it was looked, and their time."""
    if made := redissaving.children(view):
        yield fact("processes that it made, seen in the window", float(len(made)), "/proc/PID/stat: ppid")
    if (spent := redissaving.ended_children_s(view)) is not None:
        yield fact("processes that it made and that ended computed for", round(spent, 3),
                   f"/proc/{view.pid}/stat: cutime, cstime", unit="s")  # fmt: skip


def _rarer(view: RedisView, percentage: float, least: float) -> Fix:
    risk = "the file grows longer, and so does a restart"
    if least < USUAL_MIN_SIZE:
        name, value = "auto-aof-rewrite-min-size", str(USUAL_MIN_SIZE)
        return set_config(view, "redis-aof-rewrite-later", name, value, risk=risk)
    if percentage < USUAL_PERCENTAGE:
        name, value = "auto-aof-rewrite-percentage", str(USUAL_PERCENTAGE)
        return set_config(view, "redis-aof-rewrite-rarely", name, value, risk=risk)
    return words("redis-aof-rewrite-rarely", "raise auto-aof-rewrite-min-size; write fewer or shorter values", risk)


@state(
    "redis.fork.oom-risk",
    "The host may have too little memory for what a save of Redis copies",
    "while a child saves, each page that is written is copied; where memory runs out, the kernel kills the largest "
    "process, which is Redis as a rule",
)
def oom_risk(view: RedisView) -> Said | None:
    """A save would copy, or goes on to copy, nearly as much memory as the host or its control group has left, swap
    included. How much it copies is what the last one did, or what the one under way is heading for.
    """
    copies = redissaving.copies(view)
    if copies is None:
        return None
    rooms = hostroom.rooms(view)
    if not rooms:
        raise Unseen("the memory of its host is not visible from here")
    room = min(rooms, key=lambda one: one.left_bytes)
    if copies.to_come_bytes < SMALL_COPY or copies.to_come_bytes < NEARLY_ALL * room.left_bytes:
        return None
    facts = [
        fact(copies.what, format_bytes(int(copies.to_come_bytes)), copies.source,
             limit=format_bytes(int(NEARLY_ALL * room.left_bytes))),
        fact(room.what, format_bytes(int(room.left_bytes)), room.source),
    ]  # fmt: skip
    if (resident_kb := view.host_number("Rss")) is not None:
        facts.append(fact("memory of the process", format_bytes(int(resident_kb * 1024)),
                          f"/proc/{view.pid}/smaps_rollup"))  # fmt: skip
    if (written := view.number("rdb_changes_since_last_save")) is not None:
        source = "INFO persistence: rdb_changes_since_last_save"
        facts.append(fact("changes since the last save", format_count(written), source))
    change = "more memory, or a lower maxmemory; save in quiet hours or on a replica"
    return Said(
        evidence=tuple(facts), setting="maxmemory", risk=True, confidence=0.8,
        fixes=(words("redis-room-for-saves", change, "fewer keys fit, or more is lost after a crash"),),
    )  # fmt: skip


CHILDREN: tuple[Rule, ...] = (rewrite_loop, oom_risk)
