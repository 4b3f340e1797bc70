"""Commands that keep a Redis server from its other clients; in each twin the same is asked for in small steps."""

from __future__ import annotations

import random

from culpa.labs import redis_server
from culpa.labs.ports import LOOPBACK
from culpa.labs.redis_checkup import Case, Drawn, Load, Scene, labs

FILL_SET = "for i = 1, ARGV[1] do redis.call('SADD', KEYS[1], 'member:' .. i) end"
FILL_HASH = "for i = 1, ARGV[1] do redis.call('HSET', KEYS[1], 'field:' .. i, i) end"
FILL_LIST = "for i = 1, ARGV[1] do redis.call('RPUSH', KEYS[1], 'element:' .. i) end"
COUNT_UP = "local sum = 0; for i = 1, tonumber(ARGV[1]) do sum = sum + i end; return sum"
AT_ONCE = 500
"""All that a round of `apps/redis_load.py` has (`BATCH`)."""
SMALL = 100
"""Elements of a key that nobody notices."""
SELDOM_S = 4.0
"""How long the lab's clock looks where the command comes about once a second: one alone in that time would be too few
questions that are answered late for `redis_checkup.LATE` to show it."""
OUTSIDE_COMMANDS = ("redis.expire.burst", "redis.evict.storm", "redis.fork.slow", "redis.stall.unattributed")
"""What holds up a server without any command."""
COMMANDS = (
    "redis.command.slow", "redis.bigkey.read", "redis.bigkey.delete", "redis.flush.sync", "redis.script.long",
    "redis.cluster.migrate",
)  # fmt: skip


def others(*causes: str) -> tuple[str, ...]:
    """What must not be taken for these causes."""
    return tuple(cause for cause in (*COMMANDS, *OUTSIDE_COMMANDS) if cause not in causes)


def name(chance: random.Random) -> str:
    """A name that says nothing."""
    return "".join(chance.choices("bcdfghklmnprstvw", k=5))


def _every(chance: random.Random) -> int:
    return chance.randrange(250, 400)


def _keys(_: Scene, chance: random.Random) -> Drawn:
    """KEYS over many keys, against SCAN."""
    keys, prefix = chance.randrange(500_000, 800_000), name(chance)
    pattern, every_ms = f"{name(chance)}:*", _every(chance)
    return Drawn(
        fill=(("DEBUG", "POPULATE", str(keys), prefix),),
        load=Load(every_ms=every_ms, words=("ask", "KEYS", pattern)),
        sound=Load(every_ms=every_ms, words=("scan", "SCAN", "MATCH", pattern, "COUNT", "200")),
        amounts={"keys_there": keys, "every_ms": every_ms},
    )


READS = (
    (FILL_SET, "SMEMBERS", (), 1),
    (FILL_HASH, "HGETALL", (), 1),
    (FILL_LIST, "LRANGE", ("0", "-1"), 4),
)
"""How a key is filled and read as a whole, and how many times as many elements it takes to be as slow."""


def _read(_: Scene, chance: random.Random) -> Drawn:
    """All of a large set, hash or list, against a small one."""
    kind, key, every_ms = chance.randrange(len(READS)), name(chance), _every(chance)
    script, verb, rest, times = READS[kind]
    elements = chance.randrange(150_000, 250_000) * times
    return Drawn(
        fill=(("EVAL", script, "1", key, str(elements)), ("EVAL", script, "1", f"{key}:small", str(SMALL))),
        load=Load(every_ms=every_ms, words=("ask", verb, key, *rest)),
        sound=Load(every_ms=every_ms, words=("ask", verb, f"{key}:small", *rest)),
        amounts={"kind": kind, "elements": elements, "every_ms": every_ms},
    )


def _delete(_: Scene, chance: random.Random) -> Drawn:
    """A set built in small steps and deleted as a whole: DEL of a large one, which holds up even who builds it, against
    UNLINK of a small one. Freeing much in the background is not harmless: meanwhile the main thread waits for the
    allocator's lock.
    """
    elements, key, every_ms = chance.randrange(140_000, 180_000), name(chance), chance.randrange(500, 700)
    few = chance.randrange(4_000, 8_000)
    return Drawn(
        load=Load(every_ms=every_ms, words=("rebuild", "DEL", key, str(elements))),
        sound=Load(every_ms=every_ms, words=("rebuild", "UNLINK", key, str(few))),
        amounts={"elements": elements, "few_elements": few, "every_ms": every_ms},
    )


