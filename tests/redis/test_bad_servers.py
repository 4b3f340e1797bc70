"""Servers that refuse, lie, flood, fall silent or are none: a sentence or a blind spot, never a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from hosttime import above_a_note, measured
from servers import answer, examined, free_port, needs_redis, once_asked, port_of, recorded, serving

from culpa.capture import schema
from culpa.collect.redis_answers import Address, Credentials, NotAnswered, ask
from culpa.diagnose.judge import judge
from culpa.errors import CulpaError

pytestmark = pytest.mark.redis

Serve = Callable[[socket.socket], None]


@contextmanager
def pretending(serve: Serve) -> Iterator[int]:
    """Something that listens and answers each connection with `serve`; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_guarded, args=(serve, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _guarded(serve: Serve, connection: socket.socket) -> None:
    with connection:
        try:
            serve(connection)
        except OSError:
            return  # culpa hung up, which is what it should do


def _http(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def _flood(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"$524288000\r\n")
    for _ in range(500):
        connection.sendall(b"x" * 1_048_576)


def _falls_silent(connection: socket.socket) -> None:
    """Answers the first question in part, and then nothing."""
    connection.recv(65536)
    connection.sendall(b"$5000\r\nredis_version:7.0")
    time.sleep(30)


def _nested(connection: socket.socket) -> None:
    """A list in a list in a list, without end."""
    connection.recv(4096)
    connection.sendall(b"*1\r\n" * 100_000)


def _hangs_up(connection: socket.socket) -> None:
    connection.recv(100)


def _nothing_but_errors(connection: socket.socket) -> None:
    """As a server that loads its data: every command has the same answer."""
    while data := connection.recv(65536):
        connection.sendall(b"-LOADING Redis is loading the dataset in memory\r\n" * data.count(b"*"))


def _lies(connection: socket.socket) -> None:
    """Speaks the protocol and means nothing by it: numbers for texts, lists for numbers, control characters."""
    odd = (b":17\r\n", b"*2\r\n$4\r\nhz\x1b[\r\n$-1\r\n", b"$6\r\na:\x1b\n\r\r\r\n", b"*-1\r\n", b"+OK\r\n")
    count = 0
    while data := connection.recv(65536):
        for _ in range(data.count(b"*")):
            connection.sendall(odd[count % len(odd)])
            count += 1


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (_http, "does not answer as a Redis does"),
        (_flood, "longer than any"),
        (_hangs_up, "does not answer as a Redis does"),
        (_nested, "does not answer as a Redis does"),
    ],
    ids=["http", "flood", "hangs-up", "nested"],
)
def test_what_is_no_redis_is_told_in_a_sentence(serve: Serve, words: str) -> None:
    """And soon."""
    began = time.monotonic()
    with pretending(serve) as port, pytest.raises(CulpaError, match=words):
        recorded(port)
    assert time.monotonic() - began < 10


def test_nobody_there_is_told_in_a_sentence() -> None:
    """With what to do about it."""
    with pytest.raises(CulpaError, match=r"nobody listens there.*start the server"):
        recorded(free_port())


