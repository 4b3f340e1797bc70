"""A Python program whose two threads sleep in a line that is known, and the py-spy that is to find it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from living import wait_until

from culpa.collect.pyspy import find_pyspy

PROGRAM = """\
import os, threading, time

def innermost():
    os.write(1, b"ready\\n")
    time.sleep(60)  # the line to find

def caller():
    innermost()

threading.Thread(target=caller, daemon=True).start()
caller()
"""
LINE = PROGRAM.split("\n").index("    time.sleep(60)  # the line to find") + 1


@contextlib.contextmanager
def asleep(path: Path) -> Iterator[int]:
    """The program, written to `path` and running, both threads in their sleep: its pid."""
    path.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        wait_until(lambda: all(b"nanosleep" in place for place in places(process.pid)))
        yield process.pid
        process.kill()


def places(pid: int) -> list[bytes]:
    """Where in the kernel each thread of a process sleeps."""
    return [(thread / "wchan").read_bytes() for thread in Path(f"/proc/{pid}/task").iterdir()]


def binary() -> Path:
    """The installed py-spy."""
    found = find_pyspy()
    assert found is not None
    return found
