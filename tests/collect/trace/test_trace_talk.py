"""What is said on sockets is seen at both ends, whatever call it is said with."""

from __future__ import annotations

import polars as pl
import pytest
from tracing import TALK, traced, tracer
from watched_children import Spawn, go, line_of, run

pytestmark = [pytest.mark.root, pytest.mark.trace]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_both_ends_of_a_conversation(spawn: Spawn, kind: str) -> None:
    """Each of 50 requests and replies is seen once at both ends of the connection, and what was said in it."""
    child = spawn(TALK, kind, "50")
    go(child)
    here, there = map(int, line_of(child).split())
    peer = int(line_of(child))
    with tracer(child.pid, peer) as running:
        run(child)
        result = running.stop()
    messages = result.tables["messages"]
    said = ("direction", "protocol", "kind", "verb", "detail", "status", "bytes")
    client = messages.filter(pl.col("pid") == child.pid, pl.col("ino") == here)
    assert client.group_by(said).len().sort("direction").rows() == [
        ("in", "resp", "response", None, None, 0, 5, 50),
        ("out", "resp", "request", "GET", "key:*", None, 25, 50),
    ]
    server = messages.filter(pl.col("pid") == peer, pl.col("ino") == there)
    assert [("in", 50), ("out", 50)] == server.group_by("direction").len().sort("direction").rows()
    sockets = {row["ino"]: row for row in result.tables["sockets"].iter_rows(named=True)}
    assert (there, here) == (sockets[here]["peer_ino"], sockets[there]["peer_ino"])
    assert kind == sockets[here]["family"]
    if kind == "tcp":
        assert ("127.0.0.1", sockets[there]["peer_port"]) == (sockets[here]["local_addr"], sockets[here]["local_port"])


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_peer_is_watched_once_it_has_woken_the_watched(spawn: Spawn, kind: str) -> None:
    """It is not named, and need not wake a thread that still runs: what it said before that is missing."""
    child = spawn(TALK, kind, "50")
    go(child)
    line_of(child)
    peer = int(line_of(child))
    with tracer(child.pid) as running:
        run(child)
        running.snapshot()
        assert peer in running.watched()
        result = running.stop()
    server = result.tables["messages"].filter(pl.col("pid") == peer)
    assert 25 <= len(server.filter(direction="in")) <= 50
    assert 25 <= len(server.filter(direction="out")) <= 50
    assert len(result.tables["offcpu"].filter(tid=child.pid, state=1, waker_pid=peer)) >= 1


def test_writev_heads_are_read(spawn: Spawn) -> None:
    """A head and a body in two pieces, by writev and by sendmsg, are one message that begins with the head."""
    child = spawn("""
import os, socket
a, b = socket.socketpair()
c, d = socket.socketpair()
for _ in range(3):
    os.writev(c.fileno(), [b'HTTP/1.1 200 OK\\r\\n', b'Content-Length: 3\\r\\n\\r\\nabc'])
    a.sendmsg([b'$100', b'0\\r\\n' + b'x' * 1000, b'\\r\\n'])
""")
    messages = traced(child).tables["messages"].filter(pid=child.pid)
    assert messages.group_by("protocol", "kind", "status", "bytes").len().sort("bytes").rows() == [
        ("http", "response", 200, 41, 3),
        ("resp", "response", 0, 1009, 3),
    ]


def test_peeked_bytes_are_not_counted(spawn: Spawn) -> None:
    """Bytes that are looked at and then read are one message."""
    child = spawn("""
import socket
a, b = socket.socketpair()
a.send(b'+OK\\r\\n')
b.recv(100, socket.MSG_PEEK); b.recvmsg(100, 0, socket.MSG_PEEK); b.recv(100)
""")
    messages = traced(child).tables["messages"].filter(pid=child.pid)
    assert ["in", "out"] == sorted(messages["direction"])


def test_two_datagrams_of_one_call_are_one_message(spawn: Spawn) -> None:
    """glibc's resolver asks for both kinds of address by one sendmmsg."""
    child = spawn("""
import ctypes, socket
class Piece(ctypes.Structure): _fields_ = [('base', ctypes.c_char_p), ('bytes', ctypes.c_size_t)]
class Head(ctypes.Structure):
    _fields_ = [('name', ctypes.c_void_p), ('name_bytes', ctypes.c_uint), ('pieces', ctypes.POINTER(Piece)),
                ('count', ctypes.c_size_t), ('control', ctypes.c_void_p), ('control_bytes', ctypes.c_size_t),
                ('flags', ctypes.c_int), ('pad', ctypes.c_int), ('sent', ctypes.c_uint), ('end', ctypes.c_uint)]
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
pieces = [Piece(text, len(text)) for text in (b'x' * 30, b'y' * 70)]
heads = (Head * 2)(*(Head(None, 0, ctypes.pointer(piece), 1, None, 0, 0) for piece in pieces))
assert ctypes.CDLL(None).sendmmsg(a.fileno(), heads, 2, 0) == 2
b.recv(100); b.recv(100)
""")
    messages = traced(child).tables["messages"].filter(pid=child.pid)
    said = messages.select("direction", "bytes").sort("direction", "bytes").rows()
    assert [("in", 30), ("in", 70), ("out", 100)] == said


@pytest.mark.parametrize(("port", "known"), [(53, True), (5353, False)])
def test_an_unconnected_datagram_to_a_name_server_says_where_to(spawn: Spawn, port: int, known: bool) -> None:
    """Resolvers such as musl's give the address with each message; other sockets of that kind talk to many."""
    child = spawn(f"""
import socket
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.sendto(b'question', ('127.0.0.53', {port}))
""")
    sockets = traced(child).tables["sockets"].filter(family="udp", pid=child.pid)
    expected = ("127.0.0.53", 53) if known else (None, None)
    assert [expected] == sockets.select("peer_addr", "peer_port").rows()
