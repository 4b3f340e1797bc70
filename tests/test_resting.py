"""Clients that wait for the whole window: idle where nobody owes them an answer, and not to be called so otherwise."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from whole_runs import needs_tracing, why

from culpa.collect.sockdiag import tcp_talk

pytestmark = [
    pytest.mark.root,
    pytest.mark.trace,
    needs_tracing,
]

SERVER = """
import select, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
held = []
while True:
    for one in select.select([listener, *held], [], [])[0]:
        if one is listener:
            held.append(listener.accept()[0])
        elif one.recv(100) == b"answer me":
            one.sendall(b"done")
"""
CLIENT = """
import select, socket, sys, time
server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
server.sendall(b"answer me")
server.recv(100)
time.sleep(0.1)
if sys.argv[2] == "asks":
    server.sendall(b"say nothing")
print("up", flush=True)
watched = select.epoll()
watched.register(server, select.EPOLLIN)
watched.poll()
"""


@contextmanager
def program(code: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """A Python program until the block ends: its pid, and its first line."""
    running = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        yield running.pid, running.stdout.readline().strip()
    finally:
        running.kill()
        running.communicate()


def verdict_on(manner: str) -> dict[str, Any]:
    """What culpa says of a client that waits for a server which waits too."""
    with program(SERVER) as (_, port), program(CLIENT, port, manner) as (pid, _):
        time.sleep(0.5)
        return why(str(pid), "--for", "1s")


def test_a_client_that_has_its_answer_is_idle() -> None:
    """Its connection is open, its server has nothing to do: nothing is slow."""
    verdict = verdict_on("rests")
    assert ("not-slow", []) == (verdict["state"], verdict["causes"])
    assert verdict["root"]["seconds"] < 0.1


def test_a_client_that_is_owed_an_answer_is_not_called_idle() -> None:
    """It asked before culpa looked, and nobody answers."""
    verdict = verdict_on("asks")
    assert "unknown" == verdict["state"]
    assert verdict["root"]["seconds"] > 0.9


def test_a_connection_tells_which_way_it_last_moved_data() -> None:
    """Asked and not answered: sent later than received; nothing yet: neither."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        client_ino, server_ino = (one_inode(one) for one in (client, server))
        fresh = tcp_talk()[client_ino]
        assert (None, None) == (fresh.sent_ms, fresh.received_ms)
        client.sendall(b"question")
        server.recv(100)
        server.sendall(b"answer")
        client.recv(100)
        time.sleep(0.1)
        client.sendall(b"another")
        time.sleep(0.05)
        asked, owes = tcp_talk()[client_ino], tcp_talk()[server_ino]
    assert asked.sent_ms is not None
    assert asked.received_ms is not None
    assert asked.received_ms - asked.sent_ms >= 80
    assert owes.received_ms is not None
    assert owes.sent_ms is not None
    assert owes.sent_ms - owes.received_ms >= 80


def one_inode(one: socket.socket) -> int:
    """The inode of a socket."""
    return os.fstat(one.fileno()).st_ino
