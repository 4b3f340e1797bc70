"""Files that are opened so that each write waits for the disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.capture.schema import FILES, SYSCALLS
from culpa.diagnose import workers
from culpa.diagnose.code import line_of
from culpa.diagnose.filecalls import O_DSYNC
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import calls_behind, code_evidence, journal_and_device, seconds, threads_of
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import NONE, Kind
from culpa.syscalls import Numbers
from culpa.units import format_count

MIN_WRITES = 10
"""Synced writes in one request, or in one window of a process, from which they are a habit."""
MIN_SHARE = 0.1
"""Of the root's time, in writes that sync."""
O_ACCMODE, O_RDONLY = 0o3, 0
BY_FLAGS, BY_CALL, BY_STACK = "its open flags (/proc/PID/fdinfo)", "the call that opened it", "kernel stacks alone"


@rule(
    id="app.io.sync-open",
    title="It has a file open so that every write waits for the disk (O_SYNC, O_DSYNC)",
    needs=(SYSCALLS,),
    fixes=("app-open-without-sync",),
    fires=(Lab("sync-open"),),
    silent=(Lab("sync-open-healthy"), Lab("fsync-loop"), Lab("node-sync"), Lab("redis-slow"), Lab("word-pop")),
)
def sync_open(picture: Picture) -> Iterator[Finding]:
    """What it detects: within a request a process makes ten or more writes to a file, and waits in them until what they
    wrote is on the disk, though no call is named sync.

    Why it slows you: each write, however small, waits for the file system's journal and for the device to flush its
    cache, and the next one is made only after that.

    How sure: the waits are measured inside the writes, and the kernel's own stack shows the sync within them. How the
    file is open is read from the call that opened it, or from its open flags at the end. Where it was opened in the
    window without these flags, the file system is mounted so, or the write itself asks for it: that is
    `disk.fsync-heavy` alone, which is told beside this one as well. Flags that keep the page cache out (O_DIRECT) are
    not judged.

    What to do: open the file without the flag, and sync once for a batch where the data must survive a power failure;
    or collect the records and write them at once.
    """
    if picture.file_calls is None:
        return
    opened = picture.file_calls.rows.filter((pl.col("operation") == "open") & (pl.col("ret") >= 0))
    found: dict[str, list[int]] = defaultdict(list)
    for node in _synced_writes(picture):
        who = picture.blame.nodes[node].who
        found[picture.objects.process(picture.objects.pid_of.get(who, who)).comm or str(who)].append(node)
    for nodes in found.values():
        path = _path(picture, nodes[0])
        calls, moments = calls_behind(picture, nodes), picture.moments(*nodes)
        told = _told_by(picture, path, opened)
        if calls is None or told is None or picture.share(moments.ns) < MIN_SHARE:
            continue
        if calls.count < MIN_WRITES * (picture.request_count if picture.has_price else 1):
            continue
        yield _finding(picture, nodes, told)


def _synced_writes(picture: Picture) -> Iterator[int]:
    """Nodes of waits for a sync that lie in writes, the largest first."""
    if picture.graph is None:
        return
    syncs = list(Numbers(picture.capture.manifest.host.machine).of(syscalls.SYNC))
    named = picture.graph.calls["nr"].is_in(syncs).fill_null(value=False).to_numpy()
    for node in picture.nodes(Kind.FSYNC):
        rows = picture.blame.inside(node).call
        rows = rows[rows != NONE]
        if len(rows) and not named[rows].any() and picture.blame.nodes[node].on is not None:
            yield node


def _path(picture: Picture, node: int) -> str | None:
    on = picture.blame.nodes[node].on
    return on.path if on else None


def _told_by(picture: Picture, path: str | None, opened: pl.DataFrame) -> str | None:
    """What says that the file is open so; None where it is known to be open without."""
    files = picture.capture.frame(FILES).filter(pl.col("synced").fill_null(value=False))
    if path is not None and path in files["path"].to_list():
        return BY_FLAGS
    ways = opened.filter((pl.col("path") == path) & (pl.col("flags") & O_ACCMODE != O_RDONLY))["flags"].drop_nulls()
    if ways.is_empty():
        return BY_STACK
    return BY_CALL if (ways & O_DSYNC != 0).any() else None


def _finding(picture: Picture, nodes: list[int], told: str) -> Finding:
    largest, path, moments = picture.blame.nodes[nodes[0]].who, _path(picture, nodes[0]), picture.moments(*nodes)
    pid = picture.objects.pid_of.get(largest, largest)
    calls, line = calls_behind(picture, nodes), line_of(picture, threads_of(picture, nodes))
    assert calls is not None
    others = workers.beside(picture, nodes, pid)
    each = picture.request_count if picture.has_price else 1
    evidence = [
        Evidence(
            fact=f"{picture.objects.thread_name(largest)} waits for the disk within {calls.name}: "
            f"{format_count(calls.count)} calls x {calls.ns / calls.count / 1e6:.3g} ms",
            value=seconds(moments.ns), unit="s", threshold=seconds(MIN_SHARE * picture.root.ns),
            source="offcpu, syscalls, stacks",
        ),
        *workers.more_like_it(picture, others),
        Evidence(fact="file, open so that writes are synced", value=path or "?", unit="", threshold=None, source=told),
        *_written(picture, nodes, each),
        *journal_and_device(picture, nodes),
    ]  # fmt: skip
    if line is not None:
        evidence.append(code_evidence(line))
    return Finding(
        moments=moments, nearness=Nearness.SETTING, pid=pid, tid=largest,
        on=On(path=path, syscall=calls.name, code=line.place if line else None), evidence=tuple(evidence),
        confidence=0.75 if told == BY_STACK else 0.93,
        fixes=(
            Fix(
                id="app-open-without-sync",
                change="open the file without O_SYNC and O_DSYNC; where it must survive a power failure, "
                "one fdatasync for a batch",
                reversible=True, risk="what was written since the last sync is lost on a power failure",
            ),
        ),
    )  # fmt: skip


def _written(picture: Picture, nodes: list[int], requests: int) -> Iterator[Evidence]:
    """How many bytes these writes moved."""
    assert picture.graph is not None
    rows = np.unique(picture.blame.inside(*nodes).call)
    moved = picture.graph.calls[rows[rows != NONE].tolist()]["ret"].drop_nulls()
    size = int(moved.filter(moved > 0).sum())
    if size:
        fact = f"written by them{' a request' if picture.has_price else ''}"
        yield Evidence(fact=fact, value=size // requests, unit="B", threshold=None, source="syscalls")
