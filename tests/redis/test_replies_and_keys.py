"""Large replies and hot keys of real servers; what a Valkey recorded of large replies; servers with I/O threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import redis
from hosttime import Kept, above_a_note, measured
from servers import EACH_SERVER, answer, cause, everywhere, examined, needs_redis, port_of, recorded, serving
from test_commands_in_flight import RESTLESS
from test_states import SOUND, keeps_asking

from culpa.capture import schema
from culpa.collect import commandlog
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict

pytestmark = [pytest.mark.redis, needs_redis]

LONG_NS = 2_400_000_000
VALUE_BYTES = 20_000_000
LONG_KEY = "page:" + "long" * 75
TRACED = pytest.mark.parametrize("trace", [pytest.param(True, marks=[pytest.mark.root, pytest.mark.trace]), False])
EACH = pytest.mark.parametrize("program", EACH_SERVER)
LARGE, HOT = "redis.reply.large", "redis.hotkey"


@TRACED
@EACH
def test_a_reply_of_megabytes_is_told_with_its_size(tmp_path: Path, program: str, *, trace: bool) -> None:
    """Traced with the command and its exact size; untraced by the mean of what the server sent."""
    with serving(tmp_path, *SOUND, program=program) as client, ExitStack() as stack:
        client.set("page:1", "x" * VALUE_BYTES)
        asker = stack.enter_context(redis.Redis(port=port_of(client)))
        keeps_asking(stack, lambda: asker.get("page:1"), pause=0.05)
        verdict = examined(client, trace=trace, for_ns=LONG_NS)
    assert "fired" == answer(verdict, LARGE)
    found = cause(verdict, LARGE)
    assert "note" == found.level
    assert found.on is not None
    if trace:
        assert "GET page:*" == found.on.command
        assert ("messages", "20.0 MB") == (found.evidence[0].source, found.evidence[0].value)
    else:
        assert found.evidence[0].source.startswith(("INFO stats", "SLOWLOG GET"))


@TRACED
@EACH
def test_many_small_replies_at_once_are_no_large_one(tmp_path: Path, program: str, *, trace: bool) -> None:
    """Pipelines with two megabytes of replies in each, also of commands so long that only one is seen of a message,
    and a client that is told much that it did not ask for.
    """
    with serving(tmp_path, *SOUND, program=program) as client, ExitStack() as stack:
        for key in ("page:1", LONG_KEY):
            client.set(key, "x" * 1000)
        asker = stack.enter_context(redis.Redis(port=port_of(client)))
        listener = stack.enter_context(redis.Redis(port=port_of(client)).pubsub())
        stack.enter_context(_reading(listener))

        def ask() -> None:
            for key in ("page:1", LONG_KEY):
                pipeline = asker.pipeline(transaction=False)
                for _ in range(2000):
                    pipeline.get(key)
                pipeline.execute()
            asker.publish("news", "x" * 200_000)

        keeps_asking(stack, ask, pause=0.1)
        verdict = examined(client, trace=trace, for_ns=LONG_NS)
    assert "clear" == answer(verdict, LARGE)


@contextmanager
def _reading(listener: redis.client.PubSub) -> Iterator[None]:
    thread = listener.run_in_thread(sleep_time=0.05, daemon=True, exception_handler=lambda *_: None)
    listener.subscribe(**{"news": lambda _: None})
    try:
        yield
    finally:
        thread.stop()
        thread.join()


# As a Valkey answers COMMANDLOG GET -1 large-reply: tests/unit/commandlog.tcl of valkey-io/valkey at 0e62809, "logged
# entry sanity check" (number, arguments, name), in the form of commandlogGetReply in src/commandlog.c of that commit.
RECORDED: list[list[object]] = [
    [117, 1_760_000_000, 3_145_739, [b"get", b"testkey"], b"127.0.0.1:53164", b"foobar"],
    [118, 1_760_000_001, 1_048_999, [b"hgetall", b"user:1024"], b"127.0.0.1:53170", b""],
]


def test_what_a_valkey_recorded_is_read() -> None:
    """Six fields each; whatever has another shape is left out."""
    odd: list[object] = [b"no", [1, 2], [1, 2, 3, [], b"x"], None]
    found = commandlog.entries([*RECORDED, *odd])  # type: ignore[list-item]  # a reply may hold anything
    assert [(117, 3_145_739, (b"get", b"testkey")), (118, 1_048_999, (b"hgetall", b"user:1024"))] == [
        (one.number, one.size_bytes, one.arguments) for one in found
    ]
    assert "127.0.0.1:53164" == found[0].client
    assert [] == commandlog.entries(b"OK")


class _Recorded:
    """Answers as a Valkey's connection, from what was recorded; the rest of the collector runs as it is."""

    def __init__(self, *replies: object) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[str | bytes, ...]] = []

    def ask(self, *commands: tuple[str | bytes, ...]) -> list[object]:
        self.asked += commands
        return [self.replies.pop(0) for _ in commands]


