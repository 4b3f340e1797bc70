"""How an application uses Redis within one of its own requests."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import polars as pl

from culpa.capture.schema import MESSAGES
from culpa.diagnose import batching, chatter, slowcommands
from culpa.diagnose.code import CodeLine, line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules import redis_commands, redis_holds
from culpa.diagnose.rules.evidence import code_evidence, items_of, of_finished, seconds
from culpa.diagnose.verdict import Evidence, Fix, On, Predicted
from culpa.model.blockingwaits import BLOCKING
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND, format_bytes, format_count

READ_METHODS = ("GET", "HEAD")
"""HTTP methods that are defined as safe (RFC 9110, 9.2.1)."""
MIN_WRITE_SHARE = 0.10
"""The writes' own wait as a share of the request, from which they matter."""
MIN_TRIPS_SHARE = 0.30
"""The waiting in round trips as a share of the request, from which batching pays."""
MIN_SLOW_SHARE = 0.10
"""The wait for long commands as a share of the request, from which it matters; waits for a CPU within it do not count
for that."""


def _resp(picture: Picture) -> pl.DataFrame:
    return picture.own_exchanges.filter(pl.col("protocol") == "resp")


def _moments(rows: pl.DataFrame) -> Moments:
    return Moments.union(rows["item"].to_numpy(), rows["ask_start_ns"].to_numpy(), rows["stop_ns"].to_numpy())


def _shapes(picture: Picture, rows: pl.DataFrame) -> pl.DataFrame:
    """verb, detail, trips, wait_ns, a_request (trips in one request); largest wait first."""
    whole = of_finished(picture, rows)
    counted = whole.group_by("verb", "detail").agg(a_request=pl.len() / items_of(whole))
    grouped = rows.group_by("verb", "detail").agg(pl.len().alias("trips"), pl.col("wait_ns").sum())
    grouped = grouped.join(counted, on=["verb", "detail"], nulls_equal=True)
    return grouped.sort(["wait_ns", "verb", "detail"], descending=[True, False, False], nulls_last=True)


def _spoken(verb: str | None, detail: str | None) -> str:
    return f"{verb or '?'} {detail}" if detail else (verb or "?")


@rule(
    id="app.redis.write-in-read-path",
    title="A read request writes to Redis",
    needs=(MESSAGES,),
    fixes=("app-keep-results-in-memory",),
    fires=(Lab("redis-slow"), Lab("containers")),
    silent=(Lab("redis-slow-healthy"), Lab("containers-healthy"), Lab("cache-aside")),
)
def write_in_read_path(picture: Picture) -> Iterator[Finding]:
    """What it detects: while it answers a GET or HEAD, the application sends commands to Redis that change data.

    Why it slows you: a write costs what the server's persistence costs (with `appendfsync always` a disk flush each),
    is replicated, and cannot be served by a replica; a read request seldom needs it.

    How sure: request and commands are read from the same thread's sockets. It fires only if the writes' own wait is
    at least a tenth of the request. Filling a cache after a look-up of the same keys, and refreshing a lifetime, stay
    silent, and so do commands that wait for what another client brings (BLPOP).

    What to do: gather the results in the program's memory, or write once with one pipelined command.
    """
    safe = picture.root.requests.filter((pl.col("protocol") == "http") & pl.col("verb").is_in(READ_METHODS))["item"]
    rows = _resp(picture).filter(pl.col("item").is_in(safe.implode()))
    # What a blocking command waits for is what another client brings, and no price of writing.
    writes = rows.filter(pl.col("verb").is_in(list(redis_commands.WRITES - BLOCKING)))
    writes = writes.join(_fills(rows), on=["item", "verb", "detail"], how="anti", nulls_equal=True)
    for (pid,), mine in writes.group_by("pid", maintain_order=True):
        moments = _moments(mine)
        if picture.share(moments.ns) < MIN_WRITE_SHARE:
            continue
        shapes = _shapes(picture, mine)
        verbs = [verb for verb in shapes["verb"].to_list() if verb]
        line = line_of(picture, dict.fromkeys(mine["tid"].unique().to_list(), moments), verbs[:1])
        tid = int(mine["tid"].mode().sort()[0])
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=int(str(pid)),
            tid=tid,
            on=On(code=line.place if line else None, peer=_peer(picture, mine)),
            evidence=tuple(_write_evidence(picture, mine, shapes, line)),
            confidence=0.95 if line else 0.85,
            fixes=(
                Fix(
                    id="app-keep-results-in-memory",
                    change=f"do not send {verbs[0] if verbs else 'writes'} while answering a read request: "
                    "keep the intermediate result in memory",
                    reversible=True,
                    risk="a change of the program; another part of it may read what is written",
                ),
            ),
            title=f"A read request writes to Redis ({verbs[0] if verbs else 'write'} within {_method(picture, mine)})",
        )


