"""Real processes in known states, for tests that hold /proc against what was made."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DEADLINE_SECONDS = 10
PATIENCE_SECONDS = 60


def wait_until(true: Callable[[], bool], *, pause_seconds: float = 0.005) -> None:
    """Ask until it is true; fail at the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < end, "did not become true in time"
        time.sleep(pause_seconds)


def state_of(pid: int) -> str:
    """The state letter that ps shows, as the independent truth."""
    return subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()[:1]


def states_of_threads(pid: int) -> list[str]:
    """The same of each of its threads."""
    told = subprocess.run(["ps", "-L", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout
    return [state[:1] for state in told.split()]


def descriptors() -> set[str]:
    """Numbers of the open descriptors here, without those of objects that nobody holds any more."""
    gc.collect()
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


@contextlib.contextmanager
def running(code: str, *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A Python child that runs `code` after it wrote a line on stdout; killed at the end."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-u", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def line_of(child: subprocess.Popen[str]) -> str:
    """The next line of its stdout; empty where it has ended, and a failure where it says nothing."""
    assert child.stdout is not None
    line = b""
    while not line.endswith(b"\n"):  # past Python's buffer, which select does not see
        ready, _, _ = select.select([child.stdout], [], [], PATIENCE_SECONDS)
        assert ready, "the child says nothing"
        letter = os.read(child.stdout.fileno(), 1)
        if not letter:
            break
        line += letter
    return line.decode().strip()


UNINTERRUPTIBLE = """
import os, sys
print("up")
os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)])
sys.stdin.readline()
"""
"""Its main thread is in state D: vfork makes the parent wait, and its child waits to open a FIFO without writer."""


@contextlib.contextmanager
def uninterruptible(folder: Path) -> Iterator[int]:
    """The pid of a process in state D until the block ends."""
    fifo = folder / "gate"
    os.mkfifo(fifo)
    with running(UNINTERRUPTIBLE, str(fifo)) as child:
        line_of(child)
        wait_until(lambda: state_of(child.pid) == "D")
        try:
            yield child.pid
        finally:
            os.close(os.open(fifo, os.O_WRONLY))


@contextlib.contextmanager
def network_namespace(name: str) -> Iterator[str]:
    """A network namespace `culpa-test-NAME` with loopback up; deleted at the end. Needs root."""
    full = f"culpa-test-{name}-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", full], check=True)
    try:
        subprocess.run(["ip", "-n", full, "link", "set", "lo", "up"], check=True)
        yield full
    finally:
        subprocess.run(["ip", "netns", "del", full], check=True)
