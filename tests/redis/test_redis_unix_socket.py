"""A traced check-up over a unix socket: the chain of its PINGs leads to what the server's main thread did."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import redis
from servers import cause, everywhere, needs_redis, port_of, recorded, serving
from test_states import SOUND, keeps_asking

from culpa.capture import schema
from culpa.diagnose.judge import judge

pytestmark = [pytest.mark.redis, pytest.mark.root, pytest.mark.trace, needs_redis]

WINDOW_NS = 3_000_000_000
LATE_NS, LATER_NS = 2_000_000, 15_000_000
LOOP = "local n = 0 for i = 1, 3000000 do n = n + i end return n"


@pytest.mark.parametrize("sick", [True, False])
def test_what_a_ping_over_a_unix_socket_waited_for_is_seen(tmp_path: Path, sick: bool) -> None:
    """The script that runs again and again has the stalls; without it nobody is blamed."""
    path = str(tmp_path / "odd.sock")
    with serving(tmp_path, *SOUND, "--unixsocket", path) as client, ExitStack() as stack:
        asker = stack.enter_context(redis.Redis(unix_socket_path=path))
        work = (lambda: asker.eval(LOOP, 0)) if sick else (lambda: asker.get("small"))
        keeps_asking(stack, work, pause=0.2)
        capture = recorded(port_of(client), path=path, trace=True, for_ns=WINDOW_NS)
    verdict = judge(capture)
    if sick:
        found = cause(verdict, "redis.script.long")
        assert found.level in ("warning", "critical")
    else:
        assert "slow" != verdict.state


@pytest.mark.parametrize("over_tcp", [True, False])
def test_lateness_of_the_asker_is_no_stall(tmp_path: Path, over_tcp: bool) -> None:
    """A sound server's check-up, with the clock read later on both ways: after it had answered, and long after that."""
    path = str(tmp_path / "calm.sock")
    with serving(tmp_path, *SOUND, "--unixsocket", path) as client:
        capture = recorded(port_of(client), path=None if over_tcp else path, trace=True, for_ns=WINDOW_NS)
    late = pl.col("start_ns") + LATE_NS
    told = capture.frame(schema.REQUESTS).with_columns(start_ns=late, end_ns=late + LATER_NS)
    verdict = judge(replace(capture, tables={**capture.tables, schema.REQUESTS.name: told}))
    named = {one.id for one in everywhere(verdict.causes) if one.level != "note"}
    assert "redis.stall.unattributed" not in named
    assert "slow" != verdict.state
