"""Waits for a file system's journal that somebody else made it commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from culpa.capture.schema import BLOCKS
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import calls_behind, seconds
from culpa.diagnose.rules.owners import chain_pids
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.units import format_count

MIN_SHARE = 0.1
SLOW_NS = 500_000
"""Mean time of the waits below which no journal is slow: flash takes a commit in less."""
MIN_SYNCED = 3
"""Synced writes of one process in the window from which it is who makes the journal commit."""
MAX_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Syncer:
    """A process whose synced writes of files reached the device, how many, and its foremost file if its path
    is known.
    """

    pid: int
    tid: int
    writes: int
    path: str | None


@rule(
    id="fs.journal-wait",
    title="It waits for the file system's journal, which somebody else makes commit",
    needs=(BLOCKS,),
    fixes=("fs-sync-less-often",),
    fires=(Lab("journal-wait"),),
    silent=(Lab("journal-wait-healthy"), Lab("fsync-loop"), Lab("redis-slow-healthy"), Lab("word-pop-cached")),
)
def journal_wait(picture: Picture) -> Iterator[Finding]:
    """What it detects: calls that sync nothing (rename, create, unlink, a write that needs a block) wait for the
    journal of their file system: for room in it, or for a block of metadata that it is writing.

    Why it slows you: a file system has one journal. Each fsync makes it write down all that anybody has changed since,
    and who changes the same metadata meanwhile waits until that is on the disk.

    How sure: the waits and the journal's own writes are measured. By itself a journal commits every few seconds;
    whoever forces it is told by the synced writes of files that each process sent to that device, since the syncing
    process need not be watched. A sync without data of its own is missed so. Waits inside a sync are left out: those
    are the syncing program's own.

    What to do: sync less often (one fsync for many changes), or keep what is synced on another file system.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.JOURNAL):
        if any(picture.blame.nodes[step].kind is Kind.FSYNC for step in picture.blame.path(node)):
            continue
        if (device := _device(picture, node)) is not None:
            found[device].append(node)
    for device, nodes in found.items():
        ns = picture.moments(*nodes).ns
        waits = sum(picture.blame.nodes[node].count for node in nodes)
        if picture.share(ns) >= MIN_SHARE and ns / max(1, waits) >= SLOW_NS:
            yield _finding(picture, device, nodes)


def _device(picture: Picture, node: int) -> str | None:
    """The device of the journal: the wait tells it, or where the thread that writes the journal sends its requests."""
    blamed = picture.blame.nodes[node]
    if blamed.on is not None and blamed.on.device:
        return blamed.on.device
    rows = picture.capture.frame(BLOCKS).filter(pl.col("tid") == blamed.who)["dev"].drop_nulls()
    return picture.objects.device(int(rows.mode().sort()[0])) if len(rows) else None


def _finding(picture: Picture, device: str, nodes: list[int]) -> Finding:
    moments, calls = picture.moments(*nodes), calls_behind(picture, nodes)
    within = f" in {format_count(calls.count)} calls of {calls.name}" if calls else ""
    evidence = [
        Evidence(
            fact=f"waited for the journal on {device}{within}", value=seconds(moments.ns), unit="s", threshold=None,
            source="offcpu, blocks",
        )
    ]  # fmt: skip
    rows = picture.capture.frame(BLOCKS)
    devs = [dev for dev in rows["dev"].drop_nulls().unique().to_list() if picture.objects.device(dev) == device]
    rows = rows.filter(pl.col("dev").is_in(devs) & (pl.col("op") == "write"))
    journal = rows.filter(pl.col("tid").is_in(list(picture.objects.journal_tids))).height
    evidence.append(
        Evidence(fact="writes of the journal in the window", value=journal, unit="", threshold=None, source="blocks")
    )
    syncers = _syncers(picture, rows)
    for syncer in syncers[:MAX_NAMED]:
        fact = f"synced writes of {_name(picture, syncer)}{f' to {syncer.path}' if syncer.path else ''}"
        evidence.append(Evidence(fact=fact, value=syncer.writes, unit="", threshold=None, source="blocks"))
    most = syncers[0] if syncers and syncers[0].writes > sum(one.writes for one in syncers) / 2 else None
    own = most is not None and most.pid in chain_pids(picture, nodes)
    redis = most is not None and most.pid in picture.redis_pids  # whose syncs have causes of their own
    return Finding(
        moments=moments,
        nearness=Nearness.KERNEL if most is None or redis else Nearness.CODE if own else Nearness.NEIGHBOUR,
        pid=most.pid if most else None,
        tid=most.tid if most else None,
        on=On(device=device, path=most.path if most else None, syscall=calls.name if calls else None),
        evidence=tuple(evidence),
        confidence=0.85 if most else 0.65,
        title="It waits for the file system's journal, which its own syncs make commit" if own else None,
        fixes=(
            Fix(
                id="fs-sync-less-often",
                change=f"let {_name(picture, most) if most else 'whoever syncs on it'} sync once for many changes, or "
                "keep its files on another file system",
                reversible=True,
                risk="what was written since the last sync is lost on a power failure",
            ),
        ),
    )


def _syncers(picture: Picture, writes: pl.DataFrame) -> list[_Syncer]:
    """Processes that sent synced writes of files, the one with most of them first."""
    rows = writes.filter(
        pl.col("sync") & (pl.col("ino") > 0) & ~pl.col("tid").is_in(list(picture.objects.kernel_tids))
    ).drop_nulls(["pid", "tid"])
    files = rows.group_by("pid", "ino_dev", "ino").agg(pl.len(), pl.col("tid").min())
    files = files.sort(["len", "ino"], descending=[True, False])
    each = files.group_by("pid", maintain_order=True).agg(
        pl.col("tid").first(), pl.col("len").sum(), pl.col("ino_dev", "ino").first()
    )
    each = each.filter(pl.col("len") >= MIN_SYNCED).sort(["len", "pid"], descending=[True, False])
    return [
        _Syncer(pid=pid, tid=tid, writes=count, path=_path(picture, dev, ino))
        for pid, tid, count, dev, ino in each.iter_rows()
    ]


def _path(picture: Picture, dev: int, ino: int) -> str | None:
    path = picture.objects.file(dev, ino)
    return path if path.startswith("/") else None


def _name(picture: Picture, syncer: _Syncer) -> str:
    return picture.objects.thread_name(syncer.pid)