def _fills(rows: pl.DataFrame) -> pl.DataFrame:
    """item, verb, detail of writes that only fill a cache: at most as many as look-ups of the same keys in that
    request.
    """
    looked = (
        rows.filter(pl.col("verb").is_in(list(redis_commands.LOOKUPS)))
        .group_by("item", "detail")
        .agg(pl.len().alias("looked"))
    )
    filled = (
        rows.filter(pl.col("verb").is_in(list(redis_commands.FILLS)))
        .group_by("item", "verb", "detail")
        .agg(pl.len().alias("filled"))
    )
    both = filled.join(looked, on=["item", "detail"], how="inner")
    return both.filter(pl.col("filled") <= pl.col("looked")).select("item", "verb", "detail")


def _method(picture: Picture, rows: pl.DataFrame) -> str:
    """What most of the requests that the rows belong to asked for: `GET /path`."""
    items = rows["item"].unique().implode()
    asked = picture.root.requests.filter(pl.col("item").is_in(items)).drop_nulls("verb")
    if asked.is_empty():
        return "a read request"
    counted = asked.group_by("verb", "detail").len().sort(["len", "verb", "detail"], descending=[True, False, False])
    return _spoken(*counted.select("verb", "detail").row(0))


def _within(picture: Picture, rows: pl.DataFrame) -> str:
    """` within GET /path`; nothing where the target serves nobody."""
    return "" if picture.root.requests.is_empty() else f" within {_method(picture, rows)}"


def _peer(picture: Picture, rows: pl.DataFrame) -> str | None:
    socket = picture.objects.sockets.get(int(rows["ino"].mode().sort()[0]))
    return socket.peer if socket else None


def _write_evidence(
    picture: Picture, rows: pl.DataFrame, shapes: pl.DataFrame, line: CodeLine | None
) -> Iterator[Evidence]:
    for verb, detail, _, wait_ns, a_request in shapes.head(3).iter_rows():
        yield Evidence(
            fact=f"{_spoken(verb, detail)}: {format_count(a_request)} a request within {_method(picture, rows)}",
            value=seconds(wait_ns), unit="s", threshold=None, source="messages",
        )  # fmt: skip
    share = picture.share(_moments(rows).ns)
    yield Evidence(
        fact="share of the request spent on these writes",
        value=round(share, 4),
        unit="",
        threshold=MIN_WRITE_SHARE,
        source="messages",
    )
    if line is not None:
        yield code_evidence(line)


