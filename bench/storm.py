"""Is an event lost at 200,000 events a second? Two processes make system calls and count them themselves."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import polars as pl
from measure import Effort, Row, at_least, at_most
from stand import HERE, Child

from culpa.collect.trace.tracer import Tracer, usable

EVENTS_PER_SECOND: Final = 200_000
MARGIN: Final = 1.02
"""The rate is aimed a little above the goal, as the last portion of each process ends early."""
PROCESSES: Final = 2
GETPPID: Final = {"x86_64": 110, "aarch64": 173}
UNTOLD: Final = Row(name="storm of system calls: events lost", value=None, unit="events", goal=at_most(0))


def measure(effort: Effort) -> Iterator[Row]:
    """Rate, loss as the probes count it, and calls missing from the table."""
    if usable() is not None:
        yield UNTOLD
        return
    seconds = effort.choose(10.0, 3.0)
    rate = EVENTS_PER_SECOND * MARGIN / PROCESSES
    argv = [sys.executable, "-S", str(HERE / "storm_child.py"), str(rate), str(seconds)]
    with ExitStack() as stack:
        children = [Child(argv) for _ in range(PROCESSES)]
        for child in children:
            stack.callback(child.stop)
            child.line()
        pids = {child.pid for child in children}
        with Tracer(pids=pids, exclude_pids={os.getpid()}) as tracer:
            for child in children:
                child.tell("go")
            said = [child.line().split() for child in children]
            result = tracer.stop()
    made, took = sum(int(one[0]) for one in said), max(float(one[1]) for one in said)
    number = GETPPID[platform.machine()]
    seen = result.tables["syscalls"].filter(pl.col("pid").is_in(pids) & (pl.col("nr") == number)).height
    yield Row(name=f"storm of system calls, {seconds:g} s: events", value=result.events / took, unit="1/s",
              goal=at_least(EVENTS_PER_SECOND))  # fmt: skip
    yield Row(name="storm of system calls: events lost, as the probes count", value=float(result.lost_events),
              unit="events", goal=at_most(0))  # fmt: skip
    yield Row(name=f"storm of system calls: missing of {made:,} made", value=float(made - seen), unit="events",
              goal=at_most(0))  # fmt: skip
    yield Row(name="storm of system calls: probe CPU per event", value=result.probe_cpu_ns / result.events, unit="ns")
