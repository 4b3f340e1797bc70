"""Clients and replicas of real servers: connections that come and go, unread answers, copies, a late replica."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from servers import EACH_SERVER, answer, cause, examined, in_memory, needs_redis, once_asked, port_of, serving
from test_states import SOUND, keeps_asking

pytestmark = [pytest.mark.redis, needs_redis]

EACH = pytest.mark.parametrize("program", EACH_SERVER)
CHURN, BUFFERS = "redis.clients.churn", "redis.mem.client-buffers"
RESYNC, LAG = "redis.repl.full-resync", "redis.repl.lag"
WINDOW_NS = 3_000_000_000
AHEAD = 30_000_000


@EACH
def test_a_connection_for_each_command_is_told(tmp_path: Path, program: str) -> None:
    """The same commands over one connection are not; nor are as many connections that stay."""
    with serving(tmp_path, *SOUND, program=program) as client:
        port = port_of(client)

        def once() -> None:
            with redis.Redis(port=port) as one:
                one.get("a")

        with ExitStack() as stack:
            for _ in range(2):
                keeps_asking(stack, once, pause=0.004)
            churning = examined(client, for_ns=WINDOW_NS)
        with ExitStack() as stack:
            kept = stack.enter_context(redis.Redis(port=port))
            keeps_asking(stack, lambda: kept.get("a"), pause=0.004)
            pooled = examined(client, for_ns=WINDOW_NS)
        with ExitStack() as stack:
            keeps_asking(stack, lambda: stack.callback(_connected(port).close), pause=0.004)
            growing = examined(client, for_ns=WINDOW_NS)
    assert ["fired", "clear", "clear"] == [answer(one, CHURN) for one in (churning, pooled, growing)]
    found = cause(churning, CHURN)
    assert "note" == found.level
    assert any(fact.source.startswith("/proc/net/snmp") for fact in found.evidence)


def _connected(port: int) -> redis.Redis:
    one = redis.Redis(port=port)
    one.ping()
    return one


@EACH
def test_answers_that_nobody_reads_are_told_where_memory_is_short_of_them(tmp_path: Path, program: str) -> None:
    """The same ones where there is much memory are none of its business; nor is a full cache with clients that read."""
    with serving(tmp_path, *SOUND, program=program) as client, ExitStack() as stack:
        client.set("large", "x" * 1_000_000)
        sound = examined(client)
        deaf = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(client))))
        deaf.sendall(b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n" * 60)
        deadline = time.monotonic() + 10
        while int(client.info("memory")["mem_clients_normal"]) < 30_000_000 and time.monotonic() < deadline:
            time.sleep(0.05)
        client.config_set("maxmemory", "100mb")
        short = examined(client)
        client.config_set("maxmemory", "4gb")
        wide = examined(client)
    assert ["clear", "fired", "clear"] == [answer(one, BUFFERS) for one in (sound, short, wide)]
    assert any("CLIENT LIST" in fact.source for fact in cause(short, BUFFERS).evidence)


@contextmanager
def _alone(program: str) -> Iterator[tuple[redis.Redis, redis.Redis]]:
    """Two servers that know nothing of each other."""
    with ExitStack() as stack:
        directory = stack.enter_context(in_memory())  # a disk may take longer for a copy than the window is
        for name in ("primary", "replica"):
            (directory / name).mkdir()
        quick = ("--repl-diskless-sync", "no")
        primary = stack.enter_context(serving(directory / "primary", *SOUND, *quick, program=program))
        replica = stack.enter_context(serving(directory / "replica", "--save", "", program=program))
        yield primary, replica


def _wait_until_joined(replica: redis.Redis) -> None:
    deadline = time.monotonic() + 30
    while replica.info("replication").get("master_link_status") != "up":
        assert time.monotonic() < deadline, "the replica gets no copy"
        time.sleep(0.05)


@contextmanager
def _stopped(client: redis.Redis) -> Iterator[None]:
    pid = int(client.info()["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@EACH
def test_copies_that_nobody_keeps_are_told(program: str, tmp_path: Path) -> None:
    """Somebody who asks for a full copy and is gone, again and again; the first copy of a new replica is no news."""
    with serving(tmp_path, *SOUND, "--repl-diskless-sync", "no", program=program) as client, ExitStack() as stack:
        keeps_asking(stack, lambda: _ask_for_all(port_of(client)), pause=0.4)
        again = examined(client, for_ns=2 * WINDOW_NS)
    with _alone(program) as (primary, replica):

        def join() -> None:
            replica.execute_command("REPLICAOF", "127.0.0.1", str(port_of(primary)))

        with once_asked(primary, join):
            first = examined(primary, for_ns=WINDOW_NS)
        _wait_until_joined(replica)
    assert ["fired", "clear"] == [answer(one, RESYNC) for one in (again, first)]
    found = cause(again, RESYNC)
    assert "note" == found.level
    assert any("cutime" in fact.source for fact in found.evidence)


def _ask_for_all(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(b"SYNC\r\n")
        time.sleep(0.2)


@EACH
def test_a_replica_that_is_far_behind_is_told(program: str) -> None:
    """One that is stopped while much is written; once it goes on it has all of it."""
    with _alone(program) as (primary, replica):
        replica.execute_command("REPLICAOF", "127.0.0.1", str(port_of(primary)))
        _wait_until_joined(replica)
        time.sleep(1.5)  # it says how far it is once a second
        sound = examined(primary)
        with _stopped(replica):
            for _ in range(AHEAD // 1_000_000):
                primary.set("k", "x" * 1_000_000)
            behind = examined(primary)
        deadline = time.monotonic() + 30
        while _offset(replica, "slave_repl_offset") < _offset(primary, "master_repl_offset"):
            assert time.monotonic() < deadline, "the replica does not catch up"
            time.sleep(0.1)
        time.sleep(1.2)
        caught_up = examined(primary)
    assert ["clear", "fired", "clear"] == [answer(one, LAG) for one in (sound, behind, caught_up)]
    assert "note" == cause(behind, LAG).level


def _offset(client: redis.Redis, field: str) -> int:
    return int(client.info("replication")[field])
