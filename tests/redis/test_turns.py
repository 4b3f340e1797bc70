"""What holds up the event loop of a real server as a whole: many commands at once, and a quota that stops it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from servers import EACH_SERVER, answer, cause, examined, needs_redis, port_of, serving
from test_states import SOUND, keeps_asking

from culpa.diagnose.verdict import Verdict
from culpa.labs import cpuquota
from culpa.labs.site import opened

pytestmark = [pytest.mark.redis, pytest.mark.root, needs_redis]

EACH = pytest.mark.parametrize("program", EACH_SERVER)
BATCH, QUOTA, STARVED = "redis.cycle.batch", "redis.cpu.quota", "redis.cpu.starved"
WINDOW_NS = 4_000_000_000
BYTES, COMMANDS = 400_000, 400
QUOTA_US = 10_000
COUNT_UP = "local n = 0 for i = 1, 80000 do n = n + i end return n"


@pytest.mark.trace
@EACH
@pytest.mark.parametrize("transaction", [False, True], ids=["pipeline", "transaction"])
def test_many_short_commands_at_once_hold_up_everybody(tmp_path: Path, program: str, transaction: bool) -> None:
    """Each takes some tens of microseconds; a few at a time nobody notices."""
    with serving(tmp_path, *SOUND, program=program) as client:
        client.setrange("bits", BYTES - 1, "x")
        many = _batched(client, COMMANDS, transaction=transaction)
        few = _batched(client, 5, transaction=transaction)
    assert ("fired", "clear") == (answer(many, BATCH), answer(few, BATCH))
    found = cause(many, BATCH)
    assert found.on is not None
    assert found.level in ("warning", "critical")
    assert "messages" in {fact.source for fact in found.evidence}
    assert any(fact.source.startswith("INFO stats") for fact in found.evidence)


def _batched(client: redis.Redis, commands: int, *, transaction: bool) -> Verdict:
    with ExitStack() as stack:
        asker = stack.enter_context(redis.Redis(port=port_of(client)))

        def ask() -> None:
            pipeline = asker.pipeline(transaction=transaction)
            for _ in range(commands):
                pipeline.bitcount("bits")
            pipeline.execute()

        keeps_asking(stack, ask, pause=0.15)
        return examined(client, trace=True, for_ns=WINDOW_NS)


@pytest.mark.trace
@EACH
def test_slow_commands_in_one_message_are_slow_commands(tmp_path: Path, program: str) -> None:
    """The slow log has each of them."""
    with serving(tmp_path, *SOUND, program=program) as client, ExitStack() as stack:
        client.eval("for i = 1, 150000 do redis.call('SET', 'k' .. i, 'x') end", 0)
        asker = stack.enter_context(redis.Redis(port=port_of(client)))
        keeps_asking(stack, lambda: asker.pipeline(transaction=False).keys("no*").keys("none*").execute(), pause=0.2)
        verdict = examined(client, trace=True, for_ns=WINDOW_NS)
    assert "clear" == answer(verdict, BATCH)


@pytest.mark.skipif(cpuquota.why_not() is not None, reason="no CPU quotas here: NOT TESTED with one")
@pytest.mark.parametrize("trace", [False, pytest.param(True, marks=pytest.mark.trace)], ids=["asked", "traced"])
@EACH
def test_a_quota_that_stops_the_server_is_told(tmp_path: Path, program: str, trace: bool) -> None:
    """Its commands are short and many; the same ones below a quota of all CPUs wait for nobody."""
    with serving(tmp_path, *SOUND, program=program) as client, ExitStack() as stack:
        asker = stack.enter_context(redis.Redis(port=port_of(client)))
        keeps_asking(stack, lambda: asker.eval(COUNT_UP, 0), pause=0.001)
        with _limited(client, QUOTA_US):
            stopped = examined(client, trace=trace, for_ns=WINDOW_NS)
        with _limited(client, cpuquota.PERIOD_US * (os.cpu_count() or 1)):
            free = examined(client, trace=trace, for_ns=WINDOW_NS)
    assert ("fired", "clear") == (answer(stopped, QUOTA), answer(free, QUOTA))
    found = cause(stopped, QUOTA)
    assert found.level in ("warning", "critical")
    assert any(fact.source.endswith("/cpu.stat") for fact in found.evidence)
    assert "redis.script.long" not in {one.id for one in stopped.causes if one.level != "note"}
    if trace:
        assert {"offcpu", "requests"} & {fact.source for fact in found.evidence}  # once events cost too much: stalls
        assert STARVED not in {one.id for one in stopped.causes if one.level != "note"}


@contextmanager
def _limited(client: redis.Redis, quota_us: int) -> Iterator[None]:
    with opened(lambda _: None) as here:
        quota = here.stack.enter_context(cpuquota.quota(quota_us, book=here.ledger, name=here.name))
        pid = int(client.info()["process_id"])
        here.stack.callback(quota.release, pid)
        quota.admit(pid)
        time.sleep(0.3)  # what it had to spare of the period is used up
        yield
