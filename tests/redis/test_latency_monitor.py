"""The latency monitor of a real server, switched on for the window: what it adds, and that it is always put back."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import polars as pl
import pytest
import redis
from servers import WINDOW_NS, answer, cause, needs_redis, once_asked, port_of, recorded, serving
from test_states import keeps_asking

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.collect import undo
from culpa.collect.doctor import checks
from culpa.collect.latency_monitor import SETTING, LatencyMonitor, settle_all
from culpa.collect.redis_answers import Address
from culpa.collect.redis_link import Link
from culpa.diagnose.judge import judge
from culpa.labs.leftovers import starttime

pytestmark = [pytest.mark.redis, needs_redis]

SCRIPT = "local n = 0 for i = 1, 3000000 do n = n + i end return n"
"""Some 30 ms of the main thread; the slow log takes up what lasts 10."""
KILLS, MOST_KILLS = 40, 1000
RAISER = """
import os, sys
from pathlib import Path
from culpa.collect.latency_monitor import LatencyMonitor
from culpa.collect.redis_answers import Address
from culpa.collect.redis_link import Link
link = Link(address=Address(host="127.0.0.1", port=int(sys.argv[1])))
for _ in sys.stdin:
    child = os.fork()
    if not child:
        talker = link.connect(silence_seconds=10)
        while True:
            monitor = LatencyMonitor(link, Path(sys.argv[2]))
            monitor.begin(talker, raises=True)
            monitor.restore()
    print(child, flush=True)
    os.waitpid(child, 0)
"""
"""For each line that it reads: a child that raises and restores until it is killed."""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where records are, in this process and in those it starts."""
    monkeypatch.setattr(undo, "ROOTS_STATE", tmp_path / "state" / "culpa")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "culpa"


def noted(capture: Capture) -> dict[str, str]:
    """What the capture has of the monitor, by field; `threshold_ms` only where it is known what it noted."""
    rows = capture.frame(schema.REDIS).filter(pl.col("source").str.starts_with("LATENCY M"))
    return dict(rows.select("field", "value").iter_rows())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[redis.Redis]:
    """One whose monitor is off, as it is by default."""
    data = tmp_path / "data"
    data.mkdir()
    with serving(data, "--save", "") as client:
        yield client


def threshold(client: redis.Redis) -> str:
    """What it is set to."""
    return str(client.config_get(SETTING)[SETTING])


def _all_noted(client: redis.Redis) -> set[str]:
    """What its monitor holds, by event and second, as the server itself says."""
    events = [str(row[0]) for row in client.latency_latest()]
    return {f"{event}.{at}" for event in events for at, _ in client.latency_history(event)}


def _left(directory: Path) -> list[undo.Change]:
    found = []
    for record in undo.left(directory):
        found.append(record.change)
        record.leave()
    return found


def test_what_it_noted_in_the_window_is_evidence(server: redis.Redis, state: Path) -> None:
    """Of a long script; what it had noted before is not. The setting is as before, and said to be so."""
    server.config_set(SETTING, "1")
    server.eval(SCRIPT, 0)
    server.config_set(SETTING, "0")
    earlier = _all_noted(server)
    assert "command" in {name.partition(".")[0] for name in earlier}
    time.sleep(1.1)  # it notes the worst of each second
    quiet = recorded(port_of(server), latency_monitor=True)
    later = _all_noted(server) - earlier  # none as a rule; on a host that is away for a millisecond there may be one
    with ExitStack() as stack:
        keeps_asking(stack, lambda: server.eval(SCRIPT, 0), pause=0.05)
        busy = recorded(port_of(server), latency_monitor=True, for_ns=2 * WINDOW_NS)
    assert threshold(server) == "0"
    assert list(state.iterdir()) == []
    facts = {(row["source"], row["field"]): row["value"] for row in quiet.frame(schema.REDIS).to_dicts()}
    assert facts["LATENCY MONITOR", "threshold_ms"] == "1"
    assert later == {field for source, field in facts if source == "LATENCY HISTORY"}
    verdict = judge(busy)
    noted = [fact for fact in cause(verdict, "redis.script.long").evidence if "monitor noted command" in fact.fact]
    assert len(noted) == 1
    assert isinstance(noted[0].value, float | int)
    assert noted[0].value >= 1
    assert answer(verdict, "redis.monitor.off") == "fired"


def test_a_stall_from_outside_is_said_not_to_be_among_what_it_noted(server: redis.Redis, state: Path) -> None:
    """The server stands still and cannot know it; seen from behind a relay, so that nothing of its host is seen."""
    pid = int(server.info()["process_id"])

    def stop() -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)
        os.kill(pid, signal.SIGCONT)

    with _relay(port_of(server)) as port, ExitStack() as stack:
        keeps_asking(stack, stop, pause=0.3)
        verdict = judge(recorded(port, latency_monitor=True, for_ns=2 * WINDOW_NS))
    assert threshold(server) == "0"
    evidence = cause(verdict, "redis.stall.unattributed").evidence
    assert any("its own latency monitor" in fact.fact or "its latency monitor" in fact.fact for fact in evidence)


