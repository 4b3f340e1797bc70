"""Reads from a device of what memory held before: the same place of the disk, or of the file, was read before, and in
between pages of that file were taken out of the page cache.

Which pages left is not told, only how many of which file and by whose doing: that a place was read before, and is read
again, says that it was among them. What was in memory since before the window, and is read for the first time in it,
cannot be told from what nobody ever read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from culpa.capture import schema
from culpa.diagnose import rereads
from culpa.diagnose.moments import Moments
from culpa.model.kinds import Kind

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

PAGE_BYTES = 4096
"""Places on a device are compared at this grain, whatever the size of a page is."""
SECTORS = PAGE_BYTES // 512
MOSTLY = 0.5
"""Of a request, that must have been read before: what is read ahead does not begin at the same place each time."""
_FILE = ("ino_dev", "ino")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lost:
    """What one process, or a thread of the kernel, took out of the page cache and the root then waited for.

    `read_again` and `taken` are in bytes, within the window; `paths` the files, the one waited for most first;
    `readers` the processes that read them again.
    """

    pid: int
    tid: int
    moments: Moments
    read_again: int
    taken: int
    paths: tuple[str, ...]
    readers: frozenset[int]


def found(picture: Picture) -> list[Lost]:
    """By who took the pages out, the one whose doing cost the root most first."""
    again = _read_again(picture)
    if again.is_empty():
        return []
    waits = {path: nodes for path, nodes in _device_nodes(picture).items() if nodes}
    paths = {key: picture.objects.file(*key) for key in again.select(_FILE).unique().iter_rows()}
    taken = dict(_taken(picture).group_by("by_pid").agg(pl.col("bytes").sum()).iter_rows())
    entries = []
    for (pid,), mine in again.group_by("by_pid", maintain_order=True):
        spent: dict[str, Moments] = {}
        for key, rows in mine.group_by(_FILE, maintain_order=True):
            path = paths[key]
            if path in waits:
                spans = list(rows.select("begin_ns", "complete_ns").iter_rows())
                spent[path] = picture.moments(*waits[path]).within(spans)
        moments = Moments.of_rows([], [], [])
        for one in spent.values():
            moments = moments.plus(one)
        if not moments.ns:
            continue
        entries.append(
            Lost(
                pid=int(str(pid)), tid=int(mine["by_tid"].mode().sort()[0]), moments=moments,
                read_again=int(mine["again_bytes"].sum()), taken=int(taken[pid]),
                paths=tuple(sorted(spent, key=lambda path: (-spent[path].ns, path))),
                readers=frozenset(mine["pid"].drop_nulls().to_list()),
            )
        )  # fmt: skip
    return sorted(entries, key=lambda entry: (-entry.moments.ns, entry.pid))


def _taken(picture: Picture) -> pl.DataFrame:
    """Rows of `uncached`, the one who did it as `by_pid` and `by_tid`."""
    rows = picture.capture.frame(schema.UNCACHED).drop_nulls(["from_ns", "to_ns", "tid", "pid", "dev", "ino", "bytes"])
    return rows.rename({"pid": "by_pid", "tid": "by_tid", "dev": "ino_dev"})


def _reads(picture: Picture, files: pl.DataFrame) -> pl.DataFrame:
    """Reads of these files from the uppermost of devices that lie on one another: a request is longest there."""
    rows = picture.capture.frame(schema.BLOCKS).drop_nulls(["dev", "sector", "bytes", "issue_ns", "complete_ns", "ino"])
    rows = rows.filter((pl.col("op") == "read") & (pl.col("bytes") > 0)).join(files, on=_FILE, how="semi")
    rows = rows.with_columns(begin_ns=pl.coalesce("queued_ns", "issue_ns"))
    length = (pl.col("complete_ns") - pl.col("begin_ns")).sum()
    longest = rows.group_by("ino_dev", "dev").agg(length=length).sort("length", "dev")
    upper = longest.group_by("ino_dev", maintain_order=True).agg(pl.col("dev").last())
    return rows.join(upper, on=["ino_dev", "dev"], how="semi").sort("issue_ns").with_row_index("row")


def _read_again(picture: Picture) -> pl.DataFrame:
    """Reads of which most was read before, with pages of that file taken out in between: ino_dev, ino, pid, begin_ns,
    complete_ns, again_bytes, by_pid and by_tid of who took pages out of it last.
    """
    taken = _taken(picture)
    reads = _reads(picture, taken.select(_FILE).unique())
    if reads.is_empty():
        return pl.DataFrame()
    place = pl.int_ranges(
        pl.col("sector").cast(pl.Int64) // SECTORS,
        -(-(pl.col("sector").cast(pl.Int64) + pl.col("bytes") // 512) // SECTORS),
    )
    pages = reads.select("row", "dev", *_FILE, "issue_ns", "complete_ns", place=place).explode("place").sort("issue_ns")
    before = pl.col("complete_ns").shift(1).over("dev", "place")
    pages = _taken_since(taken, pages.with_columns(before_ns=before, at_ns="issue_ns"))
    each = pages.group_by("row").agg(
        pl.col("by_pid", "by_tid").last(), again_bytes=pl.len().cast(pl.Int64) * PAGE_BYTES
    )
    by_place = reads.join(each, on="row").filter(pl.col("again_bytes") >= MOSTLY * pl.col("bytes"))
    by_call = _in_calls_again(picture, reads, taken).join(by_place, on="row", how="anti")
    columns = ("row", *_FILE, "pid", "begin_ns", "complete_ns", "again_bytes", "by_pid", "by_tid")
    return pl.concat([by_place.select(columns), by_call.select(columns)]).sort("row")


def _taken_since(taken: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows between whose `before_ns` and `at_ns` pages of their file were taken out, with who did so last."""
    last = taken.sort("from_ns").select(*_FILE, "to_ns", "by_pid", "by_tid", at_ns="from_ns")
    rows = rows.drop_nulls("before_ns").sort("at_ns").join_asof(last, on="at_ns", by=_FILE, check_sortedness=False)
    return rows.filter(pl.col("to_ns") >= pl.col("before_ns"))


