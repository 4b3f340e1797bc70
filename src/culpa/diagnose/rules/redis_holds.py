"""Commands that keep Redis' one thread from everybody else: what they are, and what makes each of them long."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.redisholds import FORKING, Hold
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.rules.redis_fixes import set_config
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import format_bytes, format_count

WHOLE_READS = frozenset(
    {
        "HGETALL", "HKEYS", "HVALS", "SMEMBERS", "LRANGE", "ZRANGE", "ZREVRANGE", "ZRANGEBYSCORE", "ZREVRANGEBYSCORE",
        "ZRANGEBYLEX", "ZREVRANGEBYLEX", "XRANGE", "XREVRANGE", "GET", "GETRANGE", "MGET", "HMGET", "DUMP",
    }
)  # fmt: skip
"""Reads of (nearly) all of one key: long only where the key is large."""
SCANNED = WHOLE_READS | frozenset(
    {"KEYS", "SORT", "SORT_RO", "SUNION", "SINTER", "SDIFF", "ZUNION", "ZINTER", "ZDIFF", "SINTERCARD", "ZINTERCARD"}
)
"""What can be had in steps, and be put together by the client."""
DELETES = frozenset({"DEL", "GETDEL", "RENAME", "RENAMENX"})
FLUSHES = frozenset({"FLUSHALL", "FLUSHDB"})
SCRIPTS = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"})
MIGRATIONS = frozenset({"MIGRATE", "RESTORE", "RESTORE-ASKING"})
OTHERS_WORK = DELETES | FLUSHES | SCRIPTS | MIGRATIONS
INTERNAL = FORKING | frozenset({"MONITOR", "SUBSCRIBE", "PSUBSCRIBE", "BLPOP", "BRPOP", "WAIT", "EXEC"})
"""Long by design, and nobody waits for them in the main thread; or, of saves, because of the fork; or as long as the
commands of a transaction, which is `redis.cycle.batch`.
"""
LONG_NS = 10_000_000
"""The slow log's own default: a command this long is worth a word even if nobody was seen to wait for it."""
SHARE = 0.05
LARGE_ELEMENTS, LARGE_BYTES = 1000, 100_000
"""From here on a key is large: what the tools for it begin to warn at (RedisInsight, cachecloud)."""
NAMED_VERBS, NAMED_ASKERS = 3, 2
STEPS = frozenset({"SCAN", "HSCAN", "SSCAN", "ZSCAN"})
"""Reads in steps; one is long where its COUNT is large."""


@rule(
    id="redis.command.slow",
    title="Long commands keep Redis' one thread from all other clients",
    needs=(),
    fixes=("redis-scan-instead", "redis-smaller-steps", "redis-bgsave", "redis-no-debug", "redis-less-at-once"),
    fires=(Lab("redis-keys"),),
    silent=(Lab("redis-keys-healthy"), Lab("redis-starved"), Lab("redis-fork"), Lab("redis-evict"), Lab("redis-swap")),
)
@each_server
def command_slow(view: RedisView) -> Iterator[Finding]:
    """What it detects: commands whose work grows with the data (KEYS, SORT, SINTER, reads of whole collections) run
    for milliseconds in the main thread, while other clients wait.

    Why it slows you: Redis works on one command at a time; whoever asks meanwhile waits for it to end.

    How sure: where the host is traced, the time is what the main thread computed between reading the command and its
    next step, and the waiting of others is measured; else the slow log's entries are held against the stalls of PING.
    What the thread waited for meanwhile (swap, a CPU, a disk) is not the command's own; the slow log times that as
    well, so its entries count for as much as the server's own CPU time allows. Commands that wait by design (SAVE,
    DEBUG SLEEP) count whole. Those that the slow log has not (it is off, or they were below its threshold) are told by
    the server's count of calls and time, where they were long in the mean; that is weaker.

    What to do: SCAN and its kin in small steps, sort and intersect in the client or on a replica, or forbid the command
    to the client that sends it (ACL SETUSER ... -@dangerous); BGSAVE instead of SAVE.
    """
    holds = tuple(hold for hold in view.holds if hold.verb not in OTHERS_WORK | INTERNAL)
    yield from _finding(view, holds, fixes=_instead(holds), keys=False)


