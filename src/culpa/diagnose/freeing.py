"""Which calls gave back the space of large files, and how much: deleted, replaced by a rename, closed last, or cut.

The kernel frees a file's pages and then its blocks within the call that lets go of it last. Of many extents it reads
the blocks that list them, from the disk where memory does not hold them, and writes each change down in the journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from culpa.capture import schema
from culpa.diagnose.filecalls import FileCalls
from culpa.diagnose.moments import Moments

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

LARGE_BYTES = 16 << 20
"""A file that a call gives back; smaller ones are freed in a millisecond, or there are thousands of them."""

MIN_SHARE = 0.1
"""Of the root's time, in such calls."""
MIN_CALL_NS = 10_000_000
"""Mean time of such a call; shorter ones are shorter than what anybody notices."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Freeing:
    """Calls that each gave back the space of a large file, on the root's chain or beside it in the same processes.

    `rows`: as in `FileCalls.rows`, with `from_ns`, `freed` (B) and the file (`freed_dev`, `freed_ino`); `moments` and
    `waits`: when the root was held up from the beginning of the giving back to the end of its call.
    """

    rows: pl.DataFrame
    moments: Moments
    waits: Moments


def every(picture: Picture) -> Freeing | None:
    """All such calls of the processes on the chain; None where calls were not seen one by one."""
    calls = picture.file_calls
    return None if calls is None else _of(calls, _with_sizes(picture, calls))


def found(picture: Picture) -> list[Freeing]:
    """Those of processes of one name that cost the root a tenth of its time or more, each call long enough to be
    noticed, the costliest first (kept in `Picture.freeings`).
    """
    calls, whole = picture.file_calls, every(picture)
    if calls is None or whole is None:
        return []
    comms = {pid: picture.objects.process(pid).comm or str(pid) for pid in whole.rows["pid"].unique().to_list()}
    comm = pl.col("pid").replace_strict(comms, default=None, return_dtype=pl.String)
    groups = [_of(calls, rows) for _, rows in whole.rows.group_by(comm, maintain_order=True)]
    costly = [one for one in groups if picture.share(one.moments.ns) >= MIN_SHARE]
    costly = [one for one in costly if one.moments.ns >= MIN_CALL_NS * len(one.rows)]
    return sorted(costly, key=lambda one: -one.moments.ns)


def spent(picture: Picture) -> Moments:
    """Where all of those lie."""
    moments = Moments.of_rows([], [], [])
    for one in picture.freeings:
        moments = moments.plus(one.moments)
    return moments


def _of(calls: FileCalls, rows: pl.DataFrame) -> Freeing:
    spans = list(rows.select("from_ns", "exit_ns").iter_rows())
    return Freeing(rows=rows, moments=calls.moments(rows).within(spans), waits=calls.waits(rows).within(spans))


def _with_sizes(picture: Picture, calls: FileCalls) -> pl.DataFrame:
    """Calls during which their thread gave back a large file: of several in one call the first, and their sum."""
    freed = picture.capture.frame(schema.FREED).drop_nulls(["from_ns", "tid", "bytes"])
    freed = freed.filter(pl.col("bytes") >= LARGE_BYTES).sort("from_ns").select(
        "tid", "from_ns", freed="bytes", freed_dev="dev", freed_ino="ino", enter_ns="from_ns"
    )  # fmt: skip
    entered = calls.rows.select("tid", "row", "enter_ns", "exit_ns").sort("enter_ns")
    within = freed.join_asof(entered, on="enter_ns", by="tid", check_sortedness=False).filter(
        pl.col("from_ns") <= pl.col("exit_ns")
    )
    each = within.group_by("row", maintain_order=True).agg(
        pl.col("from_ns").first(), pl.col("freed").sum(), pl.col("freed_dev", "freed_ino").first()
    )
    return calls.rows.join(each, on="row").sort("row")
