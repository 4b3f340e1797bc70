"""How long until something happens: `culpa --help`, and attaching the probes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from measure import Effort, Row, at_most, median_row

from culpa.collect.trace.tracer import Tracer, usable

MAX_HELP_SECONDS: Final = 0.3
MAX_ATTACH_SECONDS: Final = 0.15


def command() -> list[str]:
    """The installed command of this Python, else the module."""
    script = Path(sys.executable).parent / "culpa"
    return [str(script)] if script.exists() else [sys.executable, "-m", "culpa"]


def _help_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([*command(), "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _attach_seconds(pid: int) -> float:
    tracer = Tracer(pids={pid}, exclude_pids={os.getpid()})
    began = time.perf_counter()
    with tracer:
        return time.perf_counter() - began


def measure(effort: Effort) -> Iterator[Row]:
    """Medians; the first run of each, which reads from the disk, is shown among the runs."""
    helping = [_help_seconds() for _ in range(effort.times(11, 5))]
    yield median_row("culpa --help", helping, "s", at_most(MAX_HELP_SECONDS))
    problem = usable()
    if problem is not None:
        yield Row(name=f"attach (not measured: {problem})", value=None, unit="s", goal=at_most(MAX_ATTACH_SECONDS))
        return
    attaching = [_attach_seconds(os.getppid()) for _ in range(effort.times(11, 5))]
    yield median_row("attach the probes", attaching, "s", at_most(MAX_ATTACH_SECONDS))
