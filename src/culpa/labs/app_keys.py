"""A service that asks Redis for an answer that takes work for all there is, in Python or in Node.js.

The twin, on the same data, asks for the part that it needs: by an index, by bounds, by one step of a scan.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from culpa.labs import loopdev, ports, redis_server, source, stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.redis_commands import FILL_HASH, FILL_LIST, FILL_SET, name
from culpa.labs.site import Site, opened

SLOW_COMMAND = "app.redis.slow-command"
OF_THE_SERVER = ("redis.command.slow", "redis.bigkey.read", "cpu.busy")
"""What the same time is called from the server's side, and the reading of a large answer."""
FILL_SORTED = "for i = 1, ARGV[1] do redis.call('ZADD', KEYS[1], i, 'member:' .. i) end"
FILL_KEYS = "for i = 1, ARGV[1] do redis.call('SET', KEYS[1] .. ':' .. i, i) end"
FEW = 50
"""What a request needs."""
REQUESTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stock:
    """How the data is made (script, key, how much of it: EVAL), and the two ways to ask for it."""

    fills: tuple[tuple[str, str, int], ...]
    whole: tuple[str, ...]
    part: tuple[str, ...]


def _keys(key: str, count: int) -> _Stock:
    """A few keys among many, found by their pattern; against the index of those few."""
    index = f"{key}-index"
    return _Stock(
        fills=((FILL_KEYS, f"{key}-other", 5 * count), (FILL_KEYS, key, FEW), (FILL_SET, index, FEW)),
        whole=("KEYS", f"{key}:*"),
        part=("SMEMBERS", index),
    )


def _set(key: str, count: int) -> _Stock:
    return _Stock(fills=((FILL_SET, key, count),), whole=("SMEMBERS", key), part=("SRANDMEMBER", key, str(FEW)))


def _hash(key: str, count: int) -> _Stock:
    fields = tuple(f"field:{number}" for number in range(1, FEW))
    return _Stock(fills=((FILL_HASH, key, count),), whole=("HGETALL", key), part=("HMGET", key, *fields))


def _list(key: str, count: int) -> _Stock:
    return _Stock(
        fills=((FILL_LIST, key, count),), whole=("LRANGE", key, "0", "-1"), part=("LRANGE", key, "0", str(FEW))
    )


def _sorted(key: str, count: int) -> _Stock:
    return _Stock(
        fills=((FILL_SORTED, key, count),), whole=("ZRANGE", key, "0", "-1"), part=("ZRANGE", key, "0", str(FEW))
    )


def _sorting(key: str, count: int) -> _Stock:
    """The first few of a list that is sorted for each request; against a set that is kept sorted."""
    return _Stock(
        fills=((FILL_LIST, key, count), (FILL_SORTED, f"{key}-sorted", count)),
        whole=("SORT", key, "ALPHA", "LIMIT", "0", str(FEW)),
        part=("ZRANGE", f"{key}-sorted", "0", str(FEW)),
    )


STOCKS: tuple[Callable[[str, int], _Stock], ...] = (_keys, _set, _hash, _list, _sorted, _sorting)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A service on its server, and what was drawn."""

    stand: stand.Stand
    server: redis_server.RedisServer
    stock: _Stock
    node: bool
    drawn: dict[str, int]


def play(conditions: Conditions) -> Played:
    """All there is, for each request; then the part that is needed."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        before = case.stand.seconds("whole", requests=REQUESTS)
        judged = case.stand.judge("whole", show=True)
        measured = Measured(before=before, after_fix=case.stand.seconds("part", requests=REQUESTS))
        stage = case.stand.stage("as found", "whole", _truth(case), judged, measured)
        return Played(stages=(stage,), disk=case.stand.disk.kind, drawn=case.drawn)


def play_healthy(conditions: Conditions) -> Played:
    """The part that is needed, of the same data."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        return case.stand.sound("part")


def _raised(here: Site, conditions: Conditions) -> _Case:
    chance = conditions.parameters.chance("app-keys")
    kind, count, key = chance.randrange(len(STOCKS)), chance.randrange(150_000, 250_000), name(chance)
    node = chance.random() < 1 / 2 and loopdev.tool("node") is not None
    stock, drawn = STOCKS[kind](key, count), {"kind": kind, "count": count, "node": int(node)}
    server = redis_server.start(here, here.directory, appendonly="no")
    for script, of, many in stock.fills:
        server.client.eval(script, 1, of, str(many))
    case = _service(here, conditions, server, stock, node=node)
    conditions.progress(f"{' '.join(stock.whole)} and {' '.join(stock.part[:2])}, of {count}, {drawn}")
    return _Case(stand=case, server=server, stock=stock, node=node, drawn=drawn)


def _service(
    here: Site, conditions: Conditions, server: redis_server.RedisServer, stock: _Stock, *, node: bool
) -> stand.Stand:
    disk = stand.disk(here, conditions, slow=False)
    words = (json.dumps(stock.whole), json.dumps(stock.part))
    if not node:
        return stand.raised(here, conditions, app="stock", on=disk, arguments=(str(server.port), *words))
    file, port = stand.copied(here, "stock.js", "stock.js"), ports.free_port()
    argv = [loopdev.tool("node") or "node", str(file), str(port), str(server.port), *words]
    return stand.served(here, conditions, argv, file=file, port=port, on=disk)


def _truth(case: _Case) -> Truth:
    """Of Node.js no line is demanded: nobody stands in one while the answer is awaited."""
    told = TruthOn(cause=SLOW_COMMAND, command=case.stock.whole[0])
    lines = () if case.node else (
        source.call_lines(case.stand.app_file, function="whole", method="execute_command").named_in(SLOW_COMMAND),
    )  # fmt: skip
    return Truth(
        causes=(SLOW_COMMAND,),
        may=OF_THE_SERVER,
        who=(stand.who(SLOW_COMMAND, case.stand.app.pid),),
        on=(told, *lines),
        path=(TruthStep(kind="peer", pid=case.server.pid), TruthStep(kind="running", pid=case.server.pid)),
        fix="ask /part",
    )


APP_KEYS = Lab(
    name="app-keys",
    family="applications",
    needs=("trace", "redis-server"),
    fires=(SLOW_COMMAND,),
    silent=("app.redis.round-trips", "app.redis.write-in-read-path", "app.loop.blocked", "net.remote-slow"),
    play=play,
)
APP_KEYS_HEALTHY = APP_KEYS.healthy(
    silent=(SLOW_COMMAND, "app.redis.round-trips", "redis.command.slow", "redis.bigkey.read"), play=play_healthy
)
