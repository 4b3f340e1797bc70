"""Waits for memory: writers that are held back because too much is dirty."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import polars as pl

from culpa.capture.schema import COUNTERS, THROTTLES
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import calls_behind, seconds
from culpa.diagnose.rules.owners import Owner, chain_pids, owners
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.model.writeback import DIRTY_PAGES, OLDER
from culpa.units import format_bytes, format_count, format_share

STAGES = (DIRTY_PAGES, "dirty page throttling")
"""The second is the stage in the stack: all there is where the pauses themselves were not seen."""
NAMED_WRITERS = 3
"""Of those who dirtied the pages."""


@rule(
    id="mem.dirty-throttle",
    title="Writers are made to wait until dirty pages are written back",
    needs=(),
    fixes=("dirty-write-less", "dirty-limits"),
    fires=(Lab("dirty-throttle"),),
    silent=(
        Lab("dirty-throttle-healthy"),
        Lab("word-pop-cached"),
        Lab("logapp-cached"),
        Lab("fsync-loop-healthy"),
        Lab("redis-slow-healthy"),
        Lab("cpu-busy"),
    ),
)
def dirty_throttle(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits inside write calls in which the kernel makes writers pause
    (balance_dirty_pages), because more pages are dirty than the host or the device may have.

    Why it slows you: from then on everybody who writes to that device goes at the speed of the device, also who writes
    little and would never wait otherwise.

    How sure: each pause was seen, with what was dirty at that moment and the limits. Who dirtied it is counted per
    process and inode as the pages became dirty, less what has reached the device; older pages stay without a name.

    What to do: write less, or to another device; raise the limit that is in force (the host's vm.dirty_*, or the
    device's share under /sys/class/bdi) if the writes come in bursts.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.THROTTLE):
        on = picture.blame.nodes[node].on
        if on is not None and on.stage in STAGES:
            found[on.device or "a device"].append(node)
    for device, nodes in found.items():
        yield _finding(picture, device, nodes)


def _finding(picture: Picture, device: str, nodes: list[int]) -> Finding:
    moments = picture.moments(*nodes)
    writers = owners(picture, nodes)
    top = writers[0] if writers else None
    calls = calls_behind(picture, nodes)
    count = f" in {format_count(calls.count)} calls of {calls.name}" if calls else ""
    evidence = [
        Evidence(fact=f"made to pause by balance_dirty_pages{count}", value=seconds(moments.ns), unit="s",
                 threshold=None, source="offcpu, throttles")
    ]  # fmt: skip
    evidence.extend(_limits(picture, device))
    evidence.extend(_writers(writers, moments.ns))
    evidence.extend(_bystanders(picture, device, nodes))
    itself = top is None or top.pid in chain_pids(picture, nodes)
    return Finding(
        moments=moments, nearness=Nearness.LIMIT if itself else Nearness.NEIGHBOUR, pid=top.pid if top else None,
        tid=top.tid if top else None, on=On(device=device, path=top.path if top else None), evidence=tuple(evidence),
        confidence=0.9 if top else 0.75, fixes=_fixes(device),
    )  # fmt: skip


def _limits(picture: Picture, device: str) -> Iterator[Evidence]:
    """Which limit held: the device's share, or the host's (a pause begins half way between its two thresholds)."""
    rows = _pauses(picture, device).drop_nulls(["dirty", "threshold", "background", "disk_dirty", "disk_threshold"])
    if rows.is_empty():
        return
    middle = rows.sort("disk_dirty", "ts_ns").row(len(rows) // 2, named=True)
    free = (middle["threshold"] + middle["background"]) // 2
    for fact, value, limit, held in (
        (f"dirty on {device}, of the share it may have", middle["disk_dirty"], middle["disk_threshold"],
         middle["dirty"] <= free),
        ("dirty on the host, of what it may have before writers pause", middle["dirty"], free, middle["dirty"] > free),
    ):  # fmt: skip
        word = " (the limit in force)" if held else ""
        yield Evidence(fact=fact + word, value=int(value), unit="B", threshold=int(limit), source="throttles")
    if middle["dirty"] > free:
        yield from _settings(picture)


def _pauses(picture: Picture, device: str) -> pl.DataFrame:
    """Rows of `throttles` on the device of that name."""
    rows = picture.capture.frame(THROTTLES)
    disks = [disk for disk in rows["disk"].drop_nulls().unique().to_list() if picture.objects.device(disk) == device]
    return rows.filter(pl.col("disk").is_in(disks))


def _bystanders(picture: Picture, device: str, nodes: list[int]) -> Iterator[Evidence]:
    """Who else was made to pause on that device, the longest first."""
    others = _pauses(picture, device).filter(~pl.col("pid").is_in(list(chain_pids(picture, nodes))))
    longest = others.group_by("pid").agg(pl.col("pause_ns").sum()).sort("pause_ns", "pid", descending=[True, False])
    for pid, ns in longest.head(NAMED_WRITERS).iter_rows():
        name = picture.objects.process(pid).comm or picture.objects.comm.get(pid) or "process"
        yield Evidence(
            fact=f"made to pause there as well: {name}[{pid}]", value=seconds(ns), unit="s", threshold=None,
            source="throttles",
        )  # fmt: skip


def _settings(picture: Picture) -> Iterator[Evidence]:
    rows = picture.capture.frame(COUNTERS).filter(pl.col("source").str.starts_with("/proc/sys/vm/dirty_"))
    values = dict(rows.sort("ts_ns").select("field", "value").iter_rows())
    ratio, size = values.get("dirty_ratio"), values.get("dirty_bytes")
    if size:
        yield Evidence(fact="vm.dirty_bytes", value=int(size), unit="B", threshold=None, source="/proc/sys/vm")
    elif ratio is not None:
        yield Evidence(fact="vm.dirty_ratio", value=ratio, unit="%", threshold=None, source="/proc/sys/vm")


def _writers(writers: list[Owner], ns: int) -> Iterator[Evidence]:
    for writer in writers[:NAMED_WRITERS]:
        name = f"{writer.comm or 'process'}[{writer.pid}]"
        place = f" to {writer.path}" if writer.path else ""
        yield Evidence(
            fact=f"dirtied by {name}{place}: {format_bytes(writer.dirtied)} in the window, its part of the pauses",
            value=format_share(writer.ns / ns) if ns else format_share(0), unit="", threshold=None, source="dirtied",
        )  # fmt: skip
    older = ns - sum(writer.ns for writer in writers)
    if older > 0.01 * ns:
        yield Evidence(fact=OLDER, value=format_share(older / ns), unit="", threshold=None, source="throttles, dirtied")


def _fixes(device: str) -> tuple[Fix, ...]:
    return (
        Fix(
            id="dirty-write-less",
            change=f"write less to {device}, or let the large writer write elsewhere",
            reversible=True,
            risk="none for the data",
        ),
        Fix(
            id="dirty-limits",
            change="raise the limit in force: vm.dirty_bytes, or max_ratio, max_bytes of the device (/sys/class/bdi)",
            reversible=True,
            risk="more unwritten data is lost on a power failure, and a later sync takes longer",
        ),
    )
