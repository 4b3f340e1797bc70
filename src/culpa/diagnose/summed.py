"""The root's time shared out from sums, where events were no longer recorded: above the budget the kernel only sums up.

For each thread of the target it is known how long it ran, was runnable, or was blocked, and how long its calls on each
file took. There are no single moments and no wakers: whose answer a thread waited for cannot be told. The time of one
thread is laid end to end, the calls on files first, so that shares and sums are right and moments mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import polars as pl

from culpa import syscalls
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.blame import NO_ONE, ROOT, Blame, BlameBuilder, Interval
from culpa.diagnose.root import Root
from culpa.model.kinds import Kind
from culpa.model.objects import Objects, Thing

OTHER_BLOCKED = "blocked in the kernel, in no call on a file"
KEPT = (
    schema.SUMS, schema.TASKS, schema.PROCESSES, schema.FILES, schema.REDIS, schema.SOCKETS, schema.COUNTERS,
    schema.DEVICES, schema.CODE, schema.REQUESTS,
)  # fmt: skip
"""What still holds where events do not."""

Part = tuple[Kind, Thing | None, int, int]
"""Kind, what on, ns, count."""


def part(capture: Capture) -> Capture | None:
    """The capture as if it were only its sums, and the window their time; None where there are none."""
    from_ns, window = capture.manifest.evidence.sums_from_ns, capture.manifest.window
    if from_ns is None or from_ns >= window.end_ns or capture.frame(schema.SUMS).is_empty():
        return None
    tables = {table.name: capture.frame(table) for table in KEPT if capture.has(table)}
    asked = tables.get(schema.REQUESTS.name, schema.REQUESTS.empty())
    waits = pl.col("end_ns").is_null() | (pl.col("end_ns") > from_ns)  # its part of one that was open when events ended
    begun = asked.filter(waits).with_columns(start_ns=pl.max_horizontal("start_ns", pl.lit(from_ns, pl.Int64)))
    realtime_ns = window.start_realtime_ns + from_ns - window.start_ns
    clipped = msgspec.structs.replace(window, start_ns=from_ns, start_realtime_ns=realtime_ns)
    return Capture(
        manifest=msgspec.structs.replace(capture.manifest, window=clipped),
        tables=tables | ({schema.REQUESTS.name: begun} if schema.REQUESTS.name in tables else {}),
    )


def share_out(capture: Capture, requests: pl.DataFrame) -> tuple[Root, Blame]:
    """Root and blame tree from `sums`.

    Args:
        capture: as from `part`.
        requests: those of culpa's own in its window, as in `Root.requests`.
    """
    tree, start_ns = BlameBuilder(Kind.REQUEST), capture.manifest.window.start_ns
    objects, numbers = Objects(capture), syscalls.Numbers(capture.manifest.host.machine)
    rows = capture.frame(schema.SUMS).filter(pl.col("pid").is_in(list(capture.manifest.target.pids)))
    lengths, idle_ns = [], 0
    for item, ((tid,), mine) in enumerate(rows.group_by("tid", maintain_order=True)):
        at = start_ns
        for kind, thing, ns, count in _parts(mine, numbers, objects):
            node = tree.node(ROOT, kind, int(str(tid)), thing)
            _add(tree, ROOT, item, at, ns, count=0)
            _add(tree, node, item, at, ns, count=count)
            at += ns
        lengths.append(at - start_ns)
        idle_ns += max(0, _spent(mine, "sleeping") - max(0, at - start_ns - _busy(mine)))
    length, items = np.array(lengths, np.int64), np.arange(len(lengths), dtype=np.int64)
    start = np.full(len(lengths), start_ns, np.int64)
    window = capture.manifest.window
    root = Root(
        basis="requests" if len(requests) else "threads",
        interval=Interval.of(start, start + length, items),
        queued=Interval.of(start[:0], start[:0], items[:0]),
        requests=requests,
        leads=(),
        threads=len(lengths),
        idle_ns=idle_ns,
        wall_ns=window.end_ns - window.start_ns,
    )
    return root, tree.build()


def _add(tree: BlameBuilder, node: int, item: int, start_ns: int, ns: int, *, count: int) -> None:
    one = np.ones(1, np.int64)
    leaf = np.array([node != ROOT])
    tree.add(one * node, one * item, one * start_ns, one * ns, leaf=leaf, count=one * count)


def _parts(mine: pl.DataFrame, numbers: syscalls.Numbers, objects: Objects) -> Iterator[Part]:
    """One thread's time that was not idle; in sum at most what the thread had."""
    left = _busy(mine) + _spent(mine, "sleeping")
    in_calls = 0
    for nr, dev, ino, ns, count in _file_calls(mine, numbers).iter_rows():
        name, taken = numbers.name(nr), min(ns, left)
        thing = Thing(syscall=name) if ino is None else Thing(path=objects.file(dev or 0, ino), syscall=name)
        if taken > 0:
            yield Kind.FSYNC if name in syscalls.SYNC else Kind.IO, thing, taken, count
        left, in_calls = left - taken, in_calls + taken
    blocked = max(0, _spent(mine, "blocked") - in_calls)
    rest = max(0, _busy(mine) - in_calls - blocked)
    running, runnable = _spent(mine, "running"), _spent(mine, "runnable")
    on_cpu = rest * running // max(1, running + runnable)
    others: tuple[Part, ...] = (
        (Kind.RUNNING, None, on_cpu, 1),
        (Kind.RUNNABLE, None, rest - on_cpu, 1),
        (Kind.UNEXPLAINED, Thing(stage=OTHER_BLOCKED), blocked, 1),
    )
    yield from (one for one in others if one[2] > 0)


def _file_calls(mine: pl.DataFrame, numbers: syscalls.Numbers) -> pl.DataFrame:
    """nr, dev, ino, total_ns, count of calls on files of a disk, and of syncs of whatever; the longest first."""
    on_disk = pl.col("file_type").cast(pl.String).is_in(["reg", "dir"]) & pl.col("nr").is_in(
        list(numbers.of(syscalls.FILE_IO))
    )
    syncs = pl.col("nr").is_in(list(numbers.of(syscalls.SYNC)))
    calls = mine.filter((pl.col("what") == "call") & (on_disk | syncs).fill_null(value=False))
    chosen = calls.sort("total_ns", "nr", "ino", descending=[True, False, False])
    return chosen.select("nr", "dev", "ino", "total_ns", "count")


def _spent(mine: pl.DataFrame, what: str) -> int:
    return int(mine.filter(pl.col("what") == what)["total_ns"].sum())


def _busy(mine: pl.DataFrame) -> int:
    return sum(_spent(mine, what) for what in ("running", "runnable", "blocked"))


def calls_behind(blame: Blame, nodes: list[int]) -> tuple[int, int, str] | None:
    """Number, ns and name of the calls that nodes of such a tree stand for; None where one stands for none."""
    chosen = [blame.nodes[node] for node in nodes if blame.nodes[node].who != NO_ONE]
    names = [node.on.syscall for node in chosen if node.on is not None and node.on.syscall is not None]
    if not names or len(names) < len(nodes):
        return None
    return sum(node.count for node in chosen), sum(node.ns for node in chosen), names[0]