@rule(
    id="redis.bigkey.read",
    title="A large key is read as a whole",
    needs=(),
    fixes=("redis-split-key",),
    fires=(Lab("redis-bigkey-read"),),
    silent=(Lab("redis-bigkey-read-healthy"),),
)
@each_server
def bigkey_read(view: RedisView) -> Iterator[Finding]:
    """What it detects: HGETALL, SMEMBERS, LRANGE and the like on a key of thousands of elements, or GET of a very large
    string, take milliseconds of the main thread each.

    Why it slows you: the command is long because the key is large, and the reply has to be copied as well; everybody
    else waits.

    How sure: as with slow commands; and the key itself was measured (elements, MEMORY USAGE).

    What to do: read it in steps (HSCAN, SSCAN, LRANGE with bounds), or split the key.
    """
    holds = tuple(hold for hold in view.holds if hold.verb in WHOLE_READS and _is_large(hold))
    yield from _finding(view, holds, fixes=(_SPLIT,), keys=True)


@rule(
    id="redis.bigkey.delete",
    title="Freeing a large key happens in Redis' main thread",
    needs=(),
    fixes=("redis-lazyfree-user-del", "redis-unlink"),
    fires=(Lab("redis-bigkey-delete"),),
    silent=(Lab("redis-bigkey-delete-healthy"), Lab("redis-expire"), Lab("redis-evict")),
)
@each_server
def bigkey_delete(view: RedisView) -> Iterator[Finding]:
    """What it detects: DEL, or RENAME over an existing key, takes milliseconds because a collection of many elements is
    freed element by element in the main thread.

    Why it slows you: everybody waits until the last element is freed.

    How sure: the command is seen to run so long, or stands in the slow log; the number of lazily freed objects does not
    grow meanwhile.

    What to do: UNLINK (since 4.0), or let DEL behave like it (lazyfree-lazy-user-del, since 6.0); before 4.0 delete in
    steps with HSCAN, SSCAN, LTRIM.
    """
    holds = tuple(hold for hold in view.holds if hold.verb in DELETES)
    yield from _finding(view, holds, fixes=_delete_fixes(view), keys=False, more=_lazily_freed(view))


@rule(
    id="redis.flush.sync",
    title="The whole database is freed in Redis' main thread",
    needs=(),
    fixes=("redis-lazyfree-user-flush", "redis-flush-async"),
    fires=(Lab("redis-flush"),),
    silent=(Lab("redis-flush-healthy"),),
)
@each_server
def flush_sync(view: RedisView) -> Iterator[Finding]:
    """What it detects: FLUSHALL or FLUSHDB without ASYNC runs for milliseconds.

    Why it slows you: every key is freed in the main thread before the next command is looked at.

    How sure: the command is seen to run so long, or stands in the slow log with its argument.

    What to do: FLUSHALL ASYNC (since 4.0), or lazyfree-lazy-user-flush yes (since 6.2).
    """
    holds = tuple(hold for hold in view.holds if hold.verb in FLUSHES and hold.option != "ASYNC")
    yield from _finding(view, holds, fixes=_flush_fixes(view), keys=False, more=_lazily_freed(view))


@rule(
    id="redis.script.long",
    title="A script keeps Redis' one thread from all other clients",
    needs=(),
    fixes=("redis-shorter-script",),
    fires=(Lab("redis-script"),),
    silent=(Lab("redis-script-healthy"),),
)
@each_server
def script_long(view: RedisView) -> Iterator[Finding]:
    """What it detects: EVAL, EVALSHA or FCALL runs for milliseconds.

    Why it slows you: a script is atomic: nothing else is served until it ends.

    How sure: the command is seen to run so long, or stands in the slow log.

    What to do: shorter scripts, loops in the client; SCRIPT KILL or FUNCTION KILL ends one that has not written yet.
    """
    holds = tuple(hold for hold in view.holds if hold.verb in SCRIPTS)
    yield from _finding(view, holds, fixes=(_SCRIPT,), keys=False)


@rule(
    id="redis.cluster.migrate",
    title="Moving a large key to another node keeps Redis' one thread from all other clients",
    needs=(),
    fixes=("redis-split-key",),
    fires=(Lab("redis-migrate"),),
    silent=(Lab("redis-migrate-healthy"),),
)
@each_server
def migrate(view: RedisView) -> Iterator[Finding]:
    """What it detects: MIGRATE on the node that gives, or RESTORE on the one that takes, runs for milliseconds.

    Why it slows you: MIGRATE is synchronous: it serialises the key, sends it and waits for the other node, all in the
    main thread; the other node builds it in its own.

    How sure: the command is seen to run so long, or stands in the slow log.

    What to do: split the large key before moving it; atomic slot migration of newer versions (Valkey 9.0, Redis 8.4).
    """
    holds = tuple(hold for hold in view.holds if hold.verb in MIGRATIONS)
    yield from _finding(view, holds, fixes=(_SPLIT,), keys=True)


