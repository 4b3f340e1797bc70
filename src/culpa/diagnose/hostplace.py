"""Where a server's memory and CPUs lie on its host, and which clock the kernel reads there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from culpa.capture import schema

if TYPE_CHECKING:
    from culpa.diagnose.redisview import RedisView

KILOBYTE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One NUMA node: what of the server's memory lies there, and how many of its CPUs the main thread may use."""

    name: str
    held_bytes: float
    allowed_cpus: int

    @property
    def number(self) -> str:
        """Without the word before it."""
        return self.name.removeprefix("node")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The clock that the kernel reads, and those that it could."""

    current: str
    available: tuple[str, ...]


def nodes(view: RedisView) -> list[Node]:
    """The nodes of its host; empty where there is but one, or its memory map was not seen."""
    rows = view.picture.capture.frame(schema.COUNTERS).sort("ts_ns").drop_nulls(["object", "field", "value"])
    rows = rows.filter((pl.col("field") != _OF_NODE[0]) | (pl.col("source") == f"/proc/{view.pid}/numa_maps"))
    told = {field: dict(rows.filter(field=field).select("object", "value").iter_rows()) for field in _OF_NODE}
    held, cpus = (told[field] for field in _OF_NODE)
    return [
        Node(name=name, held_bytes=held[name] * KILOBYTE, allowed_cpus=int(cpus[name]))
        for name in sorted(held.keys() & cpus.keys())
    ]


_OF_NODE = ("held_kb", "allowed_cpus")


def clock(view: RedisView) -> Clock | None:
    """That of its host; None where it was not seen."""
    rows = view.picture.capture.frame(schema.COUNTERS).filter(pl.col("source").str.ends_with("_clocksource"))
    current = rows.filter(field="current")["object"].drop_nulls()
    if current.is_empty():
        return None
    return Clock(current=str(current[-1]), available=tuple(rows.filter(field="available")["object"].unique().sort()))
