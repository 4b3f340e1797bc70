"""What a request would take without a cause, as a range.

The upper bound takes the cause's moments off the critical path, with the calls that they are most of, and leaves
everything else as slow as it was. The lower bound asks what the same steps cost in this very capture when nothing was
in their way: each shape of round trip, and each gap between two of them, at its tenth percentile; and a step that did
nothing but wait runs warm once it does not. The likely value uses their medians. With a slow cause gone the rest gets
faster too (warm caches, fewer helpers on the CPUs), so the truth tends to lie between the bounds.

How much faster the rest of a step gets depends on how much of it, or of the whole request, the cause takes: so far
goes its price from what it was to what it costs unhindered, all the way from a half on. Removing a small cause beside a
large one repairs little of what the large one does.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import polars as pl

from culpa.diagnose import wholecalls
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.verdict import Predicted
from culpa.model.axis import Int64s
from culpa.units import NS_PER_SECOND

UNHINDERED_QUANTILE = 0.10
"""The price of a step when nothing was in its way: low enough to be free of hindrance, high enough to be no fluke."""
LIKELY_QUANTILE = 0.50
WARMED = 0.50
"""Of what a step computes beside its waits, what it takes at least once it does not wait: the CPU does not sleep and
the caches stay warm. What is left of the labs' requests took half to all of what it had taken around the waits."""
SOUND_LEAST_NS, SOUND_MOST_NS = 25_000, 150_000
"""What a device that is not slow takes for a small request: from a write that its cache takes to a read from flash."""
HINDERING_SHARE = 0.50
"""Of a step, or of its request: what takes this much or more is what was in its way, and it gets its full price."""


def without(picture: Picture, moments: Moments) -> Predicted | None:
    """The time of one request without these moments.

    Returns:
        Seconds, or None where the root is not made of finished requests.
    """
    alone = pl.len().over("item") == 1  # requests that share their thread's time have no price of their own
    requests = picture.root.requests.filter(alone)
    done = requests.filter(pl.col("done"))
    scale = 1.0
    if done.is_empty() and picture.asked is not None and picture.typical_ns is not None and not requests.is_empty():
        # Events ended within the first request, and it went on: what was seen stands for the rest of it.
        done = requests
        scale = picture.typical_ns / max(1.0, float(np.median((done["end_ns"] - done["start_ns"]).to_numpy())))
    if picture.root.basis != "requests" or done.is_empty() or picture.graph is None:
        return None
    items = done["item"].to_numpy()
    start, end = done["start_ns"].to_numpy(), done["end_ns"].to_numpy()
    moments = wholecalls.gone_with(picture, moments)
    high = float(np.median(end - start - moments.overlap(start, end, items)))
    steps = _steps(picture, moments, items, start, end)
    low = min(_priced(steps, UNHINDERED_QUANTILE, warmed=WARMED), high)
    likely = _priced(steps, LIKELY_QUANTILE, warmed=WARMED**0.5)
    seconds = scale / NS_PER_SECOND
    return Predicted(p50=min(max(likely, low), high) * seconds, low=low * seconds, high=high * seconds)


def at_a_sound_device(picture: Picture, moments: Moments, waits: int) -> Predicted | None:
    """The time of one request if its waits for a device, so many in all, took what they take at a sound one.

    Returns:
        As `without`.
    """
    found = without(picture, moments) if picture.has_price else None
    if found is None:
        return None
    each = waits / picture.request_count / NS_PER_SECOND
    most, least = each * SOUND_MOST_NS, each * SOUND_LEAST_NS
    return Predicted(p50=found.p50 + sqrt(least * most), low=found.low + least, high=found.high + most)


def _steps(picture: Picture, moments: Moments, items: Int64s, start: Int64s, end: Int64s) -> pl.DataFrame:
    """item, shape, net_ns, touched, own: every round trip and every gap of the finished requests, less the cause's
    moments, and how far the cause was what hindered it, 0..1: by its share of the step or of the request, whichever is
    larger, and (`own`) of the step alone.
    """
    trips = (
        picture.own_exchanges.filter(pl.col("item").is_in(items.tolist()))
        .select("item", "verb", "detail", start_ns="ask_start_ns", end_ns="stop_ns")
        .sort("item", "start_ns")
    )
    reach = pl.col("end_ns").cum_max().over("item")
    trips = trips.with_columns(start_ns=pl.max_horizontal("start_ns", reach.shift(1).over("item"))).filter(
        pl.col("end_ns") > pl.col("start_ns")
    )
    shape = pl.concat_str([pl.col("verb").fill_null("?"), pl.col("detail").fill_null("")], separator=" ")
    trips = trips.with_columns(shape=shape)
    bounds = pl.DataFrame({"item": items, "from_ns": start, "to_ns": end})
    gaps = trips.select("item", "shape", from_ns=pl.col("end_ns").shift(1).over("item"), to_ns="start_ns")
    gaps = gaps.join(bounds.select("item", first_ns="from_ns"), on="item").with_columns(
        from_ns=pl.coalesce("from_ns", "first_ns"), shape=pl.lit("before ") + pl.col("shape")
    )
    last = trips.group_by("item").agg(pl.col("end_ns").max())
    tails = bounds.join(last, on="item", how="left").select(
        "item", from_ns=pl.coalesce("end_ns", "from_ns"), to_ns="to_ns", shape=pl.lit("after all")
    )
    parts = pl.concat(
        [
            trips.select("item", "shape", from_ns="start_ns", to_ns="end_ns"),
            gaps.select("item", "shape", "from_ns", "to_ns"),
            tails.select("item", "shape", "from_ns", "to_ns"),
        ]
    ).filter(pl.col("to_ns") > pl.col("from_ns"))
    begin, stop, item = (parts[name].to_numpy() for name in ("from_ns", "to_ns", "item"))
    length = pl.Series(stop - begin, dtype=pl.Int64)
    parts = parts.with_columns(length_ns=length, cause_ns=pl.Series(moments.overlap(begin, stop, item), dtype=pl.Int64))
    whole = pl.col("cause_ns").sum().over("item") / pl.col("length_ns").sum().over("item")
    touched = (pl.max_horizontal(pl.col("cause_ns") / pl.col("length_ns"), whole) / HINDERING_SHARE).clip(0, 1)
    own = (pl.col("cause_ns") / pl.col("length_ns") / HINDERING_SHARE).clip(0, 1)
    return parts.select("item", "shape", net_ns=pl.col("length_ns") - pl.col("cause_ns"), touched=touched, own=own)


def _priced(steps: pl.DataFrame, quantile: float, *, warmed: float) -> float:
    """The median over the requests of the sum of their steps; ns.

    Each has moved towards its shape's quantile as far as the cause touches it, and is shorter by `warmed` as far as the
    cause was in that very step.
    """
    unhindered = pl.col("net_ns").quantile(quantile, "linear").over("shape")
    price = pl.col("net_ns") + pl.col("touched") * (unhindered - pl.col("net_ns"))
    priced = steps.with_columns(price=price * (1 - pl.col("own") * (1 - warmed)))
    total = priced.group_by("item").agg(pl.col("price").sum())["price"].median()
    return float(total) if isinstance(total, int | float) else 0.0