@contextmanager
def _relay(port: int) -> Iterator[int]:
    """A port whose connections are passed on to another."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    here, _ = listener.accept()
                except OSError:
                    return
                there = socket.create_connection(("127.0.0.1", port))
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()

        def pass_on(source: socket.socket, sink: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def test_nothing_is_changed_unasked(server: redis.Redis, state: Path) -> None:
    """And what a monitor that is on notes is read all the same."""
    server.config_set(SETTING, "3")
    seen: set[str] = set()
    with ExitStack() as stack:
        keeps_asking(stack, lambda: seen.add(threshold(server)))
        keeps_asking(stack, lambda: server.eval(SCRIPT, 0), pause=0.05)
        capture = recorded(port_of(server))
    assert seen == {"3"}
    assert not state.exists()
    facts = [(row["source"], row["value"]) for row in capture.frame(schema.REDIS).to_dicts()]
    assert ("LATENCY MONITOR", "3") in facts
    assert "LATENCY HISTORY" in {source for source, _ in facts}


RIGHTS = {
    "renamed": (),
    "no-set": ("-config", "+config|get"),
    "no-latency": ("-latency",),
}


@pytest.mark.parametrize("how", list(RIGHTS))
def test_a_server_that_refuses_is_examined_without_it(tmp_path: Path, state: Path, how: str) -> None:
    """A blind spot in words; no record stays."""
    data = tmp_path / "data"
    data.mkdir()
    settings = ("--rename-command", "CONFIG", "") if how == "renamed" else ()
    with serving(data, "--save", "", *settings) as client:
        client.execute_command("ACL", "SETUSER", "some", "on", ">pw", "~*", "+@all", *RIGHTS[how])
        capture = recorded(port_of(client), latency_monitor=True, user="some", password="pw")
        verdict = judge(capture)
    (spot,) = [spot for spot in verdict.blind_spots if "latency monitor would note" in spot.what]
    assert ("+latency" if how == "no-latency" else "+config|set") in spot.way_out
    assert ("NOPERM" in spot.why) == (how == "no-set")
    assert "LATENCY MONITOR" not in capture.frame(schema.REDIS)["source"].to_list() or how == "no-set"
    assert not state.exists() or list(state.iterdir()) == []


def _started(client: redis.Redis, *words: str, seconds: int = 30) -> subprocess.Popen[bytes]:
    """A check-up by the command line, whose monitor is on by now."""
    command = [sys.executable, "-c", _COMMAND_LINE, "redis", f"redis://127.0.0.1:{port_of(client)}", "--no-trace"]
    child = subprocess.Popen(
        [*command, "--for", f"{seconds}s", "--latency-monitor", *words], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env={**os.environ, "CULPA_TEST_STATE": _roots_state()},
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while threshold(client) != "1":
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


_COMMAND_LINE = """
import os, pathlib
from culpa.collect import undo
undo.ROOTS_STATE = pathlib.Path(os.environ["CULPA_TEST_STATE"])
from culpa.cli import main
main()
"""


def _roots_state() -> str:
    return str(undo.ROOTS_STATE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_setting_put_back(server: redis.Redis, state: Path, number: signal.Signals) -> None:
    """And with a verdict on what was seen."""
    child = _started(server)
    assert child.stderr is not None
    while b"sends PING" not in child.stderr.readline():
        assert child.poll() is None
    time.sleep(0.5)
    assert [path.suffix for path in state.iterdir()] == [".undo"]
    child.send_signal(number)
    page, told = child.communicate(timeout=30)
    assert child.returncode == 0, told
    assert page
    assert threshold(server) == "0"
    assert list(state.iterdir()) == []


def test_two_interrupts_put_it_back_as_well(server: redis.Redis, state: Path) -> None:
    """The second ends culpa wherever it is."""
    child = _started(server)
    child.send_signal(signal.SIGINT)
    time.sleep(random.random() * 0.3)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    settle_all(state, but=None)  # where the second came while it was being put back, the next one does it
    assert threshold(server) == "0"
    assert list(state.iterdir()) == []


def test_an_error_in_the_window_puts_it_back(server: redis.Redis, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is."""

    def fails(*_: object) -> None:
        assert threshold(server) == "1"
        raise RuntimeError("as a bug does")

    monkeypatch.setattr("culpa.collect.session._Recording._wait", fails)
    with pytest.raises(RuntimeError, match="as a bug does"):
        recorded(port_of(server), latency_monitor=True)
    assert threshold(server) == "0"
    assert list(state.iterdir()) == []


