"""What watching a busy redis-server costs while every event is recorded, and what once the budget is spent.

50 clients make more events than the default budget pays for: after a second or two the tracer goes over to sums in the
kernel. Each round measures the server untraced, then traced with a budget that never ends, then past the default one.
CPU of the draining is this process's own, and the probes' is what the kernel measured of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from measure import Effort, Row, at_most, median_row
from stand import BenchError, Load, Server, redis_server

from culpa.collect.options import Options
from culpa.collect.trace.tracer import Tracer, usable

CLIENTS: Final = 50
TRIP_SECONDS: Final = 20.0
GOAL_PERCENT: Final = 20.0
"""The default of `--budget`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One stretch of load: CPU of the server for a request (us), CPU of probes and draining (percent of a core)."""

    server_us: float
    watching_percent: float


def measure(effort: Effort) -> Iterator[Row]:
    """Both ways of watching, side by side."""
    problem = usable()
    if problem is not None:
        yield Row(name=f"cost of sums (not measured: {problem})", value=None, unit="%")
        return
    seconds, count = effort.choose(3.0, 1.0), effort.times(6, 2)
    with redis_server() as server, server.loader("GET", CLIENTS) as load:
        plain, whole, summed = [], [], []
        for _ in range(count):
            plain.append(load.stretch(seconds).cpu_us_per_request)
            whole.append(_watched(server, load, seconds, percent=None))
            summed.append(_watched(server, load, seconds, percent=Options().budget_percent))
    name = f"redis GET, {CLIENTS} clients"
    yield median_row(f"{name}, untraced: CPU per request", plain, "us")
    for shown, arm, goal in (("every event", whole, None), ("past the budget", summed, at_most(GOAL_PERCENT))):
        yield median_row(f"{name}, {shown}: CPU per request", [one.server_us for one in arm], "us")
        watching = [one.watching_percent for one in arm]
        yield median_row(f"{name}, {shown}: probes and draining", watching, "% of a core", goal)


def _watched(server: Server, load: Load, seconds: float, *, percent: float | None) -> Price:
    """One stretch under a tracer, past the end of its records where there is a budget."""
    with Tracer(pids={server.pid}, exclude_pids={os.getpid()}, budget_percent=percent) as tracer:
        deadline = time.monotonic() + TRIP_SECONDS
        while percent is not None and not tracer.detail_ended():
            if time.monotonic() > deadline:
                raise BenchError(f"{CLIENTS} clients stay within the budget of {percent:g} % here")
            load.stretch(0.2)
        load.stretch(1.2)  # while the tracer measures its probes they cost more
        own, probes, began = time.process_time_ns(), tracer.probe_cpu_ns(), time.monotonic_ns()
        found = load.stretch(seconds)
        spent = time.process_time_ns() - own + tracer.probe_cpu_ns() - probes
        return Price(server_us=found.cpu_us_per_request, watching_percent=100 * spent / (time.monotonic_ns() - began))
