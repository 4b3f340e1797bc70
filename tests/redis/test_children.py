"""Children of real servers: rewrites that follow each other, and saves for which there is no memory."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from servers import EACH_SERVER, answer, cause, examined, in_memory, needs_redis, once_asked, port_of, serving
from test_states import SOUND, keeps_asking

from culpa.diagnose.verdict import Verdict
from culpa.labs import memorygroup
from culpa.labs.site import opened

pytestmark = [pytest.mark.redis, needs_redis]

EACH = pytest.mark.parametrize("program", EACH_SERVER)
LOOP, RISK = "redis.aof.rewrite-loop", "redis.fork.oom-risk"
WINDOW_NS = 6_000_000_000
KEYS, VALUE = 60_000, "x" * 1000


@EACH
def test_rewrites_that_follow_each_other_are_told(program: str) -> None:
    """A file that may grow by a hundredth; by default the same writes lead to none, and one that was asked for is no
    loop.
    """
    often = ("--auto-aof-rewrite-percentage", "1", "--auto-aof-rewrite-min-size", "1000")
    sick, sound = _written(program, *often), _written(program)
    assert ("fired", "clear") == (answer(sick, LOOP), answer(sound, LOOP))
    found = cause(sick, LOOP)
    assert "note" == found.level
    assert ("CONFIG", "SET", "auto-aof-rewrite-min-size", "67108864") == (found.fixes[0].argv or ())[-4:]
    assert any("cutime" in fact.source for fact in found.evidence)


def _written(program: str, *settings: str) -> Verdict:
    with ExitStack() as stack:
        directory = stack.enter_context(in_memory())  # a disk may take longer for a rewrite than the window is
        client = stack.enter_context(serving(directory, *SOUND, "--appendonly", "yes", *settings, program=program))
        writer, count = redis.Redis(port=port_of(client)), itertools.count()
        stack.callback(writer.close)
        keeps_asking(stack, lambda: writer.set(f"k:{next(count)}", "x" * 2000), pause=0.01)
        time.sleep(0.5)
        with once_asked(client, client.bgrewriteaof if not settings else client.ping, after=40):
            return examined(client, for_ns=WINDOW_NS)


@pytest.mark.root
@pytest.mark.skipif(memorygroup.why_not() is not None, reason="no memory limits here: NOT TESTED with one")
@EACH
def test_a_limit_that_leaves_no_memory_for_a_save_is_a_risk(program: str, tmp_path: Path) -> None:
    """The last save copied nearly all there is; half of that is left below the limit. Without the limit there is room
    for it.
    """
    if _free_swap():
        pytest.skip("this host has free swap: NOT TESTED without")
    with opened(lambda _: None) as here:
        group = here.stack.enter_context(
            memorygroup.memory_group(book=here.ledger, name=here.name, beside=here.directory)
        )
        with serving(tmp_path, *SOUND, program=program) as client:
            group.admit(int(client.info()["process_id"]))
            _save_while_writing(client)
            copied = int(client.info("persistence")["rdb_last_cow_size"])
            group.allow(int(group.usage_file.read_text()) + copied // 2)
            tight = examined(client)
            group.lift()
            wide = examined(client)
    assert copied > len(VALUE) * KEYS // 2
    assert ("fired", "clear") == (answer(tight, RISK), answer(wide, RISK))
    found = cause(tight, RISK)
    assert ("risk", "warning") == (found.kind, found.level)
    assert any(fact.source.startswith(str(group.limit_file)) for fact in found.evidence)


def _save_while_writing(client: redis.Redis) -> None:
    """Each key is written anew while a child has them all."""
    _write(client)
    client.config_set("rdb-key-save-delay", 100)
    client.bgsave()
    _write(client)
    client.config_set("rdb-key-save-delay", 0)
    deadline = time.monotonic() + 60
    while client.info("persistence")["rdb_bgsave_in_progress"]:
        assert time.monotonic() < deadline, "the save does not end"
        time.sleep(0.05)


def _write(client: redis.Redis) -> None:
    for start in range(0, KEYS, 5000):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, start + 5000):
            pipeline.set(f"k:{number}", VALUE)
        pipeline.execute()


def _free_swap() -> bool:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return any(line.startswith("SwapFree:") and int(line.split()[1]) for line in lines)
