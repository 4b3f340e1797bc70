"""What is asked of a Redis too much at once: replies of megabytes, and one key that most of the work is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from culpa.diagnose.finding import Unseen
from culpa.diagnose.redisserved import Served, own_sockets
from culpa.diagnose.redisview import RedisView
from culpa.diagnose.rule import Rule
from culpa.diagnose.rules.redis_said import Said, fact, state, words
from culpa.diagnose.verdict import Evidence
from culpa.units import NS_PER_SECOND, format_bytes, format_count, format_share

LARGE_BYTES = 1 << 20
"""What a Valkey records as a large reply by default (commandlog-reply-larger-than, since 8.1)."""
WHOLE = frozenset({"GET", "HGETALL", "HVALS", "HKEYS", "SMEMBERS"})
"""Reads whose reply is all of the key."""
ENDLESS = frozenset(
    {
        "MONITOR", "PING", "PSUBSCRIBE", "PSYNC", "PUNSUBSCRIBE", "QUIT", "REPLCONF", "RESET", "SSUBSCRIBE",
        "SUBSCRIBE", "SUNSUBSCRIBE", "SYNC", "UNSUBSCRIBE",
    }
)  # fmt: skip
"""Asked on connections on which the server sends what nobody asks for."""
SEVERAL = 1.5
"""Commands for each message: less is the difference between two windows that are not quite the same."""
NAMED = 3
BUSY = 0.5
"""Of the main thread's time: in a server that rests for longer than that no key is too hot."""
HOT = 0.5
"""Of what the main thread did: a key with more takes longer than all others together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """Large replies to one kind of request: how many, the largest, and where that was read."""

    name: str
    count: int
    largest_bytes: int
    source: str


@state(
    "redis.reply.large",
    "Redis sends replies of a megabyte and more",
    "the main thread copies each of them, and writes it to the socket in pieces, while others wait; the network and "
    "the client need their time as well",
)
def reply_large(view: RedisView) -> Said | None:
    """Single replies of a megabyte or more: seen on its sockets, where these are traced; else in the log that a Valkey
    has of them; else by what the slow log and the keys, or the mean of all replies, say.
    """
    found = sorted(large_replies(view), key=lambda one: (-one.largest_bytes, one.name))
    if not found:
        return _by_mean(view)
    limit = format_bytes(LARGE_BYTES)
    evidence = [
        fact(f"{one.name}: large replies, {_times(one.count)}, the largest", format_bytes(one.largest_bytes),
             one.source, limit=limit)
        for one in found[:NAMED]
    ]  # fmt: skip
    evidence += _output(view)
    return Said(evidence=tuple(evidence), command=found[0].name, fixes=(_SMALLER,))


def large_replies(view: RedisView) -> list[Large]:
    """The best that is known of single large replies; empty where there is none."""
    served = served_here(view)
    if served is not None and not served.written_elsewhere:
        return _on_sockets(view, served)
    if view.number("new", LOG) is not None:
        return _recorded(view)
    return _whole_keys(view)


LOG = "COMMANDLOG GET large-reply"


def served_here(view: RedisView) -> Served | None:
    """What its main thread did message by message; None where that was not seen."""
    served = view.picture.served.get(view.pid) if view.pid is not None else None
    return None if served is None or served.elsewhere else served


def asked_by_others(view: RedisView, served: Served) -> pl.DataFrame:
    """The requests that culpa did not send."""
    own = own_sockets(view.picture.capture, served.requests["ino"].unique().to_list())
    return served.requests.filter(~pl.col("ino").is_in(list(own))).with_columns(
        pl.col("verb", "pattern").cast(pl.String)
    )


def _on_sockets(view: RedisView, served: Served) -> list[Large]:
    """A message of several commands has several replies, and is left out.

    Only its first bytes are seen. So where the server counted more commands of a verb than messages began with it, each
    is taken to have had so many more replies.
    """
    requests = asked_by_others(view, served).filter(~pl.col("verb").is_in(list(ENDLESS)))
    messages = dict(requests.group_by("verb").len().drop_nulls().iter_rows())
    rows = requests.filter(~pl.col("several") & (pl.col("reply_bytes") >= LARGE_BYTES)).drop_nulls("verb")
    kinds = rows.group_by("verb", "pattern").agg(pl.col("reply_bytes"))
    found = []
    for verb, pattern, sizes in kinds.iter_rows():
        each = _commands_each(view, verb, messages[verb])
        large = [int(size / each) for size in sizes if size >= each * LARGE_BYTES]
        if large:
            found.append(
                Large(name=_name(verb, pattern), count=len(large), largest_bytes=max(large), source="messages")
            )
    return found


def _commands_each(view: RedisView, verb: str, messages: int) -> float:
    """How many commands a message of that verb held in the mean; the server is asked a little before and after."""
    window = view.picture.capture.manifest.window
    part = (window.end_ns - window.start_ns) / NS_PER_SECOND / max(1e-9, view.counted_seconds)
    each = view.grown(f"cmdstat_{verb.lower()}", "calls") * min(1.0, part) / messages
    return each if each >= SEVERAL else 1.0


def _recorded(view: RedisView) -> list[Large]:
    sizes: dict[str, list[int]] = {}
    for entry in view.numbered(LOG).values():
        if (size := entry.get("bytes", "")).isdecimal() and int(size) >= LARGE_BYTES:
            sizes.setdefault(_name(entry.get("verb", ""), entry.get("pattern")), []).append(int(size))
    return [Large(name=name, count=len(all), largest_bytes=max(all), source=LOG) for name, all in sizes.items()]


def _whole_keys(view: RedisView) -> list[Large]:
    """Reads of whole keys that the slow log has, of keys that are so large."""
    sizes: dict[str, list[int]] = {}
    for hold in view.logged:
        if hold.verb in WHOLE and (hold.bytes or 0) >= LARGE_BYTES:
            sizes.setdefault(_name(hold.verb, hold.pattern), []).append(hold.bytes or 0)
    return [
        Large(name=name, count=len(all), largest_bytes=max(all), source="SLOWLOG GET, MEMORY USAGE")
        for name, all in sizes.items()
    ]


def _by_mean(view: RedisView) -> Said | None:
    """Where replies were not seen one by one: if even their mean is large."""
    mean = mean_reply(view)
    if mean is None or mean < LARGE_BYTES or served_here(view) is not None:
        return None
    if any(view.number(field) for field in ("pubsub_channels", "pubsub_patterns", "connected_slaves")):
        raise Unseen("what it sends is not all replies: it has subscribers or replicas")
    evidence = fact("mean of all replies in the window", format_bytes(int(mean)), MEAN, limit=format_bytes(LARGE_BYTES))
    return Said(evidence=(evidence, *_output(view)), fixes=(_SMALLER,), confidence=0.7)


MEAN = "INFO stats: total_net_output_bytes / total_commands_processed"


def mean_reply(view: RedisView) -> float | None:
    """Bytes sent for each command of the window, culpa's own questions included; None where that is not counted."""
    sent, done = view.delta("total_net_output_bytes"), view.delta("total_commands_processed")
    return sent / done if sent is not None and done else None


