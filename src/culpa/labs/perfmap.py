"""The maps that just-in-time compilers write of their code into /tmp, wherever the program itself is told to write."""

from __future__ import annotations

import os
from pathlib import Path

LIMIT_BYTES = 64 << 20


def mapped(pid: int) -> Path:
    """The map of a process (tools/perf/Documentation/jit-interface.txt of Linux)."""
    return Path(f"/tmp/perf-{pid}.map")  # noqa: S108 - the name is the interface


def of_run(pid: int, run: str) -> Path | None:
    """The map of a process that a run started, if it is there and names a file of that run."""
    try:
        with os.fdopen(os.open(mapped(pid), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return mapped(pid) if f"/{run}/".encode() in file.read(LIMIT_BYTES) else None
    except OSError:
        return None
