"""Which reads of a request ask for what it has read before: where in its file each read begins, followed call by call.

A file is read from its beginning when it is opened, from where the last call ended after that, or from where lseek put
it. Of calls that carry their place themselves (pread) the capture does not have it, nor of files that were open before
the window until they are put somewhere: of those it is known that more was read than there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from culpa.capture import schema
from culpa.diagnose.code import SAMPLED_NS, sampled_threads
from culpa.diagnose.moments import Moments

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

MIN_TIMES = 10
"""How often a request reads each range in the mean, from which it is a habit and not a second look."""
MIN_SHARE = 0.1
"""Of the root's time, in the calls that read again."""
MADE_WHEN_READ = frozenset(
    {"proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "fuse.lxcfs", "devpts", "pstore"}
)
"""File systems whose files say something new each time."""
_FILE = ("item", "comm", "dev", "ino")
"""A script reads through many short processes of one name."""

_GAVE = (pl.col("operation") == "read") & (pl.col("bytes") > 0)
"""Reads that were not at the end of their file."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rereading:
    """A file that a process, or several of one name, read again and again. `rows`: the calls on it from the second time
    on; `calls` and `bytes`: all that were read of it, `new`: of these bytes those read for the first time; `times`: how
    often a request reads each part, in the mean; `by_thread`: where samples of their threads' stacks count.
    """

    pid: int
    tid: int
    path: str
    rows: pl.DataFrame
    calls: int
    bytes: int
    new: int
    times: float
    moments: Moments
    waits: Moments
    by_thread: Mapping[int, Moments]


def found(picture: Picture) -> list[Rereading]:
    """The files whose reading again costs the root a tenth of its time or more, the costliest first."""
    calls = picture.file_calls
    if calls is None:
        return []
    rows = placed(calls.rows).join(calls.items(), on="row")
    names = {pid: picture.objects.process(pid).comm or str(pid) for pid in rows["pid"].unique().to_list()}
    rows = rows.with_columns(comm=pl.col("pid").replace_strict(names, default=None, return_dtype=pl.String))
    rows = rows.join(_changed(picture, calls.rows), on=["dev", "ino"], how="anti").drop_nulls("path")
    sizes = picture.capture.frame(schema.FILES).filter(pl.col("size") > 0).select("dev", "ino", "size")
    rows = rows.join(sizes.unique(["dev", "ino"]), on=["dev", "ino"], how="left").sort("exit_ns", "row")
    entries = []
    for (comm, path), mine in _often(rows).group_by("comm", "path", maintain_order=True):
        again = mine.filter("again")
        moments = calls.moments(again)
        if picture.share(moments.ns) < MIN_SHARE:
            continue
        reads = rows.filter((pl.col("comm") == comm) & (pl.col("path") == path) & _GAVE)
        new = reads.join(again.select("row"), on="row", how="anti")
        pid, tid = calls.busiest(again)
        entries.append(
            Rereading(
                pid=pid, tid=tid, path=str(path), rows=again, calls=len(reads), bytes=int(reads["bytes"].sum() or 0),
                new=int(new["bytes"].sum() or 0), times=float(str(mine["times"].mean())), moments=moments,
                waits=calls.waits(again),
                by_thread=calls.by_thread(again, sampled_threads(picture), between_ns=SAMPLED_NS),
            )
        )  # fmt: skip
    return sorted(entries, key=lambda entry: (-entry.moments.ns, entry.pid, entry.path))


def spent(picture: Picture) -> Moments:
    """Where all of them lie."""
    moments = Moments.of_rows([], [], [])
    for one in picture.rereadings:
        moments = moments.plus(one.moments)
    return moments


def placed(rows: pl.DataFrame) -> pl.DataFrame:
    """Calls of processes on their fds in the order in which they ended, with `at`: where in the file a read or write
    began; null where that is not known.
    """
    opens, seeks = pl.col("operation") == "open", pl.col("operation") == "seek"
    moves = pl.col("operation").is_in(["read", "write"]) & ~pl.col("placed")
    rows = rows.filter(pl.col("operation").is_in(["open", "read", "write", "seek", "close"]) & (pl.col("ret") >= 0))
    rows = rows.drop_nulls(["pid", "fd", "dev", "ino"]).sort("pid", "fd", "exit_ns", "row")
    put = opens | seeks | (pl.col("operation") == "close")
    rows = rows.with_columns(
        stretch=put.cum_sum().over("pid", "fd"),
        moved=pl.when(moves).then(pl.col("bytes").fill_null(0)).otherwise(0),
        base=pl.when(opens).then(pl.lit(0, pl.Int64)).when(seeks).then("ret"),
    )
    within = ("pid", "fd", "stretch")
    at = pl.col("base").first().over(within) + pl.col("moved").cum_sum().over(within) - pl.col("moved")
    return rows.with_columns(at=pl.when(moves).then(at)).drop("stretch", "moved", "base")


def _often(rows: pl.DataFrame) -> pl.DataFrame:
    """The calls on files of which a request reads each part often, with `times`, and whether it had that part `again`:
    a read of a place that was read before or, where places are not known, beyond the file's length, and with them the
    calls that open, put and close the file.
    """
    known, unknown = _GAVE & pl.col("at").is_not_null(), _GAVE & pl.col("at").is_null() & (pl.col("size") > 0)
    so_far = pl.col("bytes").filter(unknown)
    rows = rows.with_columns(
        seen=pl.int_range(pl.len()).over(*_FILE, "operation", "at"),
        had=pl.when(unknown).then(pl.col("bytes")).otherwise(0).cum_sum().over(_FILE) - pl.col("bytes").fill_null(0),
        times=pl.max_horizontal(
            (known.sum() / pl.col("at").filter(known).n_unique()).over(_FILE).fill_nan(0),
            (so_far.sum() / pl.col("size").first()).over(_FILE).fill_null(0),
        ),
    )
    again = pl.when(unknown).then(pl.col("had") >= pl.col("size")).otherwise(pl.col("seen") > 0)
    judged = known | unknown | pl.col("operation").is_in(["open", "seek", "close"])
    return rows.filter((pl.col("times") >= MIN_TIMES) & judged).with_columns(again=again)


def _changed(picture: Picture, rows: pl.DataFrame) -> pl.DataFrame:
    """dev, ino of files that somebody writes meanwhile, or that say something new each time."""
    written = rows.filter((pl.col("operation") == "write") & pl.col("ino").is_not_null()).select("dev", "ino")
    dirtied = picture.capture.frame(schema.DIRTIED).select("dev", "ino")
    live = picture.capture.frame(schema.FILES).filter(pl.col("fs_type").is_in(list(MADE_WHEN_READ)))
    return pl.concat([written, dirtied.drop_nulls(), live.select("dev", "ino").drop_nulls()]).unique()
