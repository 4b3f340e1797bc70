"""Waits because the host itself is short of memory: whoever wants a page makes room for it first."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from culpa.capture.schema import COUNTERS, OFFCPU
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.ruled_out import Counters
from culpa.diagnose.rules.evidence import names_below, seconds
from culpa.diagnose.rules.memorylimits import host_memory, memory_users
from culpa.diagnose.rules.swap import LESS_MEMORY, MIN_SHARE, memory_waits, part
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.model.stages import COMPACTION, RECLAIM
from culpa.units import format_count

VMSTAT, PRESSURE = "/proc/vmstat", "/proc/pressure/memory"
NS_PER_US = 1000
_STALLS, _THROTTLED, _COMPACTIONS = "allocstall", "pgscan_direct_throttle", "compact_stall"
_SCANNED, _FREED = "pgscan_direct", "pgsteal_direct"
"""Counted for the host only, never within a control group (cgroup_reclaim in mm/vmscan.c); older kernels have one
field a zone.
"""
_SOONER = Fix(
    id="reclaim-sooner", change="raise vm.watermark_scale_factor: the kernel then makes room earlier, by itself",
    reversible=True, risk="that much memory stays free",
)  # fmt: skip


@rule(
    id="mem.reclaim",
    title="The host is short of memory",
    needs=(OFFCPU,),
    fixes=("memory-more", "reclaim-sooner"),
    fires=(),
    silent=(Lab("mem-limit"), Lab("mem-limit-healthy"), Lab("mem-swap"), Lab("mem-swap-healthy"), Lab("page-faults")),
    unmade="it would take all memory of its host away",
)
def reclaim(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits while the kernel makes room for a page that it asks for, because the host has
    none left (direct reclaim), or none in one piece (compaction).

    Why it slows you: the thread that wants the page throws others out itself, and stands still until a device has taken
    them or a pause is over.

    How sure: each wait has its kernel stack. Making room within the limit of a control group has another one, and is
    `mem.cgroup-limit`; a page that is read back from swap is `mem.swap`. Where the kernel counted that nobody on the
    host had to make room in the window, nothing is said. What the kernel does beside the programs (kswapd) delays
    nobody.

    What to do: more memory, or fewer users of it: the largest are named, and by how much they grew.
    """
    waits = memory_waits(picture, Kind.RECLAIM, (RECLAIM, COMPACTION))
    if not waits or _counted(picture, _STALLS, _THROTTLED, _COMPACTIONS) == 0:
        return
    for pid, nodes in waits.items():
        moments = picture.moments(*nodes)
        if picture.share(moments.ns) < MIN_SHARE:
            continue
        devices = names_below(picture, nodes, Kind.DEVICE)
        yield Finding(
            moments=moments, nearness=Nearness.NEIGHBOUR, pid=pid, tid=None,
            on=On(device=devices[0]) if devices else None, evidence=tuple(_evidence(picture, pid, nodes, devices)),
            confidence=0.8 if _counted(picture, _STALLS) is None else 0.9, fixes=(LESS_MEMORY, _SOONER),
        )  # fmt: skip


def _evidence(picture: Picture, pid: int, nodes: list[int], devices: list[str]) -> Iterator[Evidence]:
    who = picture.objects.thread_name(pid)
    yield from part(picture, f"{who} made room for the pages that it asked for", nodes)
    pieces = [node for node in nodes if _stage(picture, node) == COMPACTION]
    if len(pieces) < len(nodes):
        yield from part(picture, "of it, so that pages lie in one piece (compaction)", pieces)
    if devices:
        names = ", ".join(devices)
        yield Evidence(fact="waited for a device to take others", value=names, unit="", threshold=None, source="blocks")
    yield from _counters(picture)
    yield from host_memory(picture)
    yield from memory_users(picture)


def _stage(picture: Picture, node: int) -> str | None:
    on = picture.blame.nodes[node].on
    return None if on is None else on.stage


def _counters(picture: Picture) -> Iterator[Evidence]:
    """What the kernel counted in the window, for the host."""
    for fact, fields in (
        ("times that a thread of the host had to make room itself (direct reclaim)", (_STALLS,)),
        ("times that one had to move pages together (compaction)", (_COMPACTIONS,)),
    ):
        if counted := _counted(picture, *fields):
            source = f"{VMSTAT}: {fields[0]}"
            yield Evidence(fact=fact, value=int(counted), unit="", threshold=None, source=source)
    if scanned := _counted(picture, _SCANNED):
        freed = _counted(picture, _FREED) or 0
        yield Evidence(
            fact=f"pages that they looked at for it; {format_count(freed)} could be thrown out", value=int(scanned),
            unit="", threshold=None, source=f"{VMSTAT}: {_SCANNED}, {_FREED}",
        )  # fmt: skip
    stalled_us = Counters(picture.capture.frame(COUNTERS)).delta(PRESSURE, "", "some.total")
    if stalled_us:
        yield Evidence(
            fact="of the window, some thread of the host waited for memory", value=seconds(stalled_us * NS_PER_US),
            unit="s", threshold=None, source=PRESSURE,
        )  # fmt: skip


def _counted(picture: Picture, *names: str) -> float | None:
    """How often in the window, all zones together; None where the capture does not have it."""
    rows = picture.capture.frame(COUNTERS).filter(pl.col("source") == VMSTAT)
    counters = Counters(rows)
    grown = [
        counters.delta(VMSTAT, "", field)
        for field in rows["field"].drop_nulls().unique().sort().to_list()
        if any(field == name or (field.startswith(f"{name}_") and field != _THROTTLED) for name in names)
        and counters.per_second(VMSTAT, "", field) is not None  # read more than once
    ]
    return sum(delta for delta in grown if delta is not None) if grown else None
