"""What the slow log times against what the main thread can have computed: check-ups made by hand, without tracing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from checkups import SECONDS, answer, cause, checkup

from culpa.diagnose.verdict import Verdict

STALLS = dict.fromkeys(range(10, 400, 10), 20.0)
"""A PING in ten waits 20 ms: four a second."""
MAIN = ("used_cpu_user_main_thread", "used_cpu_sys_main_thread")
ALL = ("used_cpu_user", "used_cpu_sys")
BEGAN_UNIX = 1_700_000_000

Entry = tuple[int, str, float]
"""Second of the window in which it ended, verb, ms."""


def _logged(entries: list[Entry], **more: str) -> list[tuple[str, str, str]]:
    rows = [("SLOWLOG GET", "new", str(len(entries)))]
    for number, (second, verb, ms) in enumerate(entries):
        told = {"at_unix": BEGAN_UNIX + second, "us": int(1000 * ms), "verb": verb, "arguments": 2} | more
        rows += [("SLOWLOG GET", f"{number}.{name}", str(value)) for name, value in told.items()]
    return rows


def _judged(entries: list[Entry], cpu_ms: Mapping[int, float], fields: tuple[str, str] = MAIN) -> Verdict:
    """With INFO once a second, which says so much more CPU time after each second of the window, half of it each."""
    spent, said = 0.0, []
    for second in range(SECONDS):
        spent += cpu_ms.get(second, cpu_ms[-1]) / 1000
        said.append(dict.fromkeys(fields, 5 + spent / 2))
    return checkup(dict.fromkeys(fields, 5.0), said[-1], looks=said[:-1], more=_logged(entries), slow=STALLS)


def _each_second(verb: str, ms: float) -> list[Entry]:
    return [(second, verb, ms) for second in range(SECONDS) for _ in range(4)]


@pytest.mark.parametrize("fields", [MAIN, ALL], ids=["main thread", "before 6.2"])
@pytest.mark.parametrize(("cpu_ms", "expected"), [(12.0, "clear"), (85.0, "fired"), (700.0, "fired")])
def test_a_command_that_waited_is_no_slow_command(fields: tuple[str, str], cpu_ms: float, expected: str) -> None:
    """The log has 80 ms of commands in each second; in 12 ms of CPU time they were not computed, in 85 they were."""
    verdict = _judged(_each_second("RANDOMKEY", 20), {-1: cpu_ms}, fields)
    assert expected == answer(verdict, "redis.command.slow")


def test_a_server_that_does_not_say_its_cpu_time_is_believed() -> None:
    """Its slow log is then all there is."""
    verdict = checkup(more=_logged(_each_second("KEYS", 20)), slow=STALLS)
    assert "fired" == answer(verdict, "redis.command.slow")


def test_a_long_computation_stays_beside_a_long_wait() -> None:
    """KEYS computed for 300 ms early on; a GET that waited for three seconds near the end is not to blame."""
    verdict = _judged([(2, "KEYS", 300), (9, "GET", 3_000)], {-1: 5.0, 1: 300.0, 2: 300.0})
    found = cause(verdict, "redis.command.slow")
    assert found.on is not None
    assert "KEYS" == found.on.command
    assert not any(fact.fact.startswith("GET") for fact in found.evidence)


def test_what_is_left_of_a_command_that_had_to_wait_for_its_cpu_is_still_its_own() -> None:
    """Half of an 80 ms KEYS was computed: 40 ms are its own."""
    found = cause(_judged([(4, "KEYS", 80)], {-1: 0.0, 4: 40.0}), "redis.command.slow")
    assert "KEYS ran once, the longest for 40 ms" in {fact.fact for fact in found.evidence}


def test_a_script_and_its_command_in_the_log_are_one_computation() -> None:
    """EVAL of 80 ms, KEYS of 78 ms within it, and 85 ms of CPU time."""
    found = cause(_judged([(4, "EVAL", 80), (4, "KEYS", 78)], {-1: 0.0, 4: 85.0}), "redis.script.long")
    assert "EVAL ran once, the longest for 80 ms" in {fact.fact for fact in found.evidence}


@pytest.mark.parametrize("verb", ["SAVE", "DEBUG"])
def test_a_command_that_waits_by_design_is_as_long_as_it_waits(verb: str) -> None:
    """SAVE waits for the disk, DEBUG SLEEP for its time to pass."""
    assert "fired" == answer(_judged([(4, verb, 400)], {-1: 3.0}), "redis.command.slow")


@pytest.mark.parametrize(
    ("client", "name", "expected"),
    [
        ("192.0.2.9:50123", "nightly", "192.0.2.9:* (name=nightly)"),
        ("[2001:db8::9]:50123", "", "[2001:db8::9]:*"),
        ("/run/redis/other.sock:0", "", "a unix socket"),
    ],
)
def test_the_slow_log_says_who_asked(client: str, name: str, expected: str) -> None:
    """Its address without the port, and the name that it gave itself."""
    verdict = checkup(more=_logged(_each_second("SORT", 20), client=client, client_name=name), slow=STALLS)
    told = {fact.fact: fact.value for fact in cause(verdict, "redis.command.slow").evidence}
    assert 4 * SECONDS == told[f"SORT came from {expected}, times"]


COUNTED = {"cmdstat_get": "calls=50,usec=400", "cmdstat_keys": "calls=2,usec=9000"}
OFF = {"slowlog-log-slower-than": "-1"}


@pytest.mark.parametrize(
    ("grown", "entries", "check", "expected"),
    [
        ({"cmdstat_keys": "calls=42,usec=809000"}, [], "redis.command.slow", "fired"),
        ({"cmdstat_keys": "calls=40002,usec=809000"}, [], "redis.command.slow", "clear"),
        ({"cmdstat_eval": "calls=40,usec=800000"}, [], "redis.script.long", "fired"),
        ({"cmdstat_eval": "calls=40,usec=820000", "cmdstat_keys": "calls=42,usec=809000"}, [], "redis.command.slow",
         "clear"),
        ({"cmdstat_exec": "calls=40,usec=800000"}, [], "redis.command.slow", "clear"),
        ({"cmdstat_info": "calls=40,usec=800000"}, [], "redis.command.slow", "clear"),
        ({"cmdstat_sort": "calls=80,usec=1200000"}, _each_second("SORT", 20), "redis.command.slow", "fired"),
    ],
    ids=["long", "short in the mean", "script", "within a script", "transaction", "culpa's", "some are logged"],
)  # fmt: skip
def test_what_the_slow_log_has_not_is_told_by_the_servers_count(
    grown: dict[str, str], entries: list[Entry], check: str, expected: str
) -> None:
    """It is off, or they were below its threshold: so many calls and so much time in the window."""
    verdict = checkup(COUNTED, grown, settings={} if entries else OFF, slow=STALLS, more=_logged(entries))
    assert expected == answer(verdict, check)
    if expected == "fired":
        found = cause(verdict, check)
        assert "INFO commandstats" in {fact.source for fact in found.evidence}
        assert 0.9 <= found.share


def test_what_culpa_asks_is_no_slow_command() -> None:
    """INFO of a server that is short of CPU stands in its slow log as well."""
    own = [("CLIENT INFO", "addr", "192.0.2.1:40000")]
    verdicts = [
        checkup(more=[*own, *_logged(_each_second("INFO", 20), client=client)], slow=STALLS)
        for client in ("192.0.2.1:40000", "192.0.2.1:40001")
    ]
    assert ["clear", "fired"] == [answer(one, "redis.command.slow") for one in verdicts]


@pytest.mark.parametrize(
    ("verb", "fix"),
    [("KEYS", "redis-scan-instead"), ("SCAN", "redis-smaller-steps"), ("SAVE", "redis-bgsave"),
     ("DEBUG", "redis-no-debug"), ("LREM", "redis-less-at-once")],
)  # fmt: skip
def test_what_is_proposed_fits_the_command(verb: str, fix: str) -> None:
    """Nobody who sends SCAN is told to send SCAN."""
    verdict = checkup(more=_logged(_each_second(verb, 20)), slow=STALLS)
    assert [fix] == [one.id for one in cause(verdict, "redis.command.slow").fixes]