@rule(
    id="app.redis.round-trips",
    title="One request makes many Redis round trips, one after the other",
    needs=(MESSAGES,),
    fixes=("app-batch-redis-commands",),
    fires=(Lab("redis-slow"),),
    silent=(Lab("redis-slow-healthy"), Lab("cache-aside")),
)
def round_trips(picture: Picture) -> Iterator[Finding]:
    """What it detects: one request sends many Redis commands of one shape, each waiting for the answer to the one
    before.

    Why it slows you: every round trip costs two system calls and two wake-ups on both sides, and on a network its
    delay; the server itself works only a fraction of that time.

    How sure: each trip is measured from the write of the command to the read of its answer, in the thread that serves
    the request. Time in which the server was blocked (a disk, another client), or was at one long command, is not
    counted: that has another cause.

    What to do: one command for many keys (MGET, SADD with many members), a larger COUNT for SCAN; that is what is
    predicted. A pipeline saves the round trips, and not the preparing of each command.
    """
    many = chatter.repeated(picture).filter(pl.col("protocol") == "resp")
    blocked = picture.moments(*picture.nodes(Kind.FSYNC, Kind.IO, Kind.SLEEP, Kind.STOPPED, Kind.LOCK))
    blocked = blocked.plus(slowcommands.spent(picture, picture.slow_commands))
    for (pid,), mine in many.group_by("pid", maintain_order=True):
        trips = chatter.waited(mine)
        moments = chatter.spent(mine).minus(blocked)
        if picture.share(trips.minus(blocked).ns) < MIN_TRIPS_SHARE:
            continue
        shapes = _shapes(picture, mine)
        verbs = [verb for verb in shapes["verb"].to_list() if verb]
        line = line_of(picture, dict.fromkeys(mine["tid"].unique().to_list(), trips), verbs[:1])
        working = _server_running(picture, moments)
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=int(str(pid)),
            tid=int(mine["tid"].mode().sort()[0]),
            on=On(code=line.place if line else None, peer=_peer(picture, mine)),
            evidence=tuple(_trip_evidence(picture, shapes, moments, working, line)),
            confidence=0.9,
            predicted=_batched(picture, mine, moments, blocked, working),
            fixes=(
                Fix(
                    id="app-batch-redis-commands",
                    change=f"send one command for many keys instead of each {verbs[0] if verbs else 'command'}, or at "
                    "least all of them in one pipeline",
                    reversible=True,
                    risk="a change of the program; a long pipeline holds more memory and delays other clients",
                ),
            ),
        )


def _server_running(picture: Picture, moments: Moments) -> int:
    """Time within the trips in which the server itself ran: batching does not remove it."""
    running = [
        n for n in picture.nodes(Kind.RUNNING)
        if picture.objects.pid_of.get(picture.blame.nodes[n].who, 0) in picture.redis_pids
    ]  # fmt: skip
    return moments.common(picture.moments(*running)) if running else 0


def _trip_evidence(
    picture: Picture, shapes: pl.DataFrame, moments: Moments, working: int, line: CodeLine | None
) -> Iterator[Evidence]:
    for verb, detail, trips, wait_ns, a_request in shapes.head(3).iter_rows():
        yield Evidence(
            fact=f"{_spoken(verb, detail)}: {format_count(a_request)} round trips a request, "
            f"one after the other, mean {wait_ns / trips / 1e3:.3g} us",
            value=seconds(wait_ns), unit="s", threshold=None, source="messages",
        )  # fmt: skip
    yield Evidence(
        fact="of these waits, the server itself was running",
        value=seconds(working),
        unit="s",
        threshold=None,
        source="offcpu",
    )
    yield Evidence(
        fact="share of the request spent on these trips",
        value=round(picture.share(moments.ns), 4),
        unit="",
        threshold=MIN_TRIPS_SHARE,
        source="messages",
    )
    if line is not None:
        yield code_evidence(line)


def _batched(
    picture: Picture, mine: pl.DataFrame, moments: Moments, blocked: Moments, working: int
) -> Predicted | None:  # fmt: skip
    """What a request would take with its commands in one.

    Where the server is not seen: without the trips at most, without preparing each either at least.
    """
    if not picture.has_price or picture.typical_ns is None or not picture.root.ns:
        return None
    if (found := batching.predicted(picture, mine, blocked)) is not None:
        return found
    each = picture.typical_ns / picture.root.ns
    high = max(picture.typical_ns - (chatter.waited(mine).ns - working) * each, 1.0)
    low = min(max(picture.typical_ns - (moments.ns - working) * each, 1.0), high)
    return Predicted(p50=sqrt(low * high) / NS_PER_SECOND, low=low / NS_PER_SECOND, high=high / NS_PER_SECOND)


