"""Round trips that one request makes again and again, with what the program spends on preparing each."""

from __future__ import annotations

import polars as pl

from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture

MIN_TRIPS = 20
"""Sequential round trips of one shape in one request, from which they are a habit."""
MAX_PREPARING = 2.0
"""Of the gap before a trip at most this many times the shape's median trip counts as preparing the command; what is
longer is work of the program's own."""
_SHAPE = ("item", "pid", "ino", "protocol", "verb", "detail")


def repeated(picture: Picture) -> pl.DataFrame:
    """Exchanges of shapes that one request asks at least `MIN_TRIPS` times, in time order.

    Returns:
        Rows of `picture.own_exchanges` with `prepare_ns`: from when the program prepared the command, and `before_ns`:
        when its thread had the answer to the one before (CLOCK_MONOTONIC), null for the first.
    """
    rows = picture.own_exchanges.sort("item", "tid", "ask_start_ns", "row")
    before = pl.col("stop_ns").shift(1).over("item", "tid")
    at_most = pl.col("wait_ns").median().over("verb", "detail") * MAX_PREPARING
    rows = rows.with_columns(
        before_ns=before,
        prepare_ns=pl.max_horizontal(before, (pl.col("ask_start_ns") - at_most).cast(pl.Int64))
        .fill_null(pl.col("ask_start_ns"))
        .clip(upper_bound=pl.col("ask_start_ns")),
    )
    named = pl.col("verb").is_not_null() & (pl.col("protocol") != "mysql")  # of SQL no rule counts the trips
    return rows.filter((pl.len().over(_SHAPE) >= MIN_TRIPS) & named)


def spent(trips: pl.DataFrame) -> Moments:
    """The moments of trips with their preparing."""
    return Moments.union(*(trips[name].to_numpy() for name in ("item", "prepare_ns", "stop_ns")))


def waited(trips: pl.DataFrame) -> Moments:
    """The moments of the trips alone."""
    return Moments.union(*(trips[name].to_numpy() for name in ("item", "ask_start_ns", "stop_ns")))
