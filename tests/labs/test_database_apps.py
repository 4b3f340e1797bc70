"""The labs' programs that ask a Redis do what their truths say, by the server's own count."""

from __future__ import annotations

import json
import shutil

import pytest

from culpa.labs import ports, redis_server, site, stand, stopwatch
from culpa.labs.lab import Conditions, Parameters
from culpa.labs.places import Places

CONDITIONS = Conditions(parameters=Parameters(), trace=True, progress=print)
ELEMENTS, PART = 3000, 7
WAYS = (json.dumps(["LRANGE", "all", "0", "-1"]), json.dumps(["LRANGE", "all", "0", str(PART - 1)]))
NODE = shutil.which("node")


def ask(case: stand.Stand, action: str) -> str:
    return stopwatch.get(f"{case.url}/{action}").body.decode().strip()


@pytest.mark.parametrize(
    "node",
    [False, pytest.param(True, marks=pytest.mark.skipif(NODE is None, reason="no node: NOT TESTED with Node.js"))],
    ids=["python", "node"],
)
def test_a_stock_list_is_asked_for_as_a_whole_or_in_part(places: Places, node: bool) -> None:
    """All elements came, in however many pieces; and the server counts one command a request."""
    with site.opened(print, places=places) as here:
        server, disk = redis_server.start(here, here.directory), stand.disk(here, CONDITIONS, slow=False)
        server.client.rpush("all", *(f"element {number}" * 20 for number in range(ELEMENTS)))
        if node:
            file, port = stand.copied(here, "stock.js", "stock.js"), ports.free_port()
            argv = [str(NODE), str(file), str(port), str(server.port), *WAYS]
            case = stand.served(here, CONDITIONS, argv, file=file, port=port, on=disk)
        else:
            case = stand.raised(here, CONDITIONS, app="stock", on=disk, arguments=(str(server.port), *WAYS))
        answers = [ask(case, action) for action in ("whole", "part", "whole")]
        counted = server.client.info("commandstats")
    assert [f"{ELEMENTS} entries", f"{PART} entries", f"{ELEMENTS} entries"] == answers
    assert 3 == counted["cmdstat_lrange"]["calls"]  # type: ignore[index]  # the client's types leave it open
