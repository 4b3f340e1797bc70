"""What a request would take if it asked Redis once for what it asks one by one (MGET, SADD with many members).

The trips go, and so does what the program spends on preparing each. What stays is the program's own work, and for each
command its work at the server and in the program, which is a part of what the server alone took for it singly: that
holds a system call, a turn of its event loop and its parsing besides. Where a shape's gaps are usually short, a long
one is no work of the program's: something was in its way, and the lower bound is without it. Waits for a CPU are in
neither.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

import polars as pl

from culpa.diagnose import chatter
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.verdict import Predicted
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND

LEAST_OF_WORK: Final = 1 / 6
MOST_OF_WORK: Final = 1 / 2
"""Of the time from reading one command to having answered it at the server: what that command costs in a batch, at the
server and in the program together. Measured with redis-py: a GET took 12 us, each key of an MGET 8 us; a SADD took
20 us, each member of one with 2,000 of them 3 us. In a pipeline a GET cost 24 us, most of it in the program."""


def predicted(picture: Picture, trips: pl.DataFrame, blocked: Moments) -> Predicted | None:
    """What one request would take.

    Args:
        picture: of requests that have a price of their own.
        trips: rows of `chatter.repeated`.
        blocked: when the server waited for a disk and the like: that stays.

    Returns:
        Seconds; None where the server's side of the trips is not seen.
    """
    if picture.typical_ns is None or not picture.root.ns:
        return None
    work_ns = _work_ns(picture, trips, blocked)
    if work_ns is None:
        return None
    each = picture.typical_ns / picture.root.ns
    queued = picture.moments(*picture.nodes(Kind.RUNNABLE))
    most = 1 - picture.share(chatter.spent(trips).minus(blocked).plus(queued).ns)
    least = 1 - picture.share(_unhindered(trips).minus(blocked).plus(queued).ns)
    high = max(most * picture.typical_ns + MOST_OF_WORK * work_ns * each, 1.0)
    low = min(max(least * picture.typical_ns + LEAST_OF_WORK * work_ns * each, 1.0), high)
    return Predicted(p50=sqrt(low * high) / NS_PER_SECOND, low=low / NS_PER_SECOND, high=high / NS_PER_SECOND)


def _work_ns(picture: Picture, trips: pl.DataFrame, blocked: Moments) -> float | None:
    """What the server took for all these commands, each at its shape's median; None where that is not seen."""
    server = pl.Series(picture.requests.server_of[trips["row"].to_numpy()], dtype=pl.Int64)
    seen = trips.filter(server >= 0)
    if seen.is_empty():
        return None
    theirs = picture.requests.exchanges[server.filter(server >= 0).to_numpy()]
    start, end, item = theirs["ask_end_ns"].to_numpy(), theirs["answer_start_ns"].to_numpy(), seen["item"].to_numpy()
    took = pl.Series(end - start - blocked.overlap(start, end, item), dtype=pl.Float64)
    usual = seen.with_columns(took_ns=took).group_by("verb", "detail").agg(pl.col("took_ns").median())
    all_of_them = trips.group_by("verb", "detail").len().join(usual, on=["verb", "detail"], nulls_equal=True)
    return float((all_of_them["len"] * all_of_them["took_ns"]).sum())


def _unhindered(trips: pl.DataFrame) -> Moments:
    """The trips with all that lies before each, but for what the program usually does there beyond preparing."""
    before = pl.coalesce("before_ns", "prepare_ns")
    own = (pl.col("prepare_ns") - before).median().over("verb", "detail").cast(pl.Int64)
    rows = trips.with_columns(from_ns=pl.min_horizontal(before + own, "prepare_ns"))
    return Moments.union(*(rows[name].to_numpy() for name in ("item", "from_ns", "stop_ns")))
