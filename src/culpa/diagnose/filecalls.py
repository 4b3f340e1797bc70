"""What the processes on the root's chain did to files: one row per call on a regular file, and when it cost time.

A blame tree has a node for what was waited for, not for each call: many short calls lie in one stretch of running. Here
the calls themselves are laid against the moments in which their thread was on the chain. Calls of the same processes
beside the chain (a pool of threads that write side by side) are counted, and cost the root nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.blame import ROOT
from culpa.diagnose.moments import Moments
from culpa.model.axis import Axis, Bools, Int64s, expand
from culpa.model.kinds import Kind
from culpa.model.waitgraph import WaitGraph
from culpa.syscalls import Numbers

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

O_CREAT, O_APPEND, O_DSYNC = 0o100, 0o2000, 0o10000
"""include/uapi/asm-generic/fcntl.h; the same on x86 and arm64. O_SYNC includes O_DSYNC."""
OPERATIONS: dict[str, frozenset[str]] = {
    "open": frozenset({"open", "openat", "openat2", "creat"}),
    "write": frozenset({"write", "writev", "pwrite64", "pwritev", "pwritev2", "ftruncate", "fallocate"}),
    "read": frozenset({"read", "readv", "pread64", "preadv", "preadv2"}),
    "sync": frozenset({"fsync", "fdatasync", "sync_file_range"}),
    "close": frozenset({"close"}),
    "unlink": frozenset({"unlink", "unlinkat"}),
    "rename": frozenset({"rename", "renameat", "renameat2"}),
    "cut": frozenset({"truncate"}),
    "directory": frozenset({"mkdir", "rmdir"}),
    "seek": frozenset({"lseek"}),
}
"""What calls do to a file, and which calls do it."""
_PLACED = frozenset({"pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2"})
_SIZED = frozenset({"read", "pread64", "write", "pwrite64"})
"""Their third argument is how many bytes are asked for."""
NEAR = 10
"""Calls further apart than so many times what may lie between them do not follow one another."""
_WITHOUT_FD = ("unlink", "rename", "cut", "directory")
NOT_WAITING = (Kind.RUNNING, Kind.RUNNABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clipped:
    """Parts of calls that lie on the root's chain; `call` is the row of the call in `FileCalls.rows`."""

    call: Int64s
    item: Int64s
    start_ns: Int64s
    end_ns: Int64s
    waiting: Bools

    def moments(self, rows: Collection[int], *, waiting: bool) -> Moments:
        """When the calls of these rows held the root up; only their waits if `waiting`."""
        mine = np.isin(self.call, list(rows)) & (self.waiting if waiting else True)
        return Moments.union(self.item[mine], self.start_ns[mine], self.end_ns[mine])


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCalls:
    """Calls on files by processes with threads on the chain, made during the root's time.

    `rows`: row, tid, pid, nr, operation (a key of `OPERATIONS`), enter_ns, exit_ns, dev, ino, path (null for calls that
    name a file by a path: the capture does not have it), bytes (moved; null for other calls), asked (bytes that a read
    or write was to move at most; null where the call has a vector), placed (it says where in the file, and does not go
    on where the last one ended), ret, fd (for a call that opens a file the new one), flags (of a call that opens a
    file; null for others and for openat2, which has them in memory), creates, appends (the call opens a file for
    appending, or is on one that somebody has open so).
    """

    rows: pl.DataFrame
    _parts: _Clipped

    def moments(self, rows: pl.DataFrame) -> Moments:
        """When these calls held the root up, running or waiting."""
        return self._parts.moments(rows["row"].to_list(), waiting=False)

    def waits(self, rows: pl.DataFrame) -> Moments:
        """When the root waited in these calls, neither running nor runnable."""
        return self._parts.moments(rows["row"].to_list(), waiting=True)

    def by_thread(self, rows: pl.DataFrame, tids: Collection[int], *, between_ns: int = 0) -> dict[int, Moments]:
        """`one_after_the_other` of each of these threads, with its own calls of these."""
        theirs = rows.filter(pl.col("tid").is_in(list(tids))).group_by("tid", maintain_order=True)
        return {int(str(tid)): self.one_after_the_other(mine, between_ns=between_ns) for (tid,), mine in theirs}

    def items(self) -> pl.DataFrame:
        """row, item: the root item within which each call on the chain held the root up, the first where several."""
        parts = pl.DataFrame({"row": self._parts.call, "item": self._parts.item})
        first = parts.group_by("row").agg(pl.col("item").min())
        return first.cast({"row": self.rows.schema["row"]})

    def one_after_the_other(self, rows: pl.DataFrame, *, between_ns: int) -> Moments:
        """As `moments`, with what their thread did from each of these calls to the next, at most `between_ns` of it."""
        mine = np.isin(self._parts.call, rows["row"].to_list()) & ~self._parts.waiting
        parts = pl.DataFrame(
            {"row": self._parts.call[mine], "item": self._parts.item[mine], "start_ns": self._parts.start_ns[mine],
             "end_ns": self._parts.end_ns[mine]},
            schema_overrides={"row": rows.schema["row"]},
        )  # fmt: skip
        parts = parts.join(rows.select("row", "tid"), on="row").sort("item", "tid", "start_ns")
        following = pl.col("start_ns").shift(-1).over("item", "tid")
        near = following.is_not_null() & (following - pl.col("end_ns") <= NEAR * between_ns)
        reach = pl.when(near).then(pl.min_horizontal(following, pl.col("end_ns") + between_ns)).otherwise("end_ns")
        parts = parts.with_columns(reach_ns=pl.max_horizontal(reach, "end_ns"))
        return Moments.union(*(parts[name].to_numpy() for name in ("item", "start_ns", "reach_ns")))

    def busiest(self, rows: pl.DataFrame) -> tuple[int, int]:
        """pid and tid of the thread in whose calls, of these, most of the root's time was spent.

        Of threads that cost it nothing, the one whose calls are longest.
        """
        mine = ~self._parts.waiting
        lengths = pl.DataFrame(
            {"row": self._parts.call[mine], "ns": (self._parts.end_ns - self._parts.start_ns)[mine]},
            schema_overrides={"row": rows.schema["row"]},
        )
        calls = rows.join(lengths.group_by("row").agg(pl.col("ns").sum()), on="row", how="left")
        whole = (pl.col("exit_ns") - pl.col("enter_ns")).sum()
        spent = calls.drop_nulls(["pid", "tid"]).group_by("pid", "tid").agg(pl.col("ns").sum(), whole=whole)
        most = spent.sort("ns", "whole", "tid", descending=[True, True, False])
        pid, tid = most.select("pid", "tid").row(0)
        return int(pid), int(tid)


