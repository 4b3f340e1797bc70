"""Whole runs of `culpa why` on programs made for the occasion, and what a verdict says of them: shared by tests."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from culpa.collect.trace.tracer import usable

needs_tracing = pytest.mark.skipif(usable() is not None, reason=f"tracing is impossible here: {usable()}")


def why(*arguments: str, expected: int = 0) -> dict[str, Any]:
    """The verdict as a script gets it."""
    done = subprocess.run(
        [sys.executable, "-m", "culpa", "why", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert expected == done.returncode, done.stderr
    return json.loads(done.stdout)


def every(node: dict[str, Any]) -> list[dict[str, Any]]:
    """A blame tree's nodes."""
    return [node, *(below for child in node["children"] for below in every(child))]


SERVER = """
    import hashlib, http.server, os, queue, subprocess, sys, threading, time
    PAGES = {}
    def page(function):
        PAGES["/" + function.__name__] = function
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            body = str(PAGES.get(self.path, int)()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *arguments): pass
    def hashed(rounds=120_000):
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", rounds)
    def serve(kind):
        kind(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

LOOP = """
    import asyncio, hashlib, sys
    def hashed(): hashlib.pbkdf2_hmac("sha256", b"a", b"b", 120_000)
    async def serve(reader, writer):
        try:
            while head := await reader.readuntil(b"\\r\\n\\r\\n"):
                if head.startswith(b"GET /hash "):
                    await asyncio.get_running_loop().run_in_executor(None, hashed)
                writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nup")
        except asyncio.IncompleteReadError:
            writer.close()
    async def main():
        await (await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))).serve_forever()
    asyncio.run(main())
"""


@contextmanager
def running(argv: list[str], path: Path, source: str) -> Iterator[str]:
    """A server made of a source; its address once it answers."""
    path.write_text(textwrap.dedent(source))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([*argv, str(path), str(port)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 20
            while not _answers(f"http://127.0.0.1:{port}/"):
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def python(folder: Path, body: str) -> Iterator[str]:
    """A Python server with the pages of `body`."""
    source = textwrap.dedent(SERVER) + textwrap.dedent(body)
    with running([sys.executable], folder / "server.py", source) as url:
        yield url


@contextmanager
def beside(program: str, *arguments: str) -> Iterator[int]:
    """Another process, of a Python program; its id."""
    argv = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
        try:
            yield other.pid
        finally:
            other.kill()


@contextmanager
def asking(url: str, clients: int) -> Iterator[None]:
    """Other clients, which never stop asking."""
    asker = f"from urllib.request import urlopen\nwhile True: urlopen({url!r}).read()"
    with ExitStack() as others:
        started = [
            others.enter_context(subprocess.Popen([sys.executable, "-c", asker], stderr=subprocess.DEVNULL))
            for _ in range(clients)
        ]
        try:
            yield
        finally:
            for other in started:
                other.kill()


def share(verdict: dict[str, Any], above: Callable[[dict[str, Any]], bool], *kinds: str) -> float:
    """The share of nodes of some kinds below the uppermost nodes that `above` accepts, of the time that is waited."""
    return sum(_below(node, kinds) for node in _tops(verdict["blame"], above)) / waited(verdict, above)


def waited(verdict: dict[str, Any], above: Callable[[dict[str, Any]], bool] = lambda _: False) -> float:
    """The share of the root that is waited, or accepted by `above`.

    What a busy host takes, before the request is read or while its own thread wants a CPU, is not part of the truth.
    """
    top = verdict["blame"]["children"]
    own = [n for n in top if n["kind"] in ("running", "runnable") or n["label"].startswith("queued at")]
    return 1 - sum(node["share"] for node in own if not list(_tops(node, above)))


def _tops(node: dict[str, Any], above: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    if above(node):
        yield node
    else:
        for child in node["children"]:
            yield from _tops(child, above)


def _below(node: dict[str, Any], kinds: tuple[str, ...]) -> float:
    if node["kind"] in kinds:
        return float(node["share"])
    return sum(_below(child, kinds) for child in node["children"])


def unexplained(verdict: dict[str, Any]) -> float:
    """The share of the leaves that say that they do not know."""
    return sum(node["share"] for node in every(verdict["blame"]) if node["kind"] == "unexplained")
