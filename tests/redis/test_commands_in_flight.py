"""The table of commands against a load whose every request is known, and the two kinds of a saturated main thread."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from servers import answer, cause, examined, needs_redis, port_of, recorded, serving
from test_states import SOUND

from culpa.capture.bundle import Capture
from culpa.collect.options import Options
from culpa.collect.redis_answers import Address, Credentials
from culpa.collect.redis_link import Link
from culpa.collect.session import record
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, CommandRow, Commands
from culpa.labs.redis_server import executable
from culpa.target import parse_target

pytestmark = [pytest.mark.redis, pytest.mark.root, needs_redis]

WINDOW_NS = 4_000_000_000
READS, PIPELINES, IN_ONE, TRANSACTIONS, SLEEPS, SLEEP_SECONDS = 120, 30, 100, 40, 4, 0.05
SURELY, TRIES = 0.94, 3
"""Part of a CPU from which on it is saturated, whichever of two windows that are not quite the same one takes."""
ROUNDS, KEYS = 600_000, 100_000
SCRIPT = f"local n = 0 for i = 1, {ROUNDS} do n = n + i end return n"
DIGEST = hashlib.sha1(SCRIPT.encode()).hexdigest()  # the name that Redis gives a script


def _watched(port: int, *, trace: bool) -> Capture:
    """A check-up with room for every event: the load below is small, and none of it may be missed."""
    link = Link(address=Address(host="127.0.0.1", port=port), credentials=Credentials())
    options = Options(for_ns=WINDOW_NS, trace=trace, checkup=link, budget_percent=100.0)
    return record(parse_target(f"redis://127.0.0.1:{port}"), options, progress=lambda _: None, enough=lambda _: None)


def _load(port: int, asked: dict[str, int]) -> None:
    """From within the window on: known numbers of reads, pipelines, transactions and long commands; GETs meanwhile."""
    web = redis.Redis(port=port, client_name="web")
    report = redis.Redis(port=port, client_name="report")
    pings = web.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]
    deadline = time.monotonic() + 20
    while web.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"] < pings + 3:
        assert time.monotonic() < deadline, "culpa does not ask"
        time.sleep(0.02)
    done = threading.Event()

    def reads() -> None:
        while not done.is_set():
            web.get("user:7")
            asked["GET"] = asked.get("GET", 0) + 1
            time.sleep(0.005)

    beside = threading.Thread(target=reads)
    beside.start()
    try:
        for _ in range(READS):
            report.hgetall("big:1")
        for _ in range(PIPELINES):
            pipeline = report.pipeline(transaction=False)
            for number in range(IN_ONE):
                pipeline.get(f"page:{number}")
            pipeline.execute()
        for _ in range(TRANSACTIONS):
            transaction = report.pipeline(transaction=True)
            transaction.set("count:1", 1).set("count:2", 2).execute()
        for _ in range(SLEEPS):
            began_ns = time.monotonic_ns()
            report.execute_command("DEBUG", "SLEEP", SLEEP_SECONDS)
            lasted_ns = time.monotonic_ns() - began_ns
            asked["slept_ns"] = asked.get("slept_ns", 0) + lasted_ns
            asked["longest_ns"] = max(asked.get("longest_ns", 0), lasted_ns)
    finally:
        done.set()
        beside.join()
    web.client_list()  # keeps both connections to the end of the window, so that they still have names
    asked["until_ns"] = time.monotonic_ns()
    deadline = time.monotonic() + 30
    while "over" not in asked and time.monotonic() < deadline:
        time.sleep(0.05)
    web.close()
    report.close()


@contextmanager
def _asking(port: int) -> Iterator[dict[str, int]]:
    asked: dict[str, int] = {}
    thread = threading.Thread(target=_load, args=(port, asked))
    thread.start()
    try:
        yield asked
    finally:
        asked["over"] = 1
        thread.join()
    assert "until_ns" in asked, "the load did not end"


def _table(directory: Path, *, trace: bool) -> tuple[Commands, dict[str, int]]:
    debug = ("--enable-debug-command", "local")
    with ExitStack() as stack:
        client = stack.enter_context(serving(directory, *SOUND, *(debug if _seven() else ())))
        client.hset("big:1", mapping={f"field{n}": "v" * 20 for n in range(500)})
        for left in range(TRIES - 1, -1, -1):
            with _asking(port_of(client)) as asked:
                capture = _watched(port_of(client), trace=trace)
            if asked["until_ns"] < capture.manifest.window.end_ns:
                break
            assert left, "the load was not over before the window was"
            warnings.warn("again: this host was slow, and the load outlasted the window", stacklevel=2)
        assert 0 == capture.manifest.cost.lost_events
        (table,) = judge(capture).commands
    return table, asked


def _seven() -> bool:
    """Whether the server here wants DEBUG to be allowed (since 7.0)."""
    said = subprocess.run(
        [executable() or "redis-server", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return int(said.partition("v=")[2].partition(".")[0]) >= 7


def _row(table: Commands, verb: str, *, pipeline: bool = False) -> CommandRow:
    (found,) = [one for one in table.rows if one.verb == verb and (one.calls is None) == pipeline]
    return found


def _is_about(expected: float, seconds: float, *, rel: float, waited_ns: int) -> bool:
    """A server that wakes late sleeps longer, as its client notices: no longer than that one waited."""
    return (1 - rel) * expected <= seconds <= max((1 + rel) * expected, waited_ns / 1e9)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Commands, dict[str, int]]:
    """The table of the known load where every event was recorded."""
    return _table(tmp_path_factory.mktemp("traced"), trace=True)


@pytest.mark.trace
def test_every_request_is_in_the_table_once(traced: tuple[Commands, dict[str, int]]) -> None:
    """By verb and pattern, with who asked; what the server counted itself says the same."""
    table, asked = traced
    counted = {one.verb: one for one in table.counted}
    read, alone = _row(table, "HGETALL"), _row(table, "GET")
    assert ("sockets", "big:*", READS) == (table.basis, read.pattern, read.calls)
    assert ("user:*", asked["GET"]) == (alone.pattern, alone.calls)
    several = _row(table, "GET", pipeline=True)
    assert ("page:*", PIPELINES) == (several.pattern, several.requests)
    assert TRANSACTIONS == _row(table, "MULTI", pipeline=True).requests
    assert SLEEPS == _row(table, "DEBUG").calls
    assert asked["GET"] + PIPELINES * IN_ONE == counted["GET"].calls
    assert (READS, TRANSACTIONS, 2 * TRANSACTIONS) == tuple(counted[v].calls for v in ("HGETALL", "EXEC", "SET"))
    assert ["127.0.0.1:* (name=report)"] == [one.name for one in read.askers]
    assert ["127.0.0.1:* (name=web)"] == [one.name for one in alone.askers]


@pytest.mark.trace
def test_a_long_command_has_its_time_and_those_who_waited_behind_it(traced: tuple[Commands, dict[str, int]]) -> None:
    """Within a tenth of what was asked for, or as much longer as the client waited; so says the server's own count."""
    table, asked = traced
    counted = {one.verb: one for one in table.counted}
    long, alone = _row(table, "DEBUG"), _row(table, "GET")
    for seconds in (long.seconds, counted["DEBUG"].seconds):
        assert _is_about(SLEEPS * SLEEP_SECONDS, seconds, rel=0.1, waited_ns=asked["slept_ns"])
    assert table.rows[0] == long
    assert long.p50 is not None
    assert long.p50 >= 0.9 * SLEEP_SECONDS
    # Every 5 ms a GET is asked: one lay unread for most of each of these commands.
    assert alone.waited is not None
    assert alone.waited[1] >= SLEEPS * SLEEP_SECONDS / 2
    assert "DEBUG" == alone.behind