def _flush(_: Scene, chance: random.Random) -> Drawn:
    """A cache that is emptied and filled again: FLUSHALL of all there is, against FLUSHALL ASYNC of a little, as with
    UNLINK.
    """
    keys, prefix, every_ms = chance.randrange(120_000, 160_000), name(chance), chance.randrange(500, 700)
    few = chance.randrange(4_000, 8_000)
    return Drawn(
        load=Load(every_ms=every_ms, words=("fill", prefix, str(keys), "20", "FLUSHALL")),
        sound=Load(every_ms=every_ms, words=("fill", prefix, str(few), "20", "FLUSHALL", "ASYNC")),
        amounts={"keys_there": keys, "few_keys_there": few, "every_ms": every_ms},
    )


def _script(_: Scene, chance: random.Random) -> Drawn:
    """A script with a long loop, against the same one with a short loop."""
    loops, every_ms = chance.randrange(6_000_000, 12_000_000), _every(chance)
    return Drawn(
        load=Load(every_ms=every_ms, words=("ask", "EVAL", COUNT_UP, "0", str(loops))),
        sound=Load(every_ms=every_ms, words=("ask", "EVAL", COUNT_UP, "0", "1000")),
        amounts={"loops": loops, "every_ms": every_ms},
    )


def _migrate(scene: Scene, chance: random.Random) -> Drawn:
    """A large key moved to another server, against a small one."""
    data = scene.site.directory / "other"
    data.mkdir()
    port = str(redis_server.start(scene.site, data).port)
    elements, key, every_ms = chance.randrange(80_000, 120_000), name(chance), chance.randrange(500, 700)

    def move(what: str) -> Load:
        words = ("ask", "MIGRATE", LOOPBACK, port, what, "0", "5000", "COPY", "REPLACE")
        return Load(every_ms=every_ms, words=words)

    return Drawn(
        fill=(("EVAL", FILL_SET, "1", key, str(elements)), ("EVAL", FILL_SET, "1", f"{key}:small", str(SMALL))),
        load=move(key),
        sound=move(f"{key}:small"),
        amounts={"elements": elements, "every_ms": every_ms},
    )


def _batch(_: Scene, chance: random.Random) -> Drawn:
    """Hundreds of commands that are short each, in one pipeline or transaction, against a few at a time."""
    kind, key, every_ms = chance.choice(("pipeline", "transaction")), name(chance), _every(chance)
    kilobytes, few = chance.randrange(250, 450), chance.randrange(5, 15)
    words = ("BITCOUNT", key)
    return Drawn(
        fill=(("SETRANGE", key, str(kilobytes * 1024 - 1), "x"),),
        load=Load(every_ms=every_ms, words=(kind, str(AT_ONCE), *words)),
        sound=Load(every_ms=every_ms, words=(kind, str(few), *words)),
        amounts={"transaction": int(kind == "transaction"), "kilobytes": kilobytes, "few": few, "every_ms": every_ms},
    )


CASES = (
    Case(
        name="redis-keys",
        cause="redis.command.slow",
        draw=_keys,
        command="KEYS",
        seed="001",
        fix="SCAN",
        silent=(*others("redis.command.slow"), "redis.cpu.starved"),
    ),
    Case(
        name="redis-bigkey-read",
        cause="redis.bigkey.read",
        draw=_read,
        seed="001",
        fix="smaller keys",
        may=("redis.command.slow",),
        silent=others("redis.bigkey.read", "redis.command.slow"),
    ),
    Case(
        name="redis-bigkey-delete",
        cause="redis.bigkey.delete",
        draw=_delete,
        command="DEL",
        seed="001",
        measured_s=SELDOM_S,
        fix="UNLINK, of smaller keys",
        silent=others("redis.bigkey.delete"),
    ),
    Case(
        name="redis-flush",
        cause="redis.flush.sync",
        draw=_flush,
        command="FLUSHALL",
        seed="001",
        measured_s=SELDOM_S,
        fix="FLUSHALL ASYNC, of fewer keys",
        silent=others("redis.flush.sync"),
    ),
    Case(
        name="redis-script",
        cause="redis.script.long",
        draw=_script,
        command="EVAL",
        fix="a shorter script",
        silent=others("redis.script.long"),
    ),
    Case(
        name="redis-migrate",
        cause="redis.cluster.migrate",
        draw=_migrate,
        command="MIGRATE",
        seed="001",
        fix="split the key",
        silent=others("redis.cluster.migrate"),
    ),
    Case(
        name="redis-batch",
        cause="redis.cycle.batch",
        draw=_batch,
        fix="fewer commands at once",
        needs=("redis-server", "trace"),
        silent=others(),
    ),
)
REDIS_COMMANDS = tuple(lab for case in CASES for lab in labs(case))
