"""Clients that wait in a blocking command wait for whoever brings what they wait for, and not for Redis."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from servers import EACH_SERVER, needs_redis, port_of, serving

sys.path.insert(0, str(Path(__file__).parent.parent))
from whole_runs import beside, every, needs_tracing, python, share, why

pytestmark = [pytest.mark.redis, pytest.mark.root, pytest.mark.trace, needs_redis, needs_tracing]

ORDER_SECONDS = 3.0
"""culpa looks from its start-up, a second or two, to four seconds after that."""
DESK = """
import redis, sys, time
store = redis.Redis(port=int(sys.argv[1]))
while True:
    _, number = store.blpop("desk:in")
    time.sleep(0.25)
    store.rpush("desk:out:" + number.decode(), "done")
"""


@pytest.mark.parametrize("program", EACH_SERVER)
def test_who_brings_what_is_waited_for_is_named(tmp_path: Path, program: str) -> None:
    """A request hands its work to a desk through one list and waits at another; the desk pauses before it answers."""
    with serving(tmp_path, program=program) as client:
        body = f"""
            import itertools, redis
            store, numbers = redis.Redis(port={port_of(client)}), itertools.count()
            @page
            def order():
                number = next(numbers)
                store.rpush("desk:in", number)
                store.blpop(f"desk:out:{{number}}")
            serve(http.server.HTTPServer)
        """
        with beside(DESK, str(port_of(client))) as desk, python(tmp_path, body) as url:
            verdict = why(f"{url}/order", "--for", "4s")
    assert share(verdict, lambda node: node["kind"] == "peer", "sleep") > 0.7
    heads = [(one["id"], one["who"]["pid"]) for one in verdict["causes"] if one["level"] != "note"]
    assert [("sleep.by-choice", desk)] == heads


@pytest.mark.parametrize("program", EACH_SERVER)
def test_who_waits_for_work_that_does_not_come_is_idle(tmp_path: Path, program: str) -> None:
    """Neither the desk nor Redis is slow."""
    with serving(tmp_path, program=program) as client, beside(DESK, str(port_of(client))) as desk:
        waits_for(client)
        verdict = why(str(desk), "--for", "3s")
    assert [] == [one["id"] for one in verdict["causes"] if one["level"] != "note"]
    assert "not-slow" == verdict["state"]


@pytest.mark.parametrize("program", EACH_SERVER)
def test_who_asks_for_more_work_is_idle_until_it_comes(tmp_path: Path, program: str) -> None:
    """One order comes while culpa looks; what is asked after it stays open to the end."""
    with serving(tmp_path, program=program) as client, beside(DESK, str(port_of(client))) as desk:
        waits_for(client)
        order = threading.Timer(ORDER_SECONDS, client.rpush, ("desk:in", 1))
        order.start()
        verdict = why(str(desk), "--for", "4s")
        order.join()
    assert [] == [one["id"] for one in verdict["causes"] if one["level"] != "note"]
    assert any(node["kind"] == "sleep" for node in every(verdict["blame"]))  # the order was served
    assert verdict["root"]["idle_seconds"] > 0.5


def waits_for(client: redis.Redis) -> None:
    """Until the desk waits for work."""
    while not client.info("clients")["blocked_clients"]:
        time.sleep(0.05)
