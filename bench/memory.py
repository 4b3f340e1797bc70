"""Peak memory of `culpa why PID --save FILE` for a million events: VmHWM of the real command."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from measure import Effort, Row, at_most
from stand import BenchError
from startup import command
from verdict_time import MARGIN, SESSION_SECONDS, busy_redis

from culpa.collect.trace.tracer import usable

EVENTS: Final = 1_000_000
MAX_MIB: Final = 300.0
LOOK_SECONDS: Final = 0.005
TRIAL_SECONDS: Final = 2.0
MOST: Final = 1.2
"""A run of more than so many times the events says nothing about the goal."""
TRIES: Final = 6
_HIGH_WATER: Final = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most memory a command held, and how many events it judged."""

    mib: float
    events: int


def _high_water_mib(pid: int) -> float:
    """Of the address space as it is now; ru_maxrss would also count what the parent held at the fork."""
    found = _HIGH_WATER.search(Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _run(pid: int, window: float, directory: Path) -> Peak:
    more = ["--json", "--budget", "100", "--save", str(directory / "bench.culpa")]  # or sums would begin half-way
    argv = [*command(), "why", str(pid), "--for", f"{window:.2f}s", *more]
    said = directory / "verdict.json"
    peak = watched_peak(argv, said)
    return Peak(mib=peak, events=json.loads(said.read_bytes())["cost"]["events"])


def watched_peak(argv: list[str], said: Path) -> float:
    """Run culpa, its answer going to the file `said`; the most memory it held, in MiB.

    Raises:
        BenchError: it failed, or did not end.
    """
    with said.open("wb") as out:
        popen = subprocess.Popen(argv, stdout=out, stderr=subprocess.DEVNULL)
        try:
            peak = _watch(popen)
        finally:
            popen.kill()
            popen.wait()
    if popen.returncode:
        raise BenchError(f"culpa ended with status {popen.returncode}")
    return peak


def _watch(popen: subprocess.Popen[bytes]) -> float:
    """The highest water mark until it ends."""
    peak, deadline = 0.0, time.monotonic() + SESSION_SECONDS
    while popen.poll() is None:
        if time.monotonic() > deadline:
            raise BenchError("culpa did not end")
        peak = max(peak, _high_water_mib(popen.pid))
        time.sleep(LOOK_SECONDS)
    return peak


def measure(effort: Effort) -> Iterator[Row]:
    """One session; its capture is saved as well."""
    events = effort.times(EVENTS, EVENTS // 10)
    name = f"peak memory, {events:,} events"
    problem = usable()
    if problem is not None:
        yield Row(name=f"{name} (not measured: {problem})", value=None, unit="MiB", goal=at_most(MAX_MIB))
        return
    with busy_redis(50, events) as (server, _), tempfile.TemporaryDirectory(prefix="culpa-bench-") as directory:
        # How many events a second of load is worth is known best from the command itself.
        known = _run(server.pid, TRIAL_SECONDS, Path(directory))
        window = TRIAL_SECONDS * events / known.events * MARGIN
        tried = []
        while len(runs := [one for one in tried if events <= one.events <= MOST * events]) < effort.times(2, 1):
            known = _run(server.pid, window, Path(directory))
            tried.append(known)
            window *= events * MARGIN / known.events
            if len(tried) == TRIES:
                break
    runs = runs or tried  # on a busy host no two seconds are alike
    yield Row(name=name, value=max(one.mib for one in runs), unit="MiB", goal=at_most(MAX_MIB),
              runs=tuple(one.mib for one in runs))  # fmt: skip
    yield Row(name=f"{name}: events, fewest", value=float(min(one.events for one in runs)), unit="events",
              runs=tuple(float(one.events) for one in runs))  # fmt: skip
