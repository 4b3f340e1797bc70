"""Requests over connections that are not plain: the time stays with whoever spent it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from whole_runs import needs_tracing, why

pytestmark = [
    pytest.mark.root,
    pytest.mark.trace,
    needs_tracing,
]

PAUSE_SECONDS = 0.25
SERVER = f"""
import http.server, socket, ssl, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep({PAUSE_SECONDS})
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (b"some", b"words"):
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(part), part))
            self.wfile.write(b"0\\r\\n\\r\\n")
        else:
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if len(sys.argv) > 1:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[int, int]]:
    """The server until the block ends: its pid and port."""
    running = subprocess.Popen([sys.executable, "-c", SERVER, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        yield running.pid, int(running.stdout.readline())
    finally:
        running.kill()
        running.communicate()


def test_a_request_over_tls_is_its_server_s_time(tmp_path: Path) -> None:
    """The handshake is a part of the request, and the sleep after it is not taken for the way back."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    with serving(certificate, key) as (pid, port):
        verdict = why("-k", f"https://127.0.0.1:{port}/")
    head = verdict["causes"][0]
    assert ("sleep.by-choice", pid) == (head["id"], head["who"]["pid"])
    assert head["share"] > 0.8
    assert verdict["observed"]["p50"] >= PAUSE_SECONDS


def test_an_answer_in_chunks_is_one_answer() -> None:
    """Each chunk is a write of its own."""
    with serving() as (pid, port):
        verdict = why(f"http://127.0.0.1:{port}/chunked")
    head = verdict["causes"][0]
    assert ("sleep.by-choice", pid) == (head["id"], head["who"]["pid"])
    assert head["share"] > 0.8


PASSED_ON = f"""
import os, socket, time
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
port = socket.create_server(("127.0.0.1", 0))
worker = os.fork()
if worker == 0:
    port.close()
    while True:
        _, fds, _, _ = socket.recv_fds(there, 1, 1)
        with socket.socket(fileno=fds[0]) as client:
            client.recv(4096)
            time.sleep({PAUSE_SECONDS})
            client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
print(port.getsockname()[1], worker, flush=True)
while True:
    client, _ = port.accept()
    socket.send_fds(here, [b"."], [client.fileno()])
    client.close()
"""


def test_a_connection_that_is_passed_on_is_served_by_whoever_got_it() -> None:
    """One process accepts and hands the descriptor over a unix socket; another one reads, sleeps and answers."""
    with subprocess.Popen([sys.executable, "-c", PASSED_ON], stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        port, worker = (int(word) for word in front.stdout.readline().split())
        try:
            verdict = why(f"http://127.0.0.1:{port}/")
        finally:
            front.kill()
            os.kill(worker, signal.SIGKILL)
    head = verdict["causes"][0]
    assert ("sleep.by-choice", worker) == (head["id"], head["who"]["pid"])
    assert head["share"] > 0.8


BEHIND = f"""
import http.server, os, socket, sys, time
def helper(listener):
    peer, _ = listener.accept()
    while peer.recv(100):
        time.sleep({PAUSE_SECONDS})
        peer.sendall(b"done")
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
child = os.fork()
if child == 0:
    helper(listener)
    os._exit(0)
listener.close()
asked = socket.socket(socket.AF_UNIX)
asked.connect(sys.argv[1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked.sendall(b"please")
        body = asked.recv(100)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], child, flush=True)
server.serve_forever()
"""


def test_an_answer_over_a_unix_socket_is_its_sender_s_time(tmp_path: Path) -> None:
    """The service asks a process of its own at a socket with a name, over a connection older than the window."""
    argv = [sys.executable, "-c", BEHIND, tmp_path / "socket"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        port, helper = (int(word) for word in service.stdout.readline().split())
        try:
            verdict = why(f"http://127.0.0.1:{port}/")
        finally:
            service.kill()
            os.kill(helper, signal.SIGKILL)
    head = verdict["causes"][0]
    assert ("sleep.by-choice", helper) == (head["id"], head["who"]["pid"])
    assert head["share"] > 0.8
