"""What the threads on the root's chain did to files: one row per system call on a regular file, and when it cost time.

A blame tree has a node for what was waited for, not for each call: many short calls lie in one stretch of running. Here
the calls themselves are laid against the moments in which their thread was on the chain.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.diagnose.blame import ROOT
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.model.axis import Int64s, expand
from culpa.model.kinds import Kind
from culpa.model.waitgraph import WaitGraph
from culpa.syscalls import Numbers

O_CREAT, O_APPEND = 0o100, 0o2000
"""include/uapi/asm-generic/fcntl.h; the same on x86 and arm64."""
_OPERATIONS: dict[str, frozenset[str]] = {
    "open": frozenset({"open", "openat", "openat2", "creat"}),
    "write": frozenset({"write", "writev", "pwrite64", "pwritev", "pwritev2", "ftruncate", "fallocate"}),
    "read": frozenset({"read", "readv", "pread64", "preadv", "preadv2"}),
    "sync": frozenset({"fsync", "fdatasync", "sync_file_range"}),
    "close": frozenset({"close"}),
    "unlink": frozenset({"unlink", "unlinkat"}),
    "rename": frozenset({"rename", "renameat", "renameat2"}),
    "directory": frozenset({"mkdir", "rmdir"}),
}
_WITHOUT_FD = ("unlink", "rename", "directory")
NOT_WAITING = (Kind.RUNNING, Kind.RUNNABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clipped:
    """Parts of calls that lie on the root's chain; `call` is the row of the call in `FileCalls.rows`."""

    call: Int64s
    item: Int64s
    start_ns: Int64s
    end_ns: Int64s
    waiting: np.ndarray[tuple[int], np.dtype[np.bool_]]

    def moments(self, rows: Collection[int], *, waiting: bool) -> Moments:
        """When the calls of these rows held the root up; only their waits if `waiting`."""
        mine = np.isin(self.call, list(rows)) & (self.waiting if waiting else True)
        return Moments.union(self.item[mine], self.start_ns[mine], self.end_ns[mine])


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCalls:
    """Calls on files by threads of the chain, at moments when they were on it.

    `rows`: row, tid, pid, operation (a key of `_OPERATIONS`), enter_ns, exit_ns, dev, ino, path (null for calls that
    name a file by a path: the capture does not have it), bytes (moved; null for other calls), creates, appends.
    """

    rows: pl.DataFrame
    _parts: _Clipped

    def moments(self, rows: pl.DataFrame) -> Moments:
        """When these calls held the root up, running or waiting."""
        return self._parts.moments(rows["row"].to_list(), waiting=False)

    def waits(self, rows: pl.DataFrame) -> Moments:
        """When the root waited in these calls, neither running nor runnable."""
        return self._parts.moments(rows["row"].to_list(), waiting=True)


def on_chain(picture: Picture) -> FileCalls | None:
    """The file calls of a picture; None where waits were only sampled."""
    if picture.graph is None:
        return None
    calls = _calls(picture, picture.graph)
    threads = _threads(picture)
    parts = [_clip(calls, tid, *columns) for tid, columns in threads.items()]
    joined = _Clipped(
        call=_join([part.call for part in parts]),
        item=_join([part.item for part in parts]),
        start_ns=_join([part.start_ns for part in parts]),
        end_ns=_join([part.end_ns for part in parts]),
        waiting=_join([part.waiting.astype(np.int64) for part in parts]).astype(bool),
    )
    return FileCalls(rows=calls.filter(pl.col("row").is_in(np.unique(joined.call).tolist())), _parts=joined)


