"""The case application does to Redis what the seed's does, and its repaired endpoint gives the same answer."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from culpa.errors import LabError
from culpa.labs import redis_stand, site, source, stopwatch
from culpa.labs.lab import Conditions, Parameters
from culpa.labs.places import Places

pytestmark = pytest.mark.redis
KEYS = 5000


@pytest.fixture
def stand(places: Places) -> Iterator[redis_stand.Stand]:
    """Server and service on an ordinary disk, filled."""
    conditions = Conditions(parameters=Parameters(), trace=True, progress=print)
    with site.opened(print, places=places) as here:
        stand = redis_stand.raised(here, conditions, app="redis_slow", slow=False)
        ask(stand, f"init/{KEYS}")
        yield stand


def ask(stand: redis_stand.Stand, action: str) -> dict[str, object]:
    answer = json.loads(stopwatch.get(f"{stand.url}/{action}").body)
    assert isinstance(answer, dict)
    return answer


def calls(stand: redis_stand.Stand) -> dict[str, int]:
    """Calls of each command since the last reset, by Redis' own count."""
    counted = stand.server.client.info("commandstats")
    stand.server.client.config_resetstat()
    return {name.removeprefix("cmdstat_"): int(row["calls"]) for name, row in counted.items()}


def test_a_query_writes_once_for_every_match(stand: redis_stand.Stand) -> None:
    """5000 GETs, one SADD for each key of that value, one DEL; the keys themselves are untouched."""
    stand.server.client.config_resetstat()
    answer = ask(stand, "get_cache/bad")
    counted = calls(stand)
    assert counted["get"] == KEYS
    assert answer["count"] == counted["sadd"]
    assert counted["del"] == 1
    assert stand.server.client.dbsize() == KEYS
    assert isinstance(answer["elapsed_seconds"], float)


def test_the_repaired_endpoint_answers_the_same_with_few_round_trips(stand: redis_stand.Stand) -> None:
    """Same keys, no write, fewer than 20 commands."""
    slow = {kind: ask(stand, f"get_cache/{kind}")["data"] for kind in ("good", "bad", "normal")}
    stand.server.client.config_resetstat()
    good = ask(stand, "get_cache_data")
    counted = calls(stand)
    assert {"scan", "mget", "config|resetstat", "config", "info"} >= set(counted)
    assert counted["scan"] + counted["mget"] < 20
    assert good["type"] == "good"
    assert sorted(slow["good"]) == good["data"]  # type: ignore[call-overload]  # a list of names
    assert sorted(slow["bad"]) == ask(stand, "get_cache_data/bad")["data"]  # type: ignore[call-overload]
    assert sum(len(found) for found in slow.values()) == KEYS  # type: ignore[arg-type, misc]


def test_what_it_does_not_know_is_not_found(stand: redis_stand.Stand) -> None:
    """Wrong values and counts change nothing."""
    for action in ("nothing", "get_cache/ugly", "init/many", "init/99999999", "get_cache/good/more"):
        with pytest.raises(LabError, match="404"):
            ask(stand, action)
    assert stand.server.client.dbsize() == KEYS


def test_a_lost_server_is_an_error_not_an_end(stand: redis_stand.Stand) -> None:
    """502 while Redis is away."""
    stand.server.program.stop()
    with pytest.raises(LabError, match="502"):
        ask(stand, "get_cache")
    assert stopwatch.get(f"{stand.url}/").body == b"hello redis\n"


def test_the_line_of_the_write_is_found_by_parsing(stand: redis_stand.Stand) -> None:
    """The lines named hold the call, and only there."""
    lines = source.call_lines(stand.app_file, function="get_cache", method="sadd")
    text = stand.app_file.read_text().splitlines()
    assert any(".sadd(" in line for line in text[lines.first_line - 1 : lines.last_line])
    assert sum(".sadd(" in line for line in text) == 1