def test_without_tracing_the_table_is_of_the_servers_own_counters(tmp_path: Path) -> None:
    """As exact in calls; no patterns, no askers, and said so."""
    table, asked = _table(tmp_path, trace=False)
    assert "commandstats" == table.basis
    assert (READS, asked["GET"] + PIPELINES * IN_ONE) == (_row(table, "HGETALL").calls, _row(table, "GET").calls)
    long = _row(table, "DEBUG")
    assert long.max is not None  # the slow log keeps it
    assert _is_about(SLEEPS * SLEEP_SECONDS, long.seconds, rel=0.1, waited_ns=asked["slept_ns"])
    assert _is_about(SLEEP_SECONDS, long.max, rel=0.2, waited_ns=asked["longest_ns"])
    assert not [one for one in table.rows if one.verb in ("PING", "INFO", "CONFIG") or one.askers]
    assert any("own counters" in note for note in table.notes)


@pytest.mark.parametrize("trace", [pytest.param(True, marks=pytest.mark.trace), False])
def test_a_server_that_nobody_asks_has_no_table(tmp_path: Path, *, trace: bool) -> None:
    """What culpa asks is not shown as somebody's."""
    with serving(tmp_path, *SOUND) as client:
        assert () == examined(client, trace=trace).commands


RESTLESS = """
import select, socket, sys
asks = {}
for words in sys.argv[2:]:
    parts = words.split("|")
    text = f"*{len(parts)}\\r\\n" + "".join(f"${len(part)}\\r\\n{part}\\r\\n" for part in parts)
    for _ in range(2):
        sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        asks[sock] = text.encode()
        sock.sendall(asks[sock])
while True:
    for sock in select.select(list(asks), [], [])[0]:
        if not sock.recv(65536):
            sys.exit()
        sock.sendall(asks[sock])
"""
"""Two connections for each command, each asking again as soon as it is answered."""


