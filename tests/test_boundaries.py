"""Requests over connections that are not plain: the time stays with whoever spent it."""

from __future__ import annotations

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