@rule(
    id="app.redis.slow-command",
    title="The application asks Redis for an O(N) answer",
    needs=(MESSAGES,),
    fixes=("app-ask-redis-for-less",),
    fires=(Lab("app-keys"),),
    silent=(Lab("app-keys-healthy"), Lab("redis-slow-healthy"), Lab("cache-aside"), Lab("herring-redis")),
)
def slow_command(picture: Picture) -> Iterator[Finding]:
    """What it detects: a request waits for a command whose work grows with the data (KEYS, HGETALL, SMEMBERS or LRANGE
    of a large key, SORT, a whole ZRANGE): the server's one thread works on that very command meanwhile.

    Why it slows you: the request waits for all of that work, for the sending of the answer, and for its own reading of
    it; every other client of that server waits as well.

    How sure: the command is read from both ends of the connection, and what the server's main thread computed between
    reading and answering it is measured. Commands of one shape count if they usually take a millisecond or more, or
    return much; steps of a scan and batches that the caller names one by one only from 10 ms on, pipelines never.
    Waiting behind the commands of others is not counted. What the server itself shows of it stands in the because
    (`redis.command.slow`, `redis.bigkey.read`): the program's line is nearer to a change.

    What to do: ask for what is needed (HGET, LRANGE with bounds, ZRANGE by index), keep an index instead of searching
    with KEYS, walk in steps outside of the request (SCAN and its kin), or keep the result under a key of its own.
    """
    others = redis_holds.OTHERS_WORK | redis_holds.INTERNAL
    slow = picture.slow_commands.filter(~pl.col("verb").is_in(list(others)))
    queued = picture.moments(*picture.nodes(Kind.RUNNABLE))
    for (pid,), mine in slow.group_by("pid", maintain_order=True):
        moments = slowcommands.spent(picture, mine)
        if picture.share(moments.minus(queued).ns) < MIN_SLOW_SHARE:
            continue
        shapes = _shapes(picture, mine)
        verb, detail = shapes.select("verb", "detail").row(0)
        line = line_of(picture, dict.fromkeys(mine["tid"].unique().to_list(), moments), [verb])
        name = _spoken(verb, detail)
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=int(str(pid)),
            tid=int(mine["tid"].mode().sort()[0]),
            on=On(code=line.place if line else None, peer=_peer(picture, mine), command=name),
            evidence=tuple(_slow_evidence(picture, mine, shapes, moments, line)),
            confidence=0.95 if line else 0.9,
            fixes=(
                Fix(
                    id="app-ask-redis-for-less",
                    change=f"{_instead(verb)} (now: {name})",
                    reversible=True,
                    risk="a change of the program; what is read in steps may change between two of them",
                ),
            ),
            title=f"The application asks Redis for an O(N) answer ({name}{_within(picture, mine)})",
        )


def _instead(verb: str) -> str:
    if verb == "KEYS":
        return "keep an index of the keys that belong together and read that, or walk with SCAN outside of the request"
    if verb in redis_holds.WHOLE_READS:
        return "read only what the request needs (HGET, HMGET, LRANGE or ZRANGE with bounds), or walk in steps"
    return "keep the result under a key of its own, or ask for a part of it, in steps, or a replica"


def _slow_evidence(
    picture: Picture, rows: pl.DataFrame, shapes: pl.DataFrame, moments: Moments, line: CodeLine | None
) -> Iterator[Evidence]:
    for verb, detail, trips, wait_ns, a_request in shapes.head(3).iter_rows():
        served = not picture.root.requests.is_empty()
        often = f"{format_count(a_request)} a request" if served else f"{format_count(trips)} times"
        yield Evidence(
            fact=f"{_spoken(verb, detail)}: {often}{_within(picture, rows)}, mean {wait_ns / trips / 1e6:.3g} ms",
            value=seconds(wait_ns), unit="s", threshold=None, source="messages",
        )  # fmt: skip
    worked_ns = int(rows["worked_ns"].sum())
    yield Evidence(
        fact="of these waits, the server's main thread was running for these very commands, mean "
        f"{worked_ns / len(rows) / 1e6:.3g} ms",
        value=seconds(worked_ns), unit="s", threshold=None, source="messages, offcpu: main thread",
    )  # fmt: skip
    largest = rows["answer_bytes"].max()
    if isinstance(largest, int):
        yield Evidence(
            fact="the largest answer", value=format_bytes(largest), unit="", threshold=None, source="messages"
        )
    sized = rows.drop_nulls("elements").sort("elements", "detail")
    if not sized.is_empty():
        kind, detail, elements = sized.select("type", "detail", "elements").row(-1)
        yield Evidence(
            fact=f"elements of the {kind or 'key'} {detail or ''}".rstrip(), value=elements, unit="", threshold=None,
            source="TYPE and length",
        )  # fmt: skip
    yield Evidence(
        fact="share of the request spent on them",
        value=round(picture.share(moments.ns), 4),
        unit="",
        threshold=MIN_SLOW_SHARE,
        source="messages",
    )
    if line is not None:
        yield code_evidence(line)
