"""Real processes in known states, for tests that hold /proc against what was made."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DEADLINE_SECONDS = 10


def wait_until(true: Callable[[], bool]) -> None:
    """Ask until it is true; fail at the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < end, "did not become true in time"
        time.sleep(0.005)


def state_of(pid: int) -> str:
    """The state letter that ps shows, as the independent truth."""
    return subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()[:1]


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
    """The next line of its stdout."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


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
