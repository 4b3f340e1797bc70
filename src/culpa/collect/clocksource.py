"""Which clock the kernel reads for clock_gettime, and what a look at it costs (`schema.COUNTERS`).

Redis looks at the clock several times for each command. A clock that the vDSO can read (tsc, kvm-clock) costs some 20
ns; any other is a system call and the reading of a device (drivers/clocksource, Documentation/timers/timekeeping.rst).
The coarse clock is a variable that the vDSO reads on every host: it is what the calling alone costs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from culpa.collect.procfs import read_text

DIRECTORY: Final = "devices/system/clocksource/clocksource0"
COARSE: Final = 6
"""CLOCK_MONOTONIC_COARSE (include/uapi/linux/time.h), which `time` has no name for."""
LOOKS: Final = 1000
ROUNDS: Final = 7
"""The shortest of several rounds counts: a host that is away for a moment spoils some of them."""

Reading = tuple[str, str, str, float]


def readings(sys_root: Path) -> Iterator[Reading]:
    """Source, object, field and value: the clock's name, those there are, and the cost (ns) of a look at each."""
    current, available = (_words(sys_root, f"{name}_clocksource") for name in ("current", "available"))
    if not current:
        return
    for field, names in (("current", current[:1]), ("available", available)):
        for name in names:
            yield f"/sys/{DIRECTORY}/{field}_clocksource", name, field, 1.0
    for field, clock in (("clock_ns", time.CLOCK_MONOTONIC), ("coarse_clock_ns", COARSE)):
        yield "clock_gettime", "", field, cost_ns(clock)


def cost_ns(clock: int) -> float:
    """What one look at a clock costs, with what calling it from here costs."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return min(_round_ns(clock) for _ in range(ROUNDS)) / LOOKS
    finally:
        if collecting:
            gc.enable()


def _round_ns(clock: int) -> int:
    look = time.clock_gettime_ns
    began = time.perf_counter_ns()
    for _ in range(LOOKS):
        look(clock)
    return time.perf_counter_ns() - began


def _words(sys_root: Path, name: str) -> list[str]:
    return (read_text(sys_root / DIRECTORY / name) or "").split()[:16]
