"""Children that do exactly known things while they are traced: started, told to go, waited for with a deadline."""

from __future__ import annotations

import gc
import os
import select
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Child = subprocess.Popen[str]
Spawn = Callable[..., Child]

GO = "import sys; print('ready', flush=True); sys.stdin.readline()\n"
DONE = "\nprint('done', flush=True); sys.stdin.readline()\n"
PATIENCE_SECONDS = 30.0


def line_of(child: Child) -> str:
    """The next line the child prints; fails if none comes."""
    assert child.stdout is not None
    line = b""
    while not line.endswith(b"\n"):  # past Python's buffer, which select does not see
        ready, _, _ = select.select([child.stdout], [], [], PATIENCE_SECONDS)
        assert ready, "the child says nothing"
        letter = os.read(child.stdout.fileno(), 1)
        assert letter, "the child has ended"
        line += letter
    return line.decode().rstrip("\n")


def run(child: Child) -> None:
    """Let the child's code run, and wait until it is done."""
    go(child)
    assert line_of(child) == "done"


def go(child: Child) -> None:
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


def sleeps_in(pid: int, place: str, tid: int | None = None) -> bool:
    """Whether a thread (by default the first) sleeps in a function of the kernel whose name has that in it."""
    return place in Path(f"/proc/{pid}/task/{tid or pid}/wchan").read_text()


def open_fds() -> set[str]:
    """What this process's descriptors lead to, one entry per descriptor; not those of objects that nobody holds."""
    gc.collect()
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(f"{link.name} {link.readlink()}")
    return found