def _in_calls_again(picture: Picture, reads: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Requests during a read call that got as much from the same place of the file as one before: that found it in
    memory, or brought it there.
    """
    rows = picture.file_calls.rows if picture.file_calls is not None else None
    if rows is None:
        return _taken_since(taken, reads.clear().with_columns(before_ns="begin_ns", at_ns="begin_ns"))
    rows = rereads.placed(rows).filter((pl.col("operation") == "read") & (pl.col("bytes") > 0)).drop_nulls("at")
    first = pl.col("exit_ns").min().over("dev", "ino", "at", "bytes")
    rows = rows.with_columns(before_ns=first).filter(pl.col("enter_ns") >= pl.col("before_ns")).sort("enter_ns")
    rows = rows.select("before_ns", "exit_ns", "ino", ino_dev="dev", begin_ns="enter_ns")
    within = reads.sort("begin_ns").join_asof(rows, on="begin_ns", by=_FILE, check_sortedness=False)
    within = within.filter(pl.col("exit_ns") >= pl.col("begin_ns")).with_columns(at_ns="begin_ns", again_bytes="bytes")
    return _taken_since(taken, within)


def _device_nodes(picture: Picture) -> dict[str, list[int]]:
    """Waits for devices by the file that a call or a page fault is on; syncs are left out."""
    nodes: dict[str, list[int]] = {}
    for node in picture.nodes(Kind.DEVICE):
        for above in picture.blame.path(node)[:-1]:
            blamed = picture.blame.nodes[above]
            if blamed.kind in (Kind.IO, Kind.FAULT) and blamed.on is not None and blamed.on.path:
                nodes.setdefault(blamed.on.path, []).append(node)
    return nodes