def on_chain(picture: Picture) -> FileCalls | None:
    """The file calls of a picture; None where waits were only sampled."""
    if picture.graph is None:
        return None
    calls = _calls(picture, picture.graph)
    every, waits = _thread_moments(picture, calls["tid"].drop_nulls().unique().to_list())
    whole, waited = _overlaps(picture.graph.axis, calls, every), _overlaps(picture.graph.axis, calls, waits)
    parts = _Clipped(
        call=np.append(whole.call, waited.call),
        item=np.append(whole.item, waited.item),
        start_ns=np.append(whole.start_ns, waited.start_ns),
        end_ns=np.append(whole.end_ns, waited.end_ns),
        waiting=np.append(np.zeros(len(whole.call), bool), np.ones(len(waited.call), bool)),
    )
    pids = calls.filter(pl.col("row").is_in(np.unique(parts.call).tolist()))["pid"].unique()
    beside = calls.filter(
        pl.col("pid").is_in(pids.implode()) & pl.Series(_during_root(picture, calls), dtype=pl.Boolean)
    )
    return FileCalls(rows=beside, _parts=parts)


def _during_root(picture: Picture, calls: pl.DataFrame) -> Bools:
    """Which calls share a moment with some request of the root, or with the root's threads."""
    if calls.is_empty():
        return np.zeros(0, bool)
    every = picture.moments(ROOT)
    nobody = np.zeros(len(every.item), np.int64)
    root = Moments.union(nobody, every.start_ns, every.end_ns)
    enter, leave = calls["enter_ns"].to_numpy(), calls["exit_ns"].to_numpy()
    shared: Bools = root.overlap(enter, leave, np.zeros(len(calls), np.int64)) > 0
    return shared


