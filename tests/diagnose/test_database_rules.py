"""What an application asks of its Redis that takes the server long: named for that, and not else."""

from __future__ import annotations

import pytest
from scene import APP, MS, Scene

from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict

SLOW_COMMAND = "app.redis.slow-command"
ASKED = pytest.mark.parametrize("appendfsync", ["everysec", None], ids=["asked", "not-asked"])
"""Whether the server behind the target told of itself."""


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