def _calls(picture: Picture, graph: WaitGraph) -> pl.DataFrame:
    """All calls on files in the window, by thread and time."""
    numbers = Numbers(picture.capture.manifest.host.machine)
    window = picture.capture.manifest.window
    operation = {nr: name for name, calls in _OPERATIONS.items() for nr in numbers.of(calls)}
    frame = graph.calls.filter(pl.col("nr").is_in(list(operation)))
    frame = frame.with_columns(
        operation=pl.col("nr").replace_strict(operation, return_dtype=pl.String),
        enter_ns=pl.col("enter_ns").fill_null(window.start_ns),
        exit_ns=pl.col("exit_ns").fill_null(window.end_ns),
    )
    named_by_path = pl.col("operation").is_in(_WITHOUT_FD) & (pl.col("ret") == 0)
    frame = frame.filter((pl.col("file_type") == "reg").fill_null(value=False) | named_by_path)
    flags = (
        pl.when(pl.col("nr").is_in(list(numbers.of({"open"}))))
        .then("arg1")
        .when(pl.col("nr").is_in(list(numbers.of({"openat"}))))
        .then("arg2")
        .when(pl.col("nr").is_in(list(numbers.of({"creat"}))))
        .then(pl.lit(O_CREAT, pl.UInt64))
        .otherwise(pl.lit(0, pl.UInt64))
    )
    moved = pl.col("operation").is_in(["write", "read"]) & (pl.col("ret") > 0)
    opened = (pl.col("operation") == "open") & (pl.col("ret") >= 0)
    frame = frame.with_columns(
        bytes=pl.when(moved).then("ret"),
        creates=(opened & (flags & O_CREAT > 0)).fill_null(value=False),
        appends=(opened & (flags & O_APPEND > 0)).fill_null(value=False),
    )
    frame = frame.sort("tid", "enter_ns").with_row_index("row")
    return frame.select(
        "row", "tid", "pid", "operation", "enter_ns", "exit_ns", "dev", "ino", _paths(frame, picture), "bytes",
        "creates", "appends",
    )  # fmt: skip


def _paths(frame: pl.DataFrame, picture: Picture) -> pl.Series:
    keys = frame.select("dev", "ino").unique().drop_nulls()
    names = {(dev, ino): picture.objects.file(dev, ino) for dev, ino in keys.iter_rows()}
    return pl.Series("path", [names.get(key) for key in frame.select("dev", "ino").iter_rows()], dtype=pl.String)


def _threads(picture: Picture) -> dict[int, tuple[Moments, Moments]]:
    """Each thread's moments on the chain: all of them, and those in which it waited."""
    all_nodes: dict[int, list[int]] = {}
    waiting: dict[int, list[int]] = {}
    for number, node in enumerate(picture.blame.nodes):
        if number != ROOT and node.who >= 0:
            all_nodes.setdefault(node.who, []).append(number)
            if node.kind not in NOT_WAITING:
                waiting.setdefault(node.who, []).append(number)
    nobody: list[int] = []
    return {
        tid: (picture.moments(*nodes), _waited(picture, nodes, waiting.get(tid, nobody)))
        for tid, nodes in all_nodes.items()
    }


def _waited(picture: Picture, nodes: list[int], waiting: list[int]) -> Moments:
    """What a thread waited: a wait that goes on to another thread holds that thread's running below it."""
    active = [number for number in nodes if picture.blame.nodes[number].kind in NOT_WAITING]
    waited = picture.moments(*waiting)
    return waited.minus(picture.moments(*active)) if active else waited


def _clip(calls: pl.DataFrame, tid: int, on_chain_at: Moments, waiting: Moments) -> _Clipped:
    mine = calls.filter(pl.col("tid") == tid)
    row, enter, leave = (mine[name].cast(pl.Int64).to_numpy() for name in ("row", "enter_ns", "exit_ns"))
    every, waits = _overlaps(on_chain_at, row, enter, leave), _overlaps(waiting, row, enter, leave)
    return _Clipped(
        call=np.concatenate([every[0], waits[0]]),
        item=np.concatenate([every[1], waits[1]]),
        start_ns=np.concatenate([every[2], waits[2]]),
        end_ns=np.concatenate([every[3], waits[3]]),
        waiting=np.append(np.zeros(len(every[0]), bool), np.ones(len(waits[0]), bool)),
    )


def _overlaps(moments: Moments, row: Int64s, enter: Int64s, leave: Int64s) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """call row, item, start and end of what calls of one thread, which follow one another, share with moments."""
    first = np.searchsorted(leave, moments.start_ns, side="right")
    owner, call = expand(first, np.searchsorted(enter, moments.end_ns, side="left"))
    start = np.maximum(moments.start_ns[owner], enter[call])
    end = np.minimum(moments.end_ns[owner], leave[call])
    keep = end > start
    return row[call][keep], moments.item[owner][keep], start[keep], end[keep]


def _join(parts: list[Int64s]) -> Int64s:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