def test_only_what_came_in_the_window_counts_and_not_what_culpa_asked() -> None:
    """Entry 117 was there before; 119 is culpa's own; 118 is told with its pattern and never its key."""
    own = [119, 1_760_000_002, 2_000_000, [b"client", b"list"], b"127.0.0.1:9", b""]
    talker = _Recorded([], [RECORDED[0]], [], [own, RECORDED[1], RECORDED[0]])
    log = commandlog.CommandLog(lambda key: key.decode().replace("1024", "*"))
    log.begin(talker, exists=True)  # type: ignore[arg-type]  # all that it is asked for
    facts = list(log.facts(talker, own="127.0.0.1:9"))  # type: ignore[arg-type]  # the same
    told = {(fact.source, fact.field): fact.value for fact in facts}
    assert {
        ("COMMANDLOG GET large-request", "new"): "0",
        ("COMMANDLOG GET large-reply", "new"): "1",
        ("COMMANDLOG GET large-reply", "118.at_unix"): "1760000001",
        ("COMMANDLOG GET large-reply", "118.bytes"): "1048999",
        ("COMMANDLOG GET large-reply", "118.verb"): "HGETALL",
        ("COMMANDLOG GET large-reply", "118.pattern"): "user:*",
    } == told


@EACH
def test_a_server_without_that_log_is_not_asked_for_it(tmp_path: Path, program: str) -> None:
    """No fact says 0 of it, and the check goes by something else."""
    talker = _Recorded()
    log = commandlog.CommandLog(str)
    log.begin(talker, exists=False)  # type: ignore[arg-type]  # all that it is asked for
    assert [] == [*log.facts(talker, own=None), *talker.asked]  # type: ignore[arg-type]  # the same
    with serving(tmp_path, *SOUND, program=program) as client:
        capture = recorded(port_of(client))
    facts = capture.frame(schema.REDIS)
    assert not [source for source in facts["source"].unique().to_list() if "COMMANDLOG" in source]
    assert facts.filter(pl.col("field") == commandlog.SETTING).is_empty()
    assert not [spot for spot in capture.manifest.blind_spots if "COMMANDLOG" in spot.what]
    assert "clear" == answer(judge(capture), LARGE)


def test_what_a_valkey_recorded_fires_the_check(tmp_path: Path) -> None:
    """A capture of a sound server, and the recorded entries as they are kept: told with its source, without tracing."""
    with serving(tmp_path, *SOUND) as client:
        capture = recorded(port_of(client))
    facts = capture.frame(schema.REDIS)
    one = facts.row(0, named=True)
    source = "COMMANDLOG GET large-reply"
    said = {"new": "1", "117.bytes": "3145739", "117.verb": "GET", "117.pattern": "testkey"}
    rows = [{**one, "source": source, "field": field, "value": value} for field, value in said.items()]
    more = pl.DataFrame(rows, schema=facts.schema)
    verdict = judge(replace(capture, tables={**capture.tables, schema.REDIS.name: pl.concat([facts, more])}))
    found = cause(verdict, LARGE)
    assert found.on is not None
    assert ("GET testkey", source, "3.15 MB") == (found.on.command, found.evidence[0].source, found.evidence[0].value)


SETS = ("north", "south", "west")


def _sort(name: str) -> str:
    """Much work, and a small reply."""
    return f"SORT|{name}|ALPHA|LIMIT|0|1"