def _saturated(stack: ExitStack, directory: Path, *asks: str) -> redis.Redis:
    """A server that is never without a command, and that the host's other load cannot keep from its CPU."""
    client = stack.enter_context(serving(directory, *SOUND))
    os.setpriority(os.PRIO_PROCESS, int(client.info()["process_id"]), -20)
    client.mset(dict.fromkeys(map(str, range(KEYS)), "v"))
    client.script_load(SCRIPT)
    restless = subprocess.Popen([sys.executable, "-c", RESTLESS, str(port_of(client)), *asks])
    stack.callback(restless.wait)
    stack.callback(restless.kill)
    os.setpriority(os.PRIO_PROCESS, restless.pid, -19)
    return client


def _busy(directory: Path, *asks: str, trace: bool) -> Cause:
    """What is said of the saturated thread; tried again where the host did not let it run."""
    with ExitStack() as stack:
        client = _saturated(stack, directory, *asks)
        schedstat = Path(f"/proc/{client.info()['process_id']}/schedstat")
        for _ in range(TRIES):
            began_ns, used_ns = time.monotonic_ns(), int(schedstat.read_text().split()[0])
            capture = recorded(port_of(client), trace=trace, for_ns=2_000_000_000)
            share = (int(schedstat.read_text().split()[0]) - used_ns) / (time.monotonic_ns() - began_ns)
            verdict = judge(capture)
            if share > SURELY:
                assert "fired" == answer(verdict, "redis.cpu.saturated")
                return cause(verdict, "redis.cpu.saturated")
    pytest.skip(f"this host gave it {share:.0%} of a CPU: NOT TESTED")


@pytest.mark.parametrize("trace", [pytest.param(True, marks=pytest.mark.trace), False])
def test_a_thread_that_one_command_saturates_is_told_so(tmp_path: Path, *, trace: bool) -> None:
    """It names the command, and does not advise another server."""
    found = _busy(tmp_path, f"EVAL|{SCRIPT}|0", trace=trace)
    assert found.on is not None
    assert "EVAL" == found.on.command
    assert ["redis-one-command"] == [fix.id for fix in found.fixes]


@pytest.mark.parametrize("trace", [pytest.param(True, marks=pytest.mark.trace), False])
def test_a_thread_that_many_commands_saturate_names_none(tmp_path: Path, *, trace: bool) -> None:
    """Two scripts of one length under two verbs, and KEYS: none has half of the time."""
    found = _busy(tmp_path, f"EVAL|{SCRIPT}|0", f"EVALSHA|{DIGEST}|0", "KEYS|nosuch*", trace=trace)
    assert found.on is not None
    assert found.on.command is None
    assert ["redis-shard"] == [fix.id for fix in found.fixes]