def _calls(picture: Picture, graph: WaitGraph) -> pl.DataFrame:
    """All calls on files in the window, by thread and time."""
    numbers = Numbers(picture.capture.manifest.host.machine)
    window = picture.capture.manifest.window
    operation = {nr: name for name, calls in OPERATIONS.items() for nr in numbers.of(calls)}
    by_path = pl.col("nr").is_in([nr for name in _WITHOUT_FD for nr in numbers.of(OPERATIONS[name])])
    on_file = (pl.col("file_type") == "reg").fill_null(value=False) | (by_path & (pl.col("ret") == 0))
    # Most calls of a busy server are on sockets: what is left out first is not copied.
    frame = graph.calls.lazy().filter(on_file, pl.col("nr").is_in(list(operation))).collect()
    frame = frame.with_columns(
        operation=pl.col("nr").replace_strict(operation, return_dtype=pl.String),
        enter_ns=pl.col("enter_ns").fill_null(window.start_ns),
        exit_ns=pl.col("exit_ns").fill_null(window.end_ns),
    )
    flags = (
        pl.when(pl.col("nr").is_in(list(numbers.of({"open"}))))
        .then("arg1")
        .when(pl.col("nr").is_in(list(numbers.of({"openat"}))))
        .then("arg2")
        .when(pl.col("nr").is_in(list(numbers.of({"creat"}))))
        .then(pl.lit(O_CREAT | 1, pl.UInt64))
    )
    moved = pl.col("operation").is_in(["write", "read"]) & (pl.col("ret") > 0)
    opened = (pl.col("operation") == "open") & (pl.col("ret") >= 0)
    frame = frame.with_columns(
        bytes=pl.when(moved).then("ret"),
        asked=pl.when(pl.col("nr").is_in(list(numbers.of(_SIZED)))).then("arg2"),
        placed=pl.col("nr").is_in(list(numbers.of(_PLACED))),
        flags=flags,
        fd=pl.when(opened).then("ret").otherwise(pl.col("arg0").cast(pl.Int64, strict=False)),
        creates=(opened & (flags & O_CREAT > 0)).fill_null(value=False),
        appends=(opened & (flags & O_APPEND > 0)).fill_null(value=False),
    )
    open_so = picture.capture.frame(schema.FILES).filter("append").select("dev", "ino", open_so=pl.lit(value=True))
    frame = frame.join(open_so.unique(), on=["dev", "ino"], how="left").with_columns(
        appends=pl.col("appends") | pl.col("open_so").fill_null(value=False)
    )
    frame = frame.sort("tid", "enter_ns").with_row_index("row")
    return frame.select(
        "row", "tid", "pid", "nr", "operation", "enter_ns", "exit_ns", "dev", "ino", _paths(frame, picture), "bytes",
        "asked", "placed", "ret", "fd", "flags", "creates", "appends",
    )  # fmt: skip


def _paths(frame: pl.DataFrame, picture: Picture) -> pl.Series:
    keys = frame.select("dev", "ino").unique().drop_nulls()
    names = {(dev, ino): picture.objects.file(dev, ino) for dev, ino in keys.iter_rows()}
    return pl.Series("path", [names.get(key) for key in frame.select("dev", "ino").iter_rows()], dtype=pl.String)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ThreadMoments:
    """Moments of threads on the chain; an item of `moments` stands for a thread (`tid`) within a root item (`item`)."""

    moments: Moments
    tid: Int64s
    item: Int64s


def _thread_moments(picture: Picture, tids: list[int]) -> tuple[_ThreadMoments, _ThreadMoments]:
    """When these threads were on the chain, and when they waited there.

    A wait that goes on to another thread holds that thread's running below it: what a thread ran is no wait of its own.
    """
    nodes, coverage = picture.blame.nodes, picture.blame.coverage
    who = np.array([-1 if number == ROOT else node.who for number, node in enumerate(nodes)], dtype=np.int64)
    rows = np.flatnonzero((np.isin(who, tids) & (who >= 0))[coverage.node])
    node, item = coverage.node[rows], coverage.item[rows]
    start_ns, end_ns = coverage.start_ns[rows], coverage.end_ns[rows]
    active = np.array([node.kind in NOT_WAITING for node in nodes], dtype=bool)[node]
    pairs, key = np.unique(np.stack([who[node], item], axis=1), axis=0, return_inverse=True)
    key = key.reshape(-1)

    def union(of: Bools) -> Moments:
        return Moments.union(key[of], start_ns[of], end_ns[of])

    waits = union(~active).minus(union(active))
    every = Moments.union(key, start_ns, end_ns)
    whole, waited = (_ThreadMoments(moments=m, tid=pairs[:, 0], item=pairs[:, 1]) for m in (every, waits))
    return whole, waited


def _overlaps(axis: Axis, calls: pl.DataFrame, of: _ThreadMoments) -> _Clipped:
    """What calls share with moments of their thread; the calls of one thread follow one another."""
    lanes = axis.lane(calls["tid"].cast(pl.Int64).fill_null(-1).to_numpy())
    known = np.flatnonzero(lanes >= 0)
    row = calls["row"].cast(pl.Int64).to_numpy()[known]
    enter = axis.place(lanes[known], calls["enter_ns"].to_numpy()[known])
    leave = axis.place(lanes[known], calls["exit_ns"].to_numpy()[known])
    lane = axis.lane(of.tid[of.moments.item])
    begin, stop = axis.place(lane, of.moments.start_ns), axis.place(lane, of.moments.end_ns)
    first = np.searchsorted(leave, begin, side="right")
    owner, call = expand(first, np.where(lane >= 0, np.searchsorted(enter, stop, side="left"), first))
    start, end = np.maximum(begin[owner], enter[call]), np.minimum(stop[owner], leave[call])
    keep = end > start
    return _Clipped(
        call=row[call[keep]],
        item=of.item[of.moments.item[owner[keep]]],
        start_ns=axis.time(start[keep]),
        end_ns=axis.time(start[keep]) + (end - start)[keep],
        waiting=np.zeros(int(keep.sum()), bool),
    )
