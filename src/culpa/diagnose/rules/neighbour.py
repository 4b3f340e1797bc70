"""Waits behind another process's requests to the same device."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from culpa.capture.schema import BLOCKS, DEVICES, DIRTIED
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.rules.owners import Owner, chain_pids, owners
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.model.writeback import QUEUE

MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""
SLOW_NS = 500_000
"""Mean time of the waits behind the neighbour below which it delays nobody: flash answers in less."""


@rule(
    id="disk.neighbour",
    title="The device works on another process's data meanwhile",
    needs=(BLOCKS, DIRTIED),
    fixes=("neighbour-io-limit",),
    fires=(Lab("disk-neighbour"), Lab("dirty-throttle")),
    silent=(
        Lab("disk-neighbour-healthy"),
        Lab("disk-slow"),
        Lab("dirty-throttle-healthy"),
        Lab("redis-slow"),
        Lab("redis-slow-healthy"),
        Lab("fsync-loop"),
        Lab("cpu-busy"),
        Lab("herring-disk"),
    ),
)
def neighbour(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for a block device, which at those moments works on requests of a process that
    has no part in the request.

    Why it slows you: the device takes requests one after the other, or shares its speed among them.

    How sure: of the requests that the device was given first, the next to complete is what it works on. Whose data a
    request carries is told by the inode of its pages and by who dirtied them, also where a kernel thread submits it
    seconds later; what was dirtied before the window is nobody's.

    What to do: hold the neighbour to a rate (io.max, ionice under BFQ), move it or the victim to another device, or run
    it at another time.
    """
    for owner in neighbours(picture):
        yield _finding(picture, owner)


def neighbours(picture: Picture) -> list[Owner]:
    """Processes without a part in the root's requests whose data delays it at a device."""
    queued = [n for n in picture.nodes(Kind.DEVICE) if getattr(picture.blame.nodes[n].on, "stage", None) == QUEUE]
    involved = chain_pids(picture, queued)
    return [owner for owner in owners(picture, queued) if owner.pid not in involved and _delays(picture, owner)]


def _delays(picture: Picture, owner: Owner) -> bool:
    waits = sum(picture.blame.nodes[node].count for node in owner.nodes)
    return picture.share(owner.ns) >= MIN_SHARE and owner.ns / max(1, waits) >= SLOW_NS


def _finding(picture: Picture, owner: Owner) -> Finding:
    on = picture.blame.nodes[owner.nodes[0]].on
    device = on.device if on is not None and on.device else "the device"
    evidence = [
        Evidence(fact=f"waited for {device} behind data of {owner.comm or 'process'}[{owner.pid}]",
                 value=seconds(owner.ns), unit="s", threshold=None, source="blocks, block_parts, dirtied"),
    ]  # fmt: skip
    if owner.path:
        evidence.append(Evidence(fact="its data", value=owner.path, unit="", threshold=None, source="files"))
    evidence.extend(_traffic(picture, device))
    return Finding(
        moments=picture.moments(*owner.nodes), nearness=Nearness.NEIGHBOUR, pid=owner.pid, tid=owner.tid,
        on=On(device=device, path=owner.path), evidence=tuple(evidence), confidence=0.88,
        fixes=(
            Fix(
                id="neighbour-io-limit",
                change=f"hold {owner.comm or 'it'} to a rate on {device} (io.max of its control group), or move it",
                reversible=True,
                risk="the neighbour gets slower",
            ),
        ),
    )  # fmt: skip


def _traffic(picture: Picture, device: str) -> Iterator[Evidence]:
    numbers = picture.capture.frame(DEVICES).filter(pl.col("name") == device)["dev"].to_list()
    rows = picture.capture.frame(BLOCKS).filter(pl.col("dev").is_in(numbers) & (pl.col("op") == "write"))
    if not rows.is_empty():
        yield Evidence(
            fact=f"{device} was given to write in the window", value=int(rows["bytes"].sum()), unit="B",
            threshold=None, source="blocks",
        )  # fmt: skip
