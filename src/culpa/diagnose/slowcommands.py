"""Commands of the target's own whose work keeps a Redis server's thread long: each with what the server did for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from culpa.diagnose import redisholds
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisholds import Hold
from culpa.model.kinds import Kind

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

SEEN_BYTES = 256
"""Of a message at most so many bytes are looked at: what a longer one holds beside its first command is not known."""
BATCH_BYTES = 1024
"""A question of this size names one by one what it asks for: its work is a batch of the caller's making."""
STEPS = frozenset({"SCAN", "HSCAN", "SSCAN", "ZSCAN"})
"""Reads in steps whose size the caller chooses."""
MIN_BATCH_NS = 10_000_000
"""A batch or a step so long keeps others waiting as a whole answer does: the slow log's own default."""
SEVERAL = frozenset({"MULTI", "EXEC"})
"""They stand for the commands between them."""
TYPICAL = 0.5
"""Of a shape's commands so many must be long: one alone may have met a moment in which the host took the CPU away."""
LARGE_ANSWER_BYTES = 100_000
"""An answer of this size is work by itself, however the others of its shape are."""
_KEYS = ["server_pid", "server_ns"]
_WORKED: dict[str, pl.DataType | type[pl.DataType]] = {
    "server_pid": pl.Int32, "server_ns": pl.Int64, "worked_ns": pl.Int64, "type": pl.String, "elements": pl.Int64,
}  # fmt: skip


def found(picture: Picture) -> pl.DataFrame:
    """The commands, whatever their verb; what a rule does not count as the application's it leaves out.

    Returns:
        Rows of `picture.own_exchanges` with `server_pid`; `server_ns` (when the server had read it); `worked_ns` (how
        long its main thread computed for it); `type` and `elements` of its key, where the server told.
    """
    alone = (pl.col("commands").fill_null(1) == 1) & ~pl.col("verb").is_in(list(SEVERAL))
    rows = picture.own_exchanges.filter((pl.col("protocol") == "resp") & pl.col("verb").is_not_null() & alone)
    server = picture.requests.server_of[rows["row"].to_numpy()]
    rows = rows.with_columns(server=pl.Series(server, dtype=pl.Int64)).filter(pl.col("server") >= 0)
    theirs = picture.requests.exchanges[rows["server"].to_numpy()]
    rows = rows.with_columns(server_pid=theirs["pid"], server_ns=theirs["ask_end_ns"])
    worked = pl.DataFrame(list(_worked(picture, rows)), schema=_WORKED, orient="row").unique(_KEYS)
    rows = rows.join(worked, on=_KEYS, how="left", maintain_order="left")
    batch = pl.col("verb").is_in(list(STEPS)) | (pl.col("ask_bytes") >= BATCH_BYTES)
    long = pl.col("worked_ns").fill_null(0) >= pl.when(batch).then(MIN_BATCH_NS).otherwise(redisholds.MIN_HOLD_NS)
    part = long.mean().over("verb", "detail")
    return rows.filter(long & ((part >= TYPICAL) | (pl.col("answer_bytes") >= LARGE_ANSWER_BYTES)))


def _worked(picture: Picture, rows: pl.DataFrame) -> Iterator[tuple[object, ...]]:
    """What the servers behind the rows computed for long, in the columns of `_WORKED`.

    A server that was asked also tells what is no single command; of another only what is seen to be one counts.
    """
    views = {view.pid: view for view in picture.redis_servers if view.pid is not None}
    for pid in rows["server_pid"].unique().sort().to_list():
        if pid in views:
            holds: tuple[Hold, ...] = tuple(hold for hold in views[pid].holds if hold.exact)
        else:
            mine = rows.filter((pl.col("server_pid") == pid) & (pl.col("ask_bytes") <= SEEN_BYTES))
            whole = frozenset(mine["server_ns"].to_list())
            holds = tuple(hold for hold in redisholds.of_process(picture, pid) if hold.start_ns in whole)
        for hold in holds:
            yield pid, hold.start_ns, hold.length_ns, hold.type, hold.elements


def spent(picture: Picture, rows: pl.DataFrame) -> Moments:
    """When the target waited for these: from the server's reading of the question until the whole answer was there.

    Time in which somebody was blocked (a disk, a lock) has another cause.
    """
    blocked = picture.moments(*picture.nodes(Kind.FSYNC, Kind.IO, Kind.SLEEP, Kind.STOPPED, Kind.LOCK))
    start = rows.select(pl.max_horizontal("server_ns", "ask_start_ns")).to_series()
    return Moments.union(rows["item"].to_numpy(), start.to_numpy(), rows["stop_ns"].to_numpy()).minus(blocked)