def test_a_server_that_stands_still_at_the_end_is_put_right_by_the_next_culpa(
    server: redis.Redis, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said that it could not be done."""
    monkeypatch.setattr("culpa.collect.latency_monitor.RESTORE_SECONDS", 0.5)
    monkeypatch.setattr("culpa.collect.checkup.SILENCE_SECONDS", 0.5)
    pid = int(server.info()["process_id"])

    try:
        with once_asked(server, lambda: os.kill(pid, signal.SIGSTOP)):
            capture = recorded(port_of(server), latency_monitor=True)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert [spot for spot in capture.manifest.blind_spots if "is to be 0 again" in spot.what]
    assert threshold(server) == "1"
    recorded(port_of(server))
    assert threshold(server) == "0"
    assert list(state.iterdir()) == []


def test_a_culpa_that_is_killed_is_named_and_the_next_one_puts_it_back(server: redis.Redis, state: Path) -> None:
    """As long as it lives nobody else touches it; afterwards any that watches something does."""
    child = _started(server)
    assert settle_all(state, but=None) == []
    assert _owed() == "none"
    assert threshold(server) == "1"
    child.kill()
    child.communicate()
    assert f"latency-monitor-threshold of 127.0.0.1:{port_of(server)} is to be 0 again" in _owed()
    assert threshold(server) == "1"
    watching = [sys.executable, "-c", _COMMAND_LINE, "why", str(os.getpid()), "--for", "0.3s", "--no-trace"]
    told = subprocess.run(
        watching, capture_output=True, check=True, env={**os.environ, "CULPA_TEST_STATE": _roots_state()}
    )
    assert b"put back what a culpa that was killed had changed" in told.stderr
    assert threshold(server) == "0"
    assert _owed() == "none"


def _owed() -> str:
    (found,) = [check.found for check in checks() if check.name == "changes left behind"]
    return found


@pytest.mark.parametrize("raises", [True, False])
def test_what_it_noted_is_unknown_where_somebody_else_sets_it(server: redis.Redis, state: Path, raises: bool) -> None:
    """In the window; and what they set stays."""
    server.config_set(SETTING, "0" if raises else "5")
    with once_asked(server, lambda: server.config_set(SETTING, "9")):
        capture = recorded(port_of(server), latency_monitor=raises)
    assert {} == noted(capture)
    assert threshold(server) == "9"
    assert not state.exists() or list(state.iterdir()) == []


def test_a_value_that_somebody_else_set_since_is_left_alone(server: redis.Redis, state: Path) -> None:
    """And the record is done with."""
    child = _started(server)
    server.config_set(SETTING, "7")
    child.kill()
    child.communicate()
    settle_all(state, but=None)
    assert threshold(server) == "7"
    assert list(state.iterdir()) == []


def test_killed_at_any_moment_nothing_stays_changed(server: redis.Redis, state: Path) -> None:
    """Forty times, or until one came in between, within what takes a few milliseconds, or as much more as the disk
    takes to note it: written down, raised, put back, forgotten.
    """
    chance, values = random.Random(7), set()
    longest = 0.03 + 2 * _once_raised_seconds(server, state)
    with _raising(port_of(server), state) as raiser:
        assert raiser.stdin is not None
        assert raiser.stdout is not None
        for number in range(MOST_KILLS):
            if number >= KILLS and "1" in values:
                break
            raiser.stdin.write("\n")
            raiser.stdin.flush()
            child = int(raiser.stdout.readline())
            time.sleep(chance.uniform(0.0, longest))
            os.kill(child, signal.SIGKILL)
            while starttime(child) is not None:
                time.sleep(0.001)
            found, owed = threshold(server), _left(state)
            values.add(found)
            assert found == "0" or [change.before for change in owed] == ["0"]
            settle_all(state, but=None)
            assert threshold(server) == "0"
            assert list(state.iterdir()) == []
    assert "1" in values  # else no kill ever came in between


def _once_raised_seconds(client: redis.Redis, state: Path) -> float:
    link = Link(address=Address(host="127.0.0.1", port=port_of(client)))
    talker, monitor = link.connect(silence_seconds=10), LatencyMonitor(link, state)
    began = time.monotonic()
    monitor.begin(talker, raises=True)
    monitor.restore()
    talker.close()
    return time.monotonic() - began


@contextmanager
def _raising(port: int, state: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RAISER, str(port), str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def test_a_server_that_was_restarted_owes_nothing_and_another_one_is_left_alone(tmp_path: Path, state: Path) -> None:
    """The same address: one that began later has lost the setting, one that ran before is somebody else's."""
    data = tmp_path / "data"
    data.mkdir()
    with serving(data, "--save", "") as other:
        port = port_of(other)
        undo.write(_change(port, at_unix=time.time()), state).leave()
        (told,) = settle_all(state, but=None)
        assert "another server answers there" in told
        assert len(_left(state)) == 1
        undo.write(_change(port, run_id="b" * 40, at_unix=time.time() - 3600), state).leave()
        assert len(settle_all(state, but=None)) == 2
        assert [change.run_id for change in _left(state)] == ["a" * 40]
        assert threshold(other) == "0"


def _change(port: int, *, at_unix: float, run_id: str = "a" * 40) -> undo.Change:
    return undo.Change(
        run_id=run_id, setting="latency-monitor-threshold", before="100", during="1", at_unix=at_unix,
        host="127.0.0.1", port=port,
    )  # fmt: skip
