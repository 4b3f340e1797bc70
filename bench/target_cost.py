"""What tracing costs the traced redis-server: CPU per request, throughput and p99, traced against untraced.

Each round measures the untraced server twice and the traced one once, in an order that rotates; the untraced pair
tells how far the machine wanders by itself. The claim is about the upper end of the 95 % interval over all rounds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from culpa.collect.trace.tracer import Tracer, TraceResult, usable
from measure import Effort, Goal, Row, at_most, interval
from stand import Load, Server, Stretch, redis_server

MAX_LOSS_PERCENT: Final = 3.0
MAX_PROBE_NS_PER_EVENT: Final = 500.0
SETTLE_SECONDS: Final = 0.05
CASES: Final = (("GET", 1), ("GET", 50), ("SET", 1), ("SET", 50))

Arm = Callable[[Server], AbstractContextManager[None]]


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


def compared(what: str, arm: list[Stretch], base: list[Stretch], goal: Goal | None = None) -> Iterator[Row]:
    """CPU, throughput and p99 of one arm against another, pair by pair; the goal is for the CPU's upper end."""
    cpu = percent_more([one.cpu_us_per_request for one in arm], [one.cpu_us_per_request for one in base])
    slower = percent_more([one.per_second for one in base], [one.per_second for one in arm])
    p99 = percent_more([one.p99_us for one in arm], [one.p99_us for one in base])
    low, high = interval(cpu)
    yield Row(name=f"{what}: CPU per request, mean loss", value=float(np.mean(cpu)), unit="%", runs=tuple(cpu))
    yield Row(name=f"{what}: CPU per request, low end of 95 %", value=low, unit="%")
    yield Row(name=f"{what}: CPU per request, high end of 95 %", value=high, unit="%", goal=goal)
    yield Row(name=f"{what}: time per request, median loss", value=float(np.median(slower)), unit="%",
              runs=tuple(slower))  # fmt: skip
    yield Row(name=f"{what}: p99, median loss", value=float(np.median(p99)), unit="%", runs=tuple(p99))


def measure(effort: Effort) -> Iterator[Row]:
    """All cases, one after the other."""
    problem = usable()
    if problem is not None:
        yield Row(name=f"cost of tracing (not measured: {problem})", value=None, unit="%",
                  goal=at_most(MAX_LOSS_PERCENT))  # fmt: skip
        return
    with redis_server() as server:
        for command, clients in CASES:
            yield from _case(server, command, clients, effort)


def _case(server: Server, command: str, clients: int, effort: Effort) -> Iterator[Row]:
    seconds, count = effort.choose(0.6, 0.25), effort.times(24, 3)
    results: list[TraceResult] = []
    sums = Sums()

    with server.loader(command, clients) as load:

        def untraced() -> Stretch:
            return load.stretch(seconds)

        def with_culpa() -> Stretch:
            with traced(server.pid, results):
                found = load.stretch(seconds)
            _add(sums, results.pop(), found)
            return found

        found = rounds(load, {"untraced": untraced, "culpa": with_culpa, "again": untraced}, count)
    name = f"redis {command}, {clients} client{'s' if clients > 1 else ''}"
    yield from _untraced(name, found["untraced"])
    yield from compared(f"{name}, culpa", found["culpa"], found["untraced"], at_most(MAX_LOSS_PERCENT))
    yield from compared(f"{name}, untraced again", found["again"], found["untraced"])
    yield from _probes(name, sums)


def _add(sums: Sums, result: TraceResult, stretch: Stretch) -> None:
    sums.probe_ns_per_event.append(result.probe_cpu_ns / max(1, result.events))
    sums.events_per_request.append(result.events / stretch.requests)
    sums.lost.append(float(result.lost_events))


def _untraced(name: str, base: list[Stretch]) -> Iterator[Row]:
    cpu = [one.cpu_us_per_request for one in base]
    speed = [one.per_second for one in base]
    p99 = [one.p99_us for one in base]
    yield Row(name=f"{name}, untraced: CPU per request", value=float(np.median(cpu)), unit="us", runs=tuple(cpu))
    yield Row(name=f"{name}, untraced: throughput", value=float(np.median(speed)), unit="1/s", runs=tuple(speed))
    yield Row(name=f"{name}, untraced: p99", value=float(np.median(p99)), unit="us", runs=tuple(p99))


def _probes(name: str, sums: Sums) -> Iterator[Row]:
    per_event = sums.probe_ns_per_event
    yield Row(name=f"{name}, culpa: probe CPU per event", value=float(np.median(per_event)), unit="ns",
              goal=at_most(MAX_PROBE_NS_PER_EVENT), runs=tuple(per_event))  # fmt: skip
    yield Row(name=f"{name}, culpa: events per request", value=float(np.median(sums.events_per_request)), unit="",
              runs=tuple(sums.events_per_request))  # fmt: skip
    yield Row(name=f"{name}, culpa: events lost", value=sum(sums.lost), unit="events", runs=tuple(sums.lost))
