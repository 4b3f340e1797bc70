"""The manifest of a capture: what was watched, when, by which collectors, and what could not be seen."""

from __future__ import annotations

from typing import Literal

import msgspec

from culpa.capture.schema import SCHEMA

TargetKind = Literal["host", "process", "url", "redis", "command"]
EndedBy = Literal["limit", "steady", "request", "interrupt", "exit"]


class BlindSpot(msgspec.Struct, frozen=True, kw_only=True):
    """Something that could not be seen, why, and what would change that."""

    what: str
    why: str
    way_out: str


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The watched host. `machine` is uname's, e.g. x86_64; `page_bytes` and `ticks_per_second` help to read /proc."""

    kernel: str
    machine: str
    cpus: int
    memory_bytes: int
    page_bytes: int
    ticks_per_second: int


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What the user pointed at; `name` carries no credentials. `pids` are the processes the root belongs to."""

    kind: TargetKind
    name: str
    pids: tuple[int, ...] = ()
    method: str = "GET"
    slower_than_ns: int = 200_000_000


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The watched time: CLOCK_MONOTONIC bounds, and the wall clock (ns since the epoch) at its start."""

    start_ns: int
    end_ns: int
    start_realtime_ns: int
    ended_by: EndedBy


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """How the waits were seen: eBPF events, /proc samples, or neither.

    `detail_end_ns`: from then on no single events were recorded, as they cost more than the budget; None: all were.
    `sums_from_ns`: from then on the kernel summed them up (`sums`).
    """

    waits: Literal["events", "samples", "none"]
    detail_end_ns: int | None = None
    sums_from_ns: int | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What watching cost. `probe_cpu_ns` is kernel time in culpa's eBPF programs (BPF_ENABLE_STATS)."""

    events: int = 0
    lost_events: int = 0
    probe_cpu_ns: int = 0
    culpa_cpu_ns: int = 0
    peak_rss_bytes: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json` of a capture."""

    culpa_version: str
    host: Host
    target: Target
    window: Window
    evidence: Evidence
    cost: Cost = Cost()
    blind_spots: tuple[BlindSpot, ...] = ()
    redacted: bool = False
    schema: str = SCHEMA