def test_a_server_that_falls_silent_in_the_middle_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that a reply may take."""
    monkeypatch.setattr("culpa.collect.checkup.SILENCE_SECONDS", 1.0)
    with pretending(_falls_silent) as port, pytest.raises(CulpaError, match="stopped answering"):
        recorded(port)


@pytest.mark.parametrize("serve", [_nothing_but_errors, _lies], ids=["loading", "lies"])
def test_a_server_that_says_nothing_of_use_leaves_blind_spots(serve: Serve) -> None:
    """Every check that it would have had to answer is skipped, and none fires."""
    with pretending(serve) as port:
        verdict = judge(recorded(port))
    fired = {check.id for check in verdict.checks if check.answer == "fired"}
    assert fired <= {"redis.stall.unattributed"}
    skipped = {check.id for check in verdict.checks if check.answer == "skipped"}
    assert {"redis.expire.burst", "redis.monitor.off", "redis.evict.refuse"} <= skipped
    assert verdict.blind_spots


def test_a_server_beside_the_target_that_answers_without_end_is_a_blind_spot() -> None:
    """The same for who is asked in passing."""
    with pretending(_nested) as port, pytest.raises(NotAnswered, match="does not answer as a Redis does"):
        ask(Address(host="127.0.0.1", port=port), Credentials())


@needs_redis
def test_a_wrong_password_is_told_and_not_repeated(tmp_path: Path) -> None:
    """The sentence does not hold it."""
    with serving(tmp_path, "--requirepass", "right") as client, pytest.raises(CulpaError) as told:
        recorded(port_of(client), password="wrong-one")
    assert "refuses this user or password" in str(told.value)
    assert "wrong-one" not in str(told.value)


@needs_redis
def test_a_user_who_may_do_little_sees_little(tmp_path: Path) -> None:
    """NOPERM per command: what needs it is skipped, the rest is looked at."""
    with serving(tmp_path) as client:
        client.acl_setuser("few", enabled=True, passwords=["+pw"], commands=["+ping", "+info"], keys=["*"])
        verdict = judge(recorded(port_of(client), user="few", password="pw"))
    assert answer(verdict, "redis.monitor.off") == "skipped"
    assert answer(verdict, "redis.expire.burst") == "clear"
    refused = {spot.what: spot.why for spot in verdict.blind_spots}
    assert "NOPERM" in refused["what CONFIG tells"]
    assert "NOPERM" in refused["what SLOWLOG tells"]


@needs_redis
def test_a_server_whose_config_is_renamed_is_examined_all_the_same(tmp_path: Path) -> None:
    """As managed servers are."""
    with serving(tmp_path, "--rename-command", "CONFIG", "") as client:
        verdict = examined(client)
    assert answer(verdict, "redis.monitor.off") == "skipped"
    assert answer(verdict, "redis.mem.no-limit") == "fired"
    assert all(fix.argv is None for cause in verdict.causes for fix in cause.fixes if fix.id.startswith("redis-"))


@needs_redis
def test_a_server_that_is_killed_in_the_window_ends_as_a_blind_spot(tmp_path: Path) -> None:
    """What was seen before is judged."""
    with serving(tmp_path) as client:
        pid = int(client.info()["process_id"])
        with measured(client) as kept, once_asked(client, lambda: os.kill(pid, signal.SIGKILL), after=30):
            verdict = judge(recorded(port_of(client), for_ns=3_000_000_000))
    assert any("says about itself" in spot.what or "waits for the server" in spot.what for spot in verdict.blind_spots)
    assert set() == above_a_note(verdict, kept)


@needs_redis
def test_nothing_is_changed_and_keys_stay_unnamed(tmp_path: Path) -> None:
    """Settings and keys are as they were; a key with a binary name is counted and not kept."""
    with serving(tmp_path) as client:
        raw = redis.Redis(port=port_of(client))
        raw.set(b"\xff\x00secret-\x1b[2J", b"x" * 200_000)
        before = client.config_get("*"), client.dbsize()
        capture = recorded(port_of(client))
        after = client.config_get("*"), client.dbsize()
        raw.close()
    assert before == after
    kept = " ".join(str(value) for value in capture.frame(schema.REDIS)["value"].to_list())
    assert "\x1b" not in kept


@needs_redis
def test_the_command_line_says_it_in_one_line() -> None:
    """Exit code 1 and one sentence for a server that is not there, 2 for what is no Redis URL."""
    gone = subprocess.run(
        [sys.executable, "-m", "culpa", "redis", f"redis://127.0.0.1:{free_port()}"], capture_output=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    wrong = subprocess.run(
        [sys.executable, "-m", "culpa", "redis", "http://127.0.0.1/"], capture_output=True, check=False
    )
    assert (gone.returncode, wrong.returncode) == (1, 2)
    for told in (gone, wrong):
        assert told.stderr.count(b"\n") == 1
        assert b"Traceback" not in told.stderr
