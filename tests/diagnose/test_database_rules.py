"""What an application asks of its Redis, or of its MySQL, that takes the server long: named for that, and not else."""

from __future__ import annotations

import pytest
from scene import APP, MS, REDIS, Scene

from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict

SLOW_COMMAND, MISSING_INDEX = "app.redis.slow-command", "db.mysql.missing-index"
ASKED = pytest.mark.parametrize("appendfsync", ["everysec", None], ids=["asked", "not-asked"])
"""Whether the server behind the target told of itself."""
NO_INDEX = 0x22
"""Autocommit, and no index used."""
STATEMENT = "SELECT id FROM goods WHERE name = ?"


def arrived() -> Scene:
    """A GET that the service has read."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    return scene


def verdict_on(scene: Scene, appendfsync: str | None = "everysec") -> Verdict:
    scene.answer()
    return judge(scene.capture(appendfsync=appendfsync))


def named(verdict: Verdict) -> dict[str, Cause]:
    """Causes above a note, becauses included."""
    heads = [cause for cause in verdict.causes if cause.level != "note"]
    return {cause.id: cause for head in heads for cause in (head, *head.because)}


@ASKED
def test_a_command_that_keeps_the_server_long_is_the_applications(appendfsync: str | None) -> None:
    """80 of 85 ms: the program is the head, what the server shows of it stands in its because."""
    scene = arrived()
    scene.redis("KEYS", None, work_ns=80 * MS)
    scene.compute(5 * MS)
    verdict = verdict_on(scene, appendfsync)
    head = verdict.causes[0]

    assert (SLOW_COMMAND, APP, "critical") == (head.id, head.who.pid if head.who else None, head.level)
    assert head.on is not None
    assert "KEYS" == head.on.command
    assert 0.080 == pytest.approx(sum(e.value for e in head.evidence if "very commands" in e.fact), rel=0.01)
    assert [SLOW_COMMAND] == [cause.id for cause in verdict.causes if cause.level != "note"]
    if appendfsync is not None:
        assert "redis.command.slow" in {cause.id for cause in head.because}


def test_a_program_that_serves_nobody_is_named_as_well() -> None:
    """A job that asks for all of a hash, five times: its share is that of its thread's time."""
    scene = Scene()
    for _ in range(5):
        scene.redis("HGETALL", "cart:*", work_ns=20 * MS)
        scene.compute(5 * MS)
    scene.asleep_since = scene.now
    head = judge(scene.capture(appendfsync="everysec", kind="process")).causes[0]

    assert (SLOW_COMMAND, "The application asks Redis for an O(N) answer (HGETALL cart:*)") == (head.id, head.title)
    assert any(evidence.fact.startswith("HGETALL cart:*: 5 times, mean 20") for evidence in head.evidence)


@ASKED
@pytest.mark.parametrize("verb", ["SCAN", "GET", "DEL"])
def test_steps_quick_commands_and_what_others_account_for_are_not(verb: str, appendfsync: str | None) -> None:
    """Steps of a scan of 3 ms; one GET of fifty in which the CPU was taken away; a delete, which has its own cause."""
    scene = arrived()
    for number in range(15):
        long = {"SCAN": 3 * MS, "DEL": 30 * MS, "GET": 40 * MS if number == 7 else 50_000}[verb]
        scene.redis(verb, work_ns=long)
    assert SLOW_COMMAND not in named(verdict_on(scene, appendfsync))


def test_many_long_commands_are_no_round_trips() -> None:
    """Thirty whole reads of 10 ms: a pipeline would take as long."""
    scene = arrived()
    for _ in range(30):
        scene.redis("HGETALL", "cart:*", work_ns=10 * MS)
    causes = named(verdict_on(scene))
    assert SLOW_COMMAND in causes
    assert "app.redis.round-trips" not in causes


def test_a_statement_that_used_no_index_is_named_with_its_table_and_the_explain() -> None:
    """The server says so with its answer, and its thread computes for 90 ms."""
    scene = arrived()
    scene.redis("SELECT", STATEMENT, work_ns=90 * MS, protocol="mysql", status=NO_INDEX)
    found = named(verdict_on(scene, None))[MISSING_INDEX]

    assert found.who is not None
    assert (REDIS, "A query scans a whole table (goods)") == (found.who.pid, found.title)
    assert f"EXPLAIN {STATEMENT}" in [evidence.value for evidence in found.evidence]
    assert "(name)" in str(found.fixes[0].change)


@pytest.mark.parametrize(
    ("statement", "status", "slow"),
    [
        (STATEMENT, 0x02, {"work_ns": 90 * MS}),
        (STATEMENT, NO_INDEX, {"sync_ns": 90 * MS}),
        ("SELECT COUNT(*) FROM goods", NO_INDEX, {"work_ns": 90 * MS}),
        (STATEMENT, NO_INDEX, {}),
        (STATEMENT, NO_INDEX, {"work_ns": 3 * MS}),
    ],
    ids=["by-an-index", "waiting", "all-rows", "quick", "small-table"],
)
def test_other_statements_that_take_long_lack_no_index(statement: str, status: int, slow: dict[str, int]) -> None:
    """One that uses an index, one whose time is spent in a wait, one that wants all rows, one that takes no time."""
    scene = arrived()
    scene.compute(10 * MS)
    scene.redis("SELECT", statement, protocol="mysql", status=status, **slow)  # type: ignore[arg-type]  # one of two
    assert MISSING_INDEX not in named(verdict_on(scene, None))