def _output(view: RedisView) -> Iterator[Evidence]:
    sent = view.delta("total_net_output_bytes")
    if sent is not None and view.seconds > 0:
        rate = format_bytes(int(sent / view.seconds))
        yield fact("sent a second", rate, "INFO stats: total_net_output_bytes")


@state(
    "redis.hotkey",
    "Most of this Redis' work is about one key",
    "one key lies on one server and is served by one thread: another shard takes nothing of it",
)
def hot_key(view: RedisView) -> Said | None:
    """The main thread is busy for half of the time or more, and most of that with requests for one and the same key.
    It needs tracing. Of a key with a part that varies (`user:*`) only the pattern is kept: then it says that it cannot
    tell.
    """
    busy = main_thread_share(view)
    if busy is None or busy < BUSY:
        return None
    served = served_here(view)
    if served is None:
        raise Unseen("which keys are asked for is seen on its sockets only, with tracing")
    requests = asked_by_others(view, served)
    total = int(requests["held_ns"].sum())
    alone = requests.filter(~pl.col("several")).drop_nulls("pattern")
    spent = alone.group_by("pattern").agg(pl.len(), pl.col("held_ns").sum()).sort("held_ns", "pattern", descending=True)
    if not total or spent.is_empty() or spent["held_ns"][0] < HOT * total:
        return None
    pattern, count, held_ns = spent.row(0)
    if "*" in pattern:
        raise Unseen(f"most of its work is about {pattern}: which of these keys is not kept")
    verbs = alone.filter(pl.col("pattern") == pattern).group_by("verb").agg(pl.col("held_ns").sum())
    verb = verbs.sort("held_ns", "verb", descending=True)["verb"][0]
    return Said(
        evidence=(
            fact(f"of the main thread's work, for the key {pattern}", format_share(held_ns / total), "messages",
                 limit=format_share(HOT)),
            fact(f"requests for it, most of their time {verb}", count, "messages"),
            fact("they held the main thread for", round(held_ns / NS_PER_SECOND, 6), "messages", unit="s"),
            fact("main thread's CPU", format_share(min(1.0, busy)), USED, limit=format_share(BUSY)),
        ),
        command=_name(verb, pattern), fixes=(_APART,),
    )  # fmt: skip


USED = "INFO cpu: used_cpu_*"


def main_thread_share(view: RedisView) -> float | None:
    """How busy its main thread was (before 6.2 only that of the process is told); None where that is not known."""
    used = [view.delta(f"used_cpu_{mode}_main_thread") for mode in ("user", "sys")]
    if None in used:
        used = [view.delta(f"used_cpu_{mode}") for mode in ("user", "sys")]
    known = [part for part in used if part is not None]
    return sum(known) / view.seconds if len(known) == 2 and view.seconds > 0 else None


def _name(verb: str, pattern: str | None) -> str:
    return " ".join(part for part in (verb, pattern) if part)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{format_count(count)} times"


_SMALLER = words(
    "redis-smaller-replies",
    "ask for less at once (HSCAN and its kin, LRANGE and GETRANGE with bounds, fewer fields), split or compress values",
    "work",
)
_APART = words(
    "redis-hotkey-apart",
    "keep its value in the client for a moment (client-side caching), read it from replicas, or split it into several",
    "readers may see a value that is a moment old",
)

REPLY_STATES: tuple[Rule, ...] = (reply_large, hot_key)
