"""Clients that wait in a blocking command wait for whoever brings what they wait for, and not for Redis."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from servers import EACH_SERVER, needs_redis, port_of, serving

sys.path.insert(0, str(Path(__file__).parent.parent))
from whole_runs import beside, needs_tracing, python, share, why

pytestmark = [pytest.mark.redis, pytest.mark.root, pytest.mark.trace, needs_redis, needs_tracing]

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
