"""The usual suspects that did not do it, each with the figure that acquits it."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from culpa.capture import schema
from culpa.diagnose import freeing
from culpa.diagnose.picture import Picture
from culpa.diagnose.verdict import Evidence, RuledOut
from culpa.model.kinds import Kind
from culpa.model.stages import COMPACTION, RECLAIM

IDLE_CPU = 0.20
"""A CPU that is idle this much of the window had room."""
SMALL_SHARE = 0.05
"""Below this share of the root a suspect cannot be the cause."""
FREE_MEMORY = 0.10
"""Of the memory, available: with less the kernel begins to reclaim."""
BUSY_DISK = 0.90
"""Of the window, with a request in flight: with less it had time to spare."""


class Counters:
    """First and last values of the host's counters in the window."""

    def __init__(self, frame: pl.DataFrame) -> None:
        rows = (
            frame.drop_nulls(["ts_ns", "source", "field", "value"])
            .with_columns(pl.col("object").fill_null(""))
            .sort("ts_ns")
        )
        grouped = rows.group_by("source", "object", "field", maintain_order=True)
        sums = grouped.agg(
            pl.col("value").first().alias("a"),
            pl.col("value").last().alias("b"),
            pl.col("ts_ns").first(),
            pl.col("ts_ns").last().alias("end"),
        )
        self._values = {(s, o, f): (a, b, end - ts) for s, o, f, a, b, ts, end in sums.iter_rows()}

    def delta(self, source: str, obj: str, field: str) -> float | None:
        """Growth over the window."""
        found = self._values.get((source, obj, field))
        return None if found is None else found[1] - found[0]

    def deltas(self, field: str) -> list[float]:
        """Growth over the window, of each object of each file that has the field."""
        return [last - first for (_, _, name), (first, last, _) in self._values.items() if name == field]

    def last(self, source: str, obj: str, field: str) -> float | None:
        """The last value."""
        found = self._values.get((source, obj, field))
        return None if found is None else found[1]

    def per_second(self, source: str, obj: str, field: str) -> float | None:
        """Growth per second."""
        found = self._values.get((source, obj, field))
        return None if found is None or found[2] <= 0 else (found[1] - found[0]) / (found[2] / 1e9)

    def objects(self, source: str) -> list[str]:
        """Objects that a file has rows for."""
        return sorted({o for s, o, _ in self._values if s == source and o})


def ruled_out(picture: Picture) -> tuple[RuledOut, ...]:
    """Every suspect that can be acquitted by a figure; those without a figure are not mentioned."""
    counters = Counters(picture.capture.frame(schema.COUNTERS))
    found: list[RuledOut] = []
    for suspect in (_cpu, _run_queue, _memory, _swap, _disks, _deleting, _network):
        found.extend(suspect(picture, counters))
    return tuple(found)


def _cpu(_picture: Picture, counters: Counters) -> Iterator[RuledOut]:
    fields = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    spent = {name: counters.delta("/proc/stat", "", name) or 0.0 for name in fields}
    total = sum(spent.values())
    idle = (spent["idle"] + spent["iowait"]) / total if total else 0.0
    if total and idle >= IDLE_CPU:
        yield RuledOut(
            resource="CPU",
            verdict="had room",
            evidence=(_fact("idle or waiting for I/O", idle, "share", IDLE_CPU, "/proc/stat"),),
        )


def _run_queue(picture: Picture, _counters: Counters) -> Iterator[RuledOut]:
    if picture.sampled or not picture.root.ns:
        return
    share = picture.share(sum(picture.blame.nodes[n].ns for n in picture.nodes(Kind.RUNNABLE)))
    if share < SMALL_SHARE:
        yield RuledOut(
            resource="run queue",
            verdict="no queueing for a CPU on the chain",
            evidence=(_fact("runnable but not running", share, "share", SMALL_SHARE, "offcpu"),),
        )


def _memory(picture: Picture, counters: Counters) -> Iterator[RuledOut]:
    available, total = (
        counters.last("/proc/meminfo", "", "MemAvailable"),
        counters.last("/proc/meminfo", "", "MemTotal"),
    )
    # With much of it left there may be none in one piece, or none where it is wanted.
    if available is not None and total and available / total >= FREE_MEMORY and not _made_room(picture):
        yield RuledOut(
            resource="memory",
            verdict="enough",
            evidence=(_fact("available", available / total, "share", FREE_MEMORY, "/proc/meminfo"),),
        )


def _made_room(picture: Picture) -> bool:
    """Whether making room for the host was part of the root's time."""
    on = {node: picture.blame.nodes[node].on for node in picture.nodes(Kind.RECLAIM)}
    ns = sum(picture.blame.nodes[n].ns for n, thing in on.items() if thing and thing.stage in (RECLAIM, COMPACTION))
    return picture.share(ns) >= SMALL_SHARE


def _swap(_picture: Picture, counters: Counters) -> Iterator[RuledOut]:
    came = counters.delta("/proc/vmstat", "", "pswpin")
    if came == 0:
        yield RuledOut(
            resource="swap",
            verdict="nothing came from swap",
            evidence=(_fact("pages swapped in", came, "pages", 0, "/proc/vmstat"),),
        )


def _disks(picture: Picture, counters: Counters) -> Iterator[RuledOut]:
    blamed = _blamed_devices(picture)
    for name in counters.objects("/proc/diskstats"):
        ticks = counters.per_second("/proc/diskstats", name, "io_ms")
        if ticks is None:
            continue
        busy = ticks / 1000
        if name in blamed or busy >= BUSY_DISK:
            continue
        moved = sum(counters.delta("/proc/diskstats", name, field) or 0.0 for field in ("reads", "writes"))
        if moved:
            yield RuledOut(
                resource=f"disk {name}",
                verdict="not saturated",
                evidence=(_fact("busy", min(busy, 1.0), "share", BUSY_DISK, "/proc/diskstats"),),
            )


def _deleting(picture: Picture, _counters: Counters) -> Iterator[RuledOut]:
    """Large files that were deleted meanwhile, where next to nobody waited for it."""
    freed = picture.capture.frame(schema.FREED).filter(pl.col("bytes") >= freeing.LARGE_BYTES)
    theirs = freeing.every(picture)
    if theirs is None or freed.is_empty() or not picture.root.ns:
        return
    share = picture.share(theirs.moments.ns)
    if share < SMALL_SHARE:
        yield RuledOut(
            resource="deleting large files",
            verdict="not waited for",
            evidence=(
                _fact("space given back", int(freed["bytes"].sum()), "B", freeing.LARGE_BYTES, "freed"),
                _fact("of the time, in calls that did", share, "share", SMALL_SHARE, "syscalls, freed"),
            ),
        )


def _blamed_devices(picture: Picture) -> set[str]:
    named = set()
    for node in picture.nodes(Kind.DEVICE):
        on = picture.blame.nodes[node].on
        if on is not None and on.device and picture.share(picture.blame.nodes[node].ns) >= SMALL_SHARE:
            named.add(on.device)
    return named


def _network(_picture: Picture, counters: Counters) -> Iterator[RuledOut]:
    """Of the host's network namespace and of each other one in which a process was watched."""
    again = counters.deltas("RetransSegs")
    if again and not any(again):
        yield RuledOut(
            resource="network",
            verdict="nothing was sent again",
            evidence=(_fact("TCP segments sent again", 0, "segments", 0, "/proc/net/snmp"),),
        )


def _fact(fact: str, value: float, unit: str, threshold: float, source: str) -> Evidence:
    return Evidence(fact=fact, value=round(value, 4), unit=unit, threshold=threshold, source=source)