def _finding(
    view: RedisView,
    holds: tuple[Hold, ...],
    *,
    fixes: tuple[Fix, ...],
    keys: bool,
    more: tuple[Evidence, ...] = (),
) -> Iterator[Finding]:
    if not holds:
        return
    moments = view.stalled_by(holds)
    long = max(hold.length_ns for hold in holds) >= LONG_NS
    if not long and view.picture.share(moments.ns) < SHARE:
        return
    exact = holds[0].exact
    yield Finding(
        moments=moments,
        nearness=Nearness.NEIGHBOUR if view.is_bystander else Nearness.CODE,
        pid=view.pid,
        tid=view.pid,
        on=On(peer=view.server, command=_said(holds)),
        evidence=(
            *_commands(view, holds),
            *_askers(view, holds),
            *view.stall_facts(moments),
            *(_keys(holds) if keys or _known(holds) else ()),
            *more,
            *view.monitored("command", "fast-command"),
        ),
        confidence=0.95 if exact else 0.7 if any(hold.counted for hold in holds) else 0.85,
        fixes=fixes,
    )


def _said(holds: tuple[Hold, ...]) -> str:
    """The command that took most, with the pattern of its key."""
    return _by_verb(holds)[0][0]


def _by_verb(holds: tuple[Hold, ...]) -> list[tuple[str, list[Hold]]]:
    """`VERB pattern` and its executions, the one that took longest in all first."""
    found: dict[str, list[Hold]] = defaultdict(list)
    for hold in holds:
        found[" ".join(part for part in (hold.verb, hold.pattern) if part)].append(hold)
    return sorted(found.items(), key=lambda entry: (-sum(hold.length_ns for hold in entry[1]), entry[0]))


def _commands(view: RedisView, holds: tuple[Hold, ...]) -> Iterator[Evidence]:
    for name, group in _by_verb(holds)[:NAMED_VERBS]:
        for part in ([hold for hold in group if not hold.counted], [hold for hold in group if hold.counted]):
            if part:
                yield _ran(name, part)
    logged = [hold for hold in view.logged if hold.verb in {hold.verb for hold in holds}]
    if holds[0].exact and logged:
        yield Evidence(
            fact="the slow log has them as well: entries of the window", value=len(logged), unit="", threshold=None,
            source="SLOWLOG GET",
        )  # fmt: skip


def _ran(name: str, holds: list[Hold]) -> Evidence:
    lengths, counted = [hold.length_ns for hold in holds], holds[0].counted
    times = "once" if len(holds) == 1 else f"{format_count(len(holds))} times"
    told = "which its slow log has not, in the mean" if counted else "the longest"
    source = "INFO commandstats" if counted else "SLOWLOG GET"
    return Evidence(
        fact=f"{name} ran {times}, {told} for {max(lengths) / 1e6:.3g} ms", value=seconds(sum(lengths)), unit="s",
        threshold=None, source="messages, offcpu: main thread" if holds[0].exact else source,
    )  # fmt: skip


def _askers(view: RedisView, holds: tuple[Hold, ...]) -> Iterator[Evidence]:
    """Who asked for the one that took most: by the sockets it came over, or by the slow log."""
    name, group = _by_verb(holds)[0]
    if not holds[0].exact:
        counted = Counter(hold.client for hold in group if hold.client is not None)
        asked, source = counted.most_common(NAMED_ASKERS), "SLOWLOG GET"
    elif (told := view.commands) is not None and told.basis == "sockets":
        rows = [row for row in told.rows if (row.verb, row.pattern) == (group[0].verb, group[0].pattern)]
        asked = [(one.name, one.requests) for row in rows for one in row.askers][:NAMED_ASKERS]
        source = "messages, sockets"
    else:
        return
    for client, times in asked:
        yield Evidence(fact=f"{name} came from {client}, times", value=times, unit="", threshold=None, source=source)


def _known(holds: tuple[Hold, ...]) -> bool:
    return any(hold.elements is not None or hold.bytes is not None for hold in holds)


def _is_large(hold: Hold) -> bool:
    return (hold.elements or 0) >= LARGE_ELEMENTS or (hold.bytes or 0) >= LARGE_BYTES


