"""What tracing costs the traced redis-server: CPU per request, throughput and p99, traced against untraced.

Each round measures the untraced server twice and the traced one once, in an order that rotates; the untraced pair
tells how far the machine wanders by itself. Each stretch follows a short one that does not count, as the tracer
measures its own probes at the beginning and leaves that off later. The claim is about the upper end of the 95 %
interval over all rounds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from measure import Effort, Goal, Row, at_most, interval, median_row
from stand import Load, Server, Stretch, redis_server

from culpa.collect.trace.tracer import Tracer, TraceResult, usable

MAX_LOSS_PERCENT: Final = 3.0
MAX_PROBE_NS_PER_EVENT: Final = 500.0
SETTLE_SECONDS: Final = 0.05
CASES: Final = (("GET", 1), ("GET", 50), ("SET", 1), ("SET", 50))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What the traces of one case came to, one number a trace."""

    probe_ns_per_event: list[float] = field(default_factory=list)
    events_per_request: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)


def rounds(load: Load, arms: dict[str, Callable[[], Stretch]], count: int) -> dict[str, list[Stretch]]:
    """Measure all arms `count` times; the arm that comes first changes from round to round."""
    found: dict[str, list[Stretch]] = {name: [] for name in arms}
    names = list(arms)
    load.stretch(SETTLE_SECONDS)
    for turn in range(count):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            found[name].append(arms[name]())
    return found


@contextmanager
def traced(pid: int, into: list[TraceResult]) -> Iterator[None]:
    """Trace as a session does: this process is left out, and whoever wakes the target is followed."""
    tracer = Tracer(pids={pid}, exclude_pids={os.getpid()})
    with tracer:
        time.sleep(SETTLE_SECONDS)
        yield
        into.append(tracer.stop())


def percent_more(these: list[float], those: list[float]) -> list[float]:
    """By how many percent each of `these` exceeds its partner in `those`."""
    return [(one / other - 1) * 100 for one, other in zip(these, those, strict=True)]


def cpu_losses(arm: list[Stretch], base: list[Stretch]) -> list[float]:
    """By how many percent the server's CPU time for a request rose, pair by pair."""
    return percent_more([one.cpu_us_per_request for one in arm], [one.cpu_us_per_request for one in base])


def compared(what: str, arm: list[Stretch], base: list[Stretch]) -> Iterator[Row]:
    """CPU, time (the inverse of throughput) and p99 of one arm against another, pair by pair."""
    cpu = cpu_losses(arm, base)
    slower = percent_more([one.per_second for one in base], [one.per_second for one in arm])
    p99 = percent_more([one.p99_us for one in arm], [one.p99_us for one in base])
    yield Row(name=f"{what}: CPU per request, mean", value=float(np.mean(cpu)), unit="% more", runs=tuple(cpu))
    yield median_row(f"{what}: time per request", slower, "% more")
    yield median_row(f"{what}: p99", p99, "% more")


def bounds(what: str, losses: list[float], goal: Goal | None = None) -> Iterator[Row]:
    """The ends of the 95 % interval of the mean; the goal is for the high one."""
    low, high = interval(losses) or (None, None)
    yield Row(name=f"{what}: CPU per request, low end of 95 %", value=low, unit="% more")
    yield Row(name=f"{what}: CPU per request, high end of 95 %", value=high, unit="% more", goal=goal)


def measure(effort: Effort) -> Iterator[Row]:
    """All cases, one after the other."""
    problem = usable()
    if problem is not None:
        yield Row(name=f"cost of tracing (not measured: {problem})", value=None, unit="% more",
                  goal=at_most(MAX_LOSS_PERCENT))  # fmt: skip
        return
    with redis_server() as server:
        for command, clients in CASES:
            yield from _case(server, command, clients, effort)


def _case(server: Server, command: str, clients: int, effort: Effort) -> Iterator[Row]:
    seconds, count = effort.choose(0.6, 0.25), effort.times(24, 3)
    warm = effort.choose(0.2, 0.1)
    sums = Sums()
    with server.loader(command, clients) as load:

        def untraced() -> Stretch:
            load.stretch(warm)
            return load.stretch(seconds)

        def with_culpa() -> Stretch:
            results: list[TraceResult] = []
            with traced(server.pid, results):
                before = load.stretch(warm)
                found = load.stretch(seconds)
            _add(sums, results[0], before.requests + found.requests)
            return found

        found = rounds(load, {"untraced": untraced, "culpa": with_culpa, "again": untraced}, count)
    name, base = case_name(command, clients), found["untraced"]
    yield from _untraced(name, base)
    for shown, arm, goal in (
        (f"{name}, culpa", found["culpa"], at_most(MAX_LOSS_PERCENT)),
        (f"{name}, untraced again", found["again"], None),
    ):
        yield from compared(shown, arm, base)
        yield from bounds(shown, cpu_losses(arm, base), goal)
    yield from _probes(name, sums)


def case_name(command: str, clients: int) -> str:
    """How a case is called in the table."""
    return f"redis {command}, {clients} client{'s' if clients > 1 else ''}"


def _add(sums: Sums, result: TraceResult, requests: int) -> None:
    sums.probe_ns_per_event.append(result.probe_cpu_ns / max(1, result.events))
    sums.events_per_request.append(result.events / requests)
    sums.lost.append(float(result.lost_events))


def _untraced(name: str, base: list[Stretch]) -> Iterator[Row]:
    yield median_row(f"{name}, untraced: CPU per request", [one.cpu_us_per_request for one in base], "us")
    yield median_row(f"{name}, untraced: throughput", [one.per_second for one in base], "1/s")
    yield median_row(f"{name}, untraced: p99", [one.p99_us for one in base], "us")


def _probes(name: str, sums: Sums) -> Iterator[Row]:
    goal = at_most(MAX_PROBE_NS_PER_EVENT)
    yield median_row(f"{name}, culpa: probe CPU per event", sums.probe_ns_per_event, "ns", goal)
    yield median_row(f"{name}, culpa: events per request", sums.events_per_request, "events")
    yield Row(name=f"{name}, culpa: events lost", value=sum(sums.lost), unit="events", runs=tuple(sums.lost))
