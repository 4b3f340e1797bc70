"""Memory limits of the target's control groups that were reached in the window, and who holds the host's memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from culpa.capture.schema import COUNTERS
from culpa.diagnose.picture import Picture
from culpa.diagnose.ruled_out import Counters
from culpa.diagnose.verdict import Evidence
from culpa.units import format_bytes, format_count

KILOBYTE = 1024
NEAR_LIMIT = 0.9
"""Of the limit, used at some moment: with less the group was not full, whatever its counter says."""
MAX_USERS = 3
MIN_GROWTH_BYTES = 16 << 20
"""What a process grew by in the window; less is no news where a host runs short."""
_HITS = {
    "memory.limit_in_bytes": ("memory.failcnt", "memory.failcnt", "memory.usage_in_bytes"),
    "memory.max": ("memory.events", "max", "memory.current"),
    "memory.high": ("memory.events", "high", "memory.current"),
}
"""Limit file to the file and field that count how often it was reached, and the file that says what is used
(cgroup-v1/memory.rst, cgroup-v2.rst).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """A limit that was reached: its file, how much it allows and what was used at most (bytes), how often."""

    file: str
    allowed: float
    used: float
    hits: float

    def evidence(self) -> Iterator[Evidence]:
        """The figures."""
        yield Evidence(
            fact="memory its control group used at most", value=int(self.used), unit="B", threshold=int(self.allowed),
            source=self.file,
        )  # fmt: skip
        yield Evidence(
            fact="times that limit was reached in the window", value=int(self.hits), unit="", threshold=None,
            source=self.file,
        )  # fmt: skip


def limits_reached(picture: Picture) -> tuple[MemoryLimit, ...]:
    """The limits of the target's control groups, or of those above them, that were reached, most often first."""
    rows = picture.capture.frame(COUNTERS).filter(pl.col("field").str.starts_with("memory."))
    counters = Counters(picture.capture.frame(COUNTERS))
    found = []
    for group, name in rows.filter(pl.col("field").is_in(list(_HITS))).select("object", "field").unique().iter_rows():
        told, field, usage = _HITS[name]
        hits, allowed = counters.delta(f"{group}/{told}", group, field), counters.last(f"{group}/{name}", group, name)
        used = rows.filter((pl.col("object") == group) & (pl.col("field") == usage))["value"].max()
        if hits and allowed and isinstance(used, float) and used >= NEAR_LIMIT * allowed:
            found.append(MemoryLimit(file=f"{group}/{name}", allowed=allowed, used=used, hits=hits))
    return tuple(sorted(found, key=lambda limit: (-limit.hits, limit.file)))


def host_memory(picture: Picture) -> Iterator[Evidence]:
    """What the host has left."""
    counters = Counters(picture.capture.frame(COUNTERS))
    available, total = (counters.last("/proc/meminfo", "", name) for name in ("MemAvailable", "MemTotal"))
    if available is not None and total:
        yield Evidence(
            fact=f"memory available on the host, of {format_bytes(total * KILOBYTE)}",
            value=int(available * KILOBYTE), unit="B", threshold=None, source="/proc/meminfo",
        )  # fmt: skip


def has_room_for_swap(picture: Picture) -> bool:
    """Whether the host has memory for all that lies in swap, twice over: it was short once, and is no longer."""
    counters = Counters(picture.capture.frame(COUNTERS))
    names = ("MemAvailable", "SwapTotal", "SwapFree")
    available, total, free = (counters.last("/proc/meminfo", "", name) for name in names)
    return available is not None and total is not None and free is not None and available > 2 * (total - free) > 0


def memory_users(picture: Picture) -> Iterator[Evidence]:
    """Who holds the memory, resident and in swap together, the most first, and how much of it since the window began;
    culpa is gone after the window.
    """
    rows = picture.capture.frame(COUNTERS).filter(pl.col("field").is_in(["VmRSS", "VmSwap"])).sort("ts_ns")
    counters = Counters(rows)
    last = rows.group_by("object", "field", maintain_order=True).agg(pl.col("value").last())
    held: dict[int, dict[str, float]] = {}
    for who, field, value in last.iter_rows():
        held.setdefault(int(who), {})[field] = value * KILOBYTE
    largest = sorted(held.keys() - picture.objects.own_pids, key=lambda pid: (-sum(held[pid].values()), pid))
    for pid in largest[:MAX_USERS]:
        swapped = held[pid].get("VmSwap", 0.0)
        more = f", and {format_bytes(swapped)} in swap" if swapped else ""
        source = f"/proc/{pid}/status"
        grown = KILOBYTE * (counters.delta(source, str(pid), "VmRSS") or 0.0)
        since = f", {format_bytes(grown)} of it since the window began" if grown >= MIN_GROWTH_BYTES else ""
        yield Evidence(
            fact=f"{picture.objects.process(pid).comm or 'process'}[{pid}] holds memory{more}{since}",
            value=int(held[pid].get("VmRSS", 0.0)), unit="B", threshold=None, source=source,
        )  # fmt: skip


def swap_traffic(picture: Picture) -> Iterator[Evidence]:
    """What came from swap in the window, and what each area holds."""
    counters = Counters(picture.capture.frame(COUNTERS))
    for field, words in (("pswpin", "read from"), ("pswpout", "written to")):
        if pages := counters.delta("/proc/vmstat", "", field):
            page = picture.capture.manifest.host.page_bytes
            yield Evidence(
                fact=f"{words} swap on the host in the window, {format_count(pages)} pages", value=int(pages * page),
                unit="B", threshold=None, source=f"/proc/vmstat: {field}",
            )  # fmt: skip
    for area in counters.objects("/proc/swaps"):
        used, size = (counters.last("/proc/swaps", area, field) for field in ("Used", "Size"))
        if used is not None and size:
            yield Evidence(
                fact=f"in swap on {area}, of {format_bytes(size * KILOBYTE)}", value=int(used * KILOBYTE), unit="B",
                threshold=None, source="/proc/swaps",
            )  # fmt: skip
