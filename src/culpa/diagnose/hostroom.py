"""How much memory there is left for a server: on its host, and in the control groups that hold it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from culpa.capture import schema
from culpa.diagnose.ruled_out import Counters

if TYPE_CHECKING:
    from culpa.diagnose.redisview import RedisView

KILOBYTE: Final = 1024
MEMINFO: Final = "/proc/meminfo"
LIMITS: Final = ("memory.max", "memory.limit_in_bytes")
_KEPT: Final = (("anon", "shmem"), ("total_rss", "total_shmem"))
"""Of memory.stat, by version: what cannot be dropped as the page cache can (cgroup-v2.rst, cgroup-v1/memory.rst)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Memory that is left in one place, free swap included."""

    what: str
    left_bytes: float
    source: str


def rooms(view: RedisView) -> list[Room]:
    """Of the host, and of each limited control group of the server or above it; empty where they were not seen."""
    if view.pid is None or view.pid not in view.picture.capture.manifest.target.pids:
        return []
    frame = view.picture.capture.frame(schema.COUNTERS)
    counters = Counters(frame)
    available, free = (counters.last(MEMINFO, "", name) for name in ("MemAvailable", "SwapFree"))
    if available is None:
        return []
    swap = KILOBYTE * (free or 0.0)
    found = [Room(what=_and_swap("memory available on its host", swap), left_bytes=KILOBYTE * available + swap,
                  source=MEMINFO)]  # fmt: skip
    return found + list(_groups(frame, counters, swap))


def _groups(frame: pl.DataFrame, counters: Counters, swap: float) -> Iterator[Room]:
    limited = frame.filter(pl.col("field").is_in(LIMITS)).select("object", "field").unique().sort("object", "field")
    for group, name in limited.iter_rows():
        allowed = counters.last(f"{group}/{name}", group, name)
        kept = held(counters, group)
        if allowed is not None and kept is not None:
            what = _and_swap("its control group allows, beyond what cannot be dropped,", swap)
            yield Room(what=what, left_bytes=max(0.0, allowed - kept) + swap, source=f"{group}/{name}, memory.stat")


def held(counters: Counters, group: str) -> float | None:
    """What a control group holds (bytes) that cannot be dropped as the page cache can; None where it does not say."""
    for names in _KEPT:
        parts = [counters.last(f"{group}/memory.stat", group, name) for name in names]
        if parts[0] is not None:
            return sum(part for part in parts if part is not None)
    return None


def _and_swap(what: str, swap: float) -> str:
    return f"{what} with free swap" if swap else what
