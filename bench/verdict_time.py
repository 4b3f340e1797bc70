"""From the end of the window to the verdict, for a session that saw half a million events."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from measure import Effort, Row, at_most
from stand import HERE, BenchError, Load, Server, redis_server
from target_cost import traced

from culpa.collect.trace.tracer import TraceResult, usable

if TYPE_CHECKING:
    from judged_session import Stages

EVENTS: Final = 500_000
MAX_SECONDS: Final = 2.0
PER_SECOND: Final = 20_000.0
"""Requests: some 160,000 events a second, below the rate at which no event may be lost."""
MARGIN: Final = 1.1
"""The window is this much longer than the rate asks for, so that it holds no fewer events than said."""
SESSION_SECONDS: Final = 180.0
CALIBRATION_SECONDS: Final = 0.7
LONG_SECONDS: Final = 600.0
"""Longer than any session: the load ends with its loader."""
CLIENTS: Final = (1, 50)


@contextmanager
def busy_redis(clients: int, events: int) -> Iterator[tuple[Server, float]]:
    """A redis-server under load, and the window in seconds that holds so many events of it."""
    with redis_server() as server, server.loader("GET", clients) as load:
        window = events / _event_rate(load) * MARGIN
        load.begin(LONG_SECONDS, PER_SECOND)
        yield server, window


def _event_rate(load: Load) -> float:
    results: list[TraceResult] = []
    with traced(load.server.pid, results):
        seconds = load.stretch(CALIBRATION_SECONDS, PER_SECOND).seconds
    return results[0].events / seconds


def session(pid: int, window: float) -> Stages:
    """Run one in a process of its own.

    Raises:
        BenchError: it failed, or did not end.
    """
    argv = [sys.executable, str(HERE / "judged_session.py"), str(pid), f"{window:.3f}"]
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=SESSION_SECONDS, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"the session failed: {error}") from error
    found: Stages = json.loads(done.stdout)
    return found


def measure(effort: Effort) -> Iterator[Row]:
    """One client, where every request waits and wakes, and fifty."""
    events = effort.times(EVENTS, EVENTS // 10)
    problem = usable()
    if problem is not None:
        yield Row(name=f"end of window to verdict (not measured: {problem})", value=None, unit="s",
                  goal=at_most(MAX_SECONDS))  # fmt: skip
        return
    for clients in CLIENTS:
        with busy_redis(clients, events) as (server, window):
            runs = [session(server.pid, window) for _ in range(effort.times(3, 1))]
        yield from _rows(f"{events:,} events, {clients} client{'s' if clients > 1 else ''}", runs)


def _rows(what: str, runs: list[Stages]) -> Iterator[Row]:
    whole = [one["written"] for one in runs]
    collecting = [one["collected"] for one in runs]
    judging = [one["judged"] - one["collected"] for one in runs]
    yield Row(name=f"{what}: end of window to verdict, worst", value=max(whole), unit="s", goal=at_most(MAX_SECONDS),
              runs=tuple(whole))  # fmt: skip
    yield Row(name=f"{what}: of it collecting", value=max(collecting), unit="s", runs=tuple(collecting))
    yield Row(name=f"{what}: of it judging", value=max(judging), unit="s", runs=tuple(judging))
    yield Row(name=f"{what}: events, fewest", value=float(min(one["events"] for one in runs)), unit="events",
              runs=tuple(float(one["events"]) for one in runs))  # fmt: skip
    yield Row(name=f"{what}: events lost", value=float(sum(one["lost_events"] for one in runs)), unit="events",
              runs=tuple(float(one["lost_events"]) for one in runs))  # fmt: skip