def _busy(directory: Path, program: str, *asks: str, trace: bool) -> Verdict:
    """A server that one client keeps busy."""
    with serving(directory, *SOUND, program=program) as client, ExitStack() as stack:
        for name in (*SETS, "shelf:1"):
            client.sadd(name, *(f"member:{number}" for number in range(3000)))
        restless = subprocess.Popen([sys.executable, "-c", RESTLESS, str(port_of(client)), *asks])
        stack.callback(restless.wait)
        stack.callback(restless.kill)
        return examined(client, trace=trace, for_ns=LONG_NS)


@pytest.mark.root
@pytest.mark.trace
@EACH
def test_a_key_that_most_of_the_work_is_about_is_hot(tmp_path: Path, program: str) -> None:
    """And it is named with what is asked of it."""
    found = cause(_busy(tmp_path, program, _sort("north"), "GET|user:1", trace=True), HOT)
    assert found.on is not None
    assert "SORT north" == found.on.command
    assert "note" == found.level


@pytest.mark.root
@pytest.mark.trace
@EACH
def test_three_keys_with_a_third_each_are_not_hot(tmp_path: Path, program: str) -> None:
    """The same load, spread."""
    assert "clear" == answer(_busy(tmp_path, program, *map(_sort, SETS), trace=True), HOT)


@TRACED
def test_where_it_cannot_tell_which_key_it_says_so(tmp_path: Path, *, trace: bool) -> None:
    """Untraced of any key; traced of one with a number in it, which may be a thousand."""
    verdict = _busy(tmp_path, str(EACH_SERVER[0].values[0]), _sort("shelf:1"), trace=trace)
    (check,) = [one for one in verdict.checks if one.id == HOT]
    assert "skipped" == check.answer
    assert ("which of these keys is not kept" if trace else "with tracing") in str(check.why)


THREADS = ("--io-threads", "3", "--io-threads-do-reads", "yes")


@TRACED
@EACH
def test_a_server_with_io_threads_is_examined_as_any_other(tmp_path: Path, program: str, *, trace: bool) -> None:
    """Its long commands are named and nothing else is; the table says what it could not see."""
    with serving(tmp_path, *SOUND, *THREADS, program=program) as client, ExitStack() as stack:
        client.mset(dict.fromkeys(map(str, range(300_000)), "v"))
        asker = stack.enter_context(redis.Redis(port=port_of(client)))
        keeps_asking(stack, lambda: asker.keys("nosuch*"), pause=0.15)
        _crowd(stack, client)
        with measured(client) as kept:
            verdict = examined(client, trace=trace, for_ns=2 * LONG_NS)
    (found,) = _heads(verdict, kept)
    assert found.on is not None
    assert ("redis.command.slow", "KEYS") == (found.id, str(found.on.command).partition(" ")[0])
    (table,) = verdict.commands
    assert "KEYS" in {one.verb for one in table.rows}


@TRACED
@EACH
def test_a_sound_server_with_io_threads_is_silent(tmp_path: Path, program: str, *, trace: bool) -> None:
    """The same clients without the long command."""
    with serving(tmp_path, *SOUND, *THREADS, program=program) as client, ExitStack() as stack:
        _crowd(stack, client)
        with measured(client) as kept:
            verdict = examined(client, trace=trace, for_ns=LONG_NS)
    assert [] == _heads(verdict, kept)


OF_THE_HOST = {"cpu.runqueue", "redis.cpu.starved"}
"""Three threads that look for work in a loop, on a host with two CPUs: true there."""


def _heads(verdict: Verdict, kept: Kept) -> list[Cause]:
    told = above_a_note(verdict, kept) - OF_THE_HOST
    return [one for one in verdict.causes if one.id in told]


def _crowd(stack: ExitStack, client: redis.Redis) -> None:
    """Clients enough that the server hands reads and writes to its I/O threads (two for each)."""
    client.set("user:1", "x" * 100)
    for _ in range(8):
        one = stack.enter_context(redis.Redis(port=port_of(client)))
        keeps_asking(stack, lambda one=one: one.get("user:1"), pause=0.01)


def test_a_sound_server_has_neither(tmp_path: Path) -> None:
    """Not even as a note."""
    with serving(tmp_path, *SOUND) as client:
        verdict = examined(client)
    assert not [one for one in everywhere(verdict.causes) if one.id in (LARGE, HOT)]