def _keys(holds: tuple[Hold, ...]) -> Iterator[Evidence]:
    """The largest key that was asked for."""
    largest = max(holds, key=lambda hold: (hold.bytes or 0, hold.elements or 0))
    if largest.elements is not None:
        of = "bytes" if largest.type == "string" else "elements"
        yield Evidence(
            fact=f"the {largest.type} {largest.pattern or ''} has {of}".replace("  ", " "), value=largest.elements,
            unit="", threshold=LARGE_BYTES if largest.type == "string" else LARGE_ELEMENTS, source="TYPE and length",
        )  # fmt: skip
    if largest.bytes is not None:
        yield Evidence(
            fact="memory of that key", value=format_bytes(largest.bytes), unit="", threshold=None, source="MEMORY USAGE"
        )


def _lazily_freed(view: RedisView) -> tuple[Evidence, ...]:
    freed = view.delta("lazyfreed_objects")
    if freed is None:
        return ()
    return (
        Evidence(
            fact="objects freed in the background meanwhile", value=int(freed), unit="", threshold=None,
            source="INFO memory: lazyfreed_objects",
        ),
    )  # fmt: skip


_SCAN = Fix(
    id="redis-scan-instead",
    change="ask in steps (SCAN, SSCAN, HSCAN, ZSCAN), sort and intersect in the client, or on a replica",
    reversible=True,
    risk="none for the data; a scan sees changes while it runs",
)
_STEPS = Fix(
    id="redis-smaller-steps",
    change="take smaller steps: a COUNT of some hundred",
    reversible=True,
    risk="none; more steps, each of them short",
)
_BGSAVE = Fix(
    id="redis-bgsave",
    change="send BGSAVE instead of SAVE: a child writes the file meanwhile",
    reversible=True,
    risk="memory for what is written meanwhile",
)
_NO_DEBUG = Fix(
    id="redis-no-debug",
    change="leave DEBUG to tests (since 7.0 enable-debug-command no)",
    reversible=True,
    risk="none",
)
_LESS = Fix(
    id="redis-less-at-once",
    change="ask for it less often, of smaller keys, or on a replica; keep its result if it is asked for again",
    reversible=True,
    risk="none for the data; the application changes",
)
_SPLIT = Fix(
    id="redis-split-key",
    change="read the key in steps (HSCAN, SSCAN, ZSCAN, LRANGE with bounds), or split it into smaller keys",
    reversible=True,
    risk="none for the data; the application changes",
)
_SCRIPT = Fix(
    id="redis-shorter-script",
    change="make the script shorter: loops in the client, work in several calls",
    reversible=True,
    risk="what was atomic is so no longer",
)


def _instead(holds: tuple[Hold, ...]) -> tuple[Fix, ...]:
    """What helps against the command that took most."""
    if not holds:
        return ()
    verb = _by_verb(holds)[0][1][0].verb
    if verb in STEPS:
        return (_STEPS,)
    known = {"SAVE": _BGSAVE, "DEBUG": _NO_DEBUG}
    return (known.get(verb, _SCAN if verb in SCANNED else _LESS),)


def _delete_fixes(view: RedisView) -> tuple[Fix, ...]:
    unlink = Fix(
        id="redis-unlink", change="send UNLINK instead of DEL", reversible=True,
        risk="memory comes back a little later",
    )  # fmt: skip
    if view.setting("lazyfree-lazy-user-del") == "no":
        setting = set_config(
            view, "redis-lazyfree-user-del", "lazyfree-lazy-user-del", "yes", risk="memory comes back a little later"
        )
        return (setting, unlink)
    if view.version is not None and not view.at_least(4):
        change = "delete in steps: HSCAN, SSCAN or ZSCAN with HDEL, SREM or ZREM, LTRIM for lists"
        return (Fix(id="redis-unlink", change=change, reversible=True, risk="the key goes bit by bit"),)
    return (unlink,)


def _flush_fixes(view: RedisView) -> tuple[Fix, ...]:
    asynchronous = Fix(
        id="redis-flush-async", change="send FLUSHALL ASYNC or FLUSHDB ASYNC", reversible=True,
        risk="memory comes back a little later",
    )  # fmt: skip
    if view.setting("lazyfree-lazy-user-flush") == "no":
        risk = "memory comes back a little later"
        setting = set_config(view, "redis-lazyfree-user-flush", "lazyfree-lazy-user-flush", "yes", risk=risk)
        return (setting, asynchronous)
    return (asynchronous,)
