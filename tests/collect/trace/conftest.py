"""What the tracer's tests share: children that do exactly known things, and the check that tracing works here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from culpa.collect.trace.tracer import usable

Spawn = Callable[..., subprocess.Popen[str]]

GO = "import sys; print('ready', flush=True); sys.stdin.readline()\n"
DONE = "\nprint('done', flush=True); sys.stdin.readline()\n"


@pytest.fixture(autouse=True)
def _trace_works_here(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("trace") and (error := usable()):
        pytest.skip(f"tracing is impossible here: {error}")


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a Python child that says `ready`, waits for a line, runs the code, says `done` and waits again."""
    children: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", GO + code + DONE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def run(child: subprocess.Popen[str]) -> None:
    """Let the child's code run, and wait until it is done."""
    go(child)
    assert child.stdout is not None
    assert child.stdout.readline() == "done\n"


def go(child: subprocess.Popen[str]) -> None:
    """Let the child's code begin."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Ask again and again until it holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def open_fds() -> set[str]:
    """What this process's descriptors lead to, one entry per descriptor."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return found
