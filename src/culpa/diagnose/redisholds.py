"""Commands that kept a Redis server's main thread from everybody else: found on its sockets, or in its slow log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from culpa.diagnose.moments import Moments
from culpa.model.axis import Int64s
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND

if TYPE_CHECKING:
    from culpa.diagnose.redisview import RedisView

MIN_HOLD_NS = 1_000_000
"""Commands take microseconds; a hundred clients that each wait a millisecond longer notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One command that kept the main thread from everybody else.

    `start_ns` and `end_ns` bound when that was; from the slow log they are only known to the second, and `length_ns`
    lies somewhere between them. `arguments` counts the verb; `elements` and `bytes` are those of its key afterwards.
    """

    verb: str
    start_ns: int
    end_ns: int
    length_ns: int
    pattern: str | None = None
    arguments: int | None = None
    option: str | None = None
    type: str | None = None
    elements: int | None = None
    bytes: int | None = None
    exact: bool = True


def seen(view: RedisView) -> tuple[Hold, ...] | None:
    """From the main thread's exchanges: a command is worked on until the next one is read, or it is answered.

    Its length is what the thread computed in that time: what it waited for has other causes. None where events were
    not recorded.
    """
    picture = view.picture
    if view.pid is None or picture.graph is None:
        return None
    rows = picture.requests.exchanges.filter(
        (pl.col("role") == "server") & (pl.col("pid") == view.pid) & pl.col("ask_end_ns").is_not_null()
    ).sort("ask_end_ns")
    if rows.is_empty():
        return None
    end_ns = picture.capture.manifest.window.end_ns
    next_ns = pl.col("ask_end_ns").shift(-1).over("tid").fill_null(end_ns)
    rows = rows.with_columns(until=pl.min_horizontal(pl.col("answer_end_ns").fill_null(end_ns), next_ns))
    rows = rows.filter(pl.col("until") - pl.col("ask_end_ns") >= MIN_HOLD_NS)
    lengths = _computed_ns(view, rows["ask_end_ns"].to_numpy(), rows["until"].to_numpy())
    rows = rows.with_columns(length=pl.Series(lengths, dtype=pl.Int64)).filter(pl.col("length") >= MIN_HOLD_NS)
    columns = rows.select("verb", "detail", "ask_end_ns", "until", "length")
    sizes = {(hold.verb, hold.pattern): hold for hold in view.logged}
    found = []
    for verb, pattern, start, until, length in columns.iter_rows():
        told = sizes.get((verb, pattern))
        found.append(
            Hold(
                verb=verb or "a command", pattern=pattern, start_ns=start, end_ns=until, length_ns=length,
                arguments=told.arguments if told else None, option=told.option if told else None,
                type=told.type if told else None, elements=told.elements if told else None,
                bytes=told.bytes if told else None,
            )
        )  # fmt: skip
    return tuple(found)


def _computed_ns(view: RedisView, start_ns: Int64s, end_ns: Int64s) -> Int64s:
    """How long the main thread was on a CPU within each stretch of time."""
    graph = view.picture.graph
    assert graph is not None
    lane = int(graph.axis.lane(np.array([view.pid], dtype=np.int64))[0])
    zero = np.zeros(len(start_ns), np.int64)
    if lane < 0:
        return zero
    base = lane * graph.axis.span - graph.axis.start_ns
    first, last = np.searchsorted(graph.start, [lane * graph.axis.span, (lane + 1) * graph.axis.span])
    mine = np.flatnonzero(graph.kind[first:last] == Kind.RUNNING) + first
    item = np.zeros(len(mine), np.int64)
    running = Moments(item=item, start_ns=graph.start[mine] - base, end_ns=graph.end[mine] - base)
    return running.overlap(start_ns, end_ns, zero)


def logged(view: RedisView) -> tuple[Hold, ...]:
    """From slow log entries of the window; the log knows the second in which a command ended."""
    window, found = view.picture.capture.manifest.window, []
    for entry in view.numbered("SLOWLOG GET").values():
        length, second = number_of(entry.get("us")), number_of(entry.get("at_unix"))
        if length is None or second is None or not entry.get("verb"):
            continue
        end = window.start_ns + int((second + 1) * NS_PER_SECOND) - window.start_realtime_ns
        start = end - 2 * NS_PER_SECOND - int(length * 1000)
        if end < window.start_ns or start > window.end_ns:
            continue
        found.append(
            Hold(
                verb=entry["verb"], start_ns=start, end_ns=end, length_ns=int(length * 1000), exact=False,
                pattern=entry.get("pattern"), arguments=_whole(entry.get("arguments")), option=entry.get("option"),
                type=entry.get("type"), elements=_whole(entry.get("length")), bytes=_whole(entry.get("bytes")),
            )
        )  # fmt: skip
    return tuple(found)


def stalled_by(view: RedisView, holds: tuple[Hold, ...]) -> Moments:
    """The root's time in which these commands ran.

    Exactly where they were seen; else the stalls of the seconds they ended in, as much of each as they took.
    """
    if all(hold.exact for hold in holds):
        return Moments.of(view.running).within([(hold.start_ns, hold.end_ns) for hold in holds])
    stalls = zip(view.stalls.item.tolist(), view.stalls.start_ns.tolist(), view.stalls.end_ns.tolist(), strict=True)
    left = {number: hold.length_ns for number, hold in enumerate(holds)}
    items, starts, ends = [], [], []
    for item, start, end in sorted(stalls, key=lambda stall: stall[1] - stall[2]):
        fits = [n for n, hold in enumerate(holds) if left[n] > 0 and hold.start_ns < end and hold.end_ns > start]
        if not fits:
            continue
        # The entry whose length is nearest to the stall; what is left of it may explain another.
        best = min(fits, key=lambda n: abs(left[n] - (end - start)))
        taken = min(left[best], end - start)
        left[best] -= taken
        items.append(item)
        starts.append(end - taken)
        ends.append(end)
    return Moments.of_rows(items, starts, ends)


def number_of(text: str | None) -> float | None:
    """A text as a number; None where it is none."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _whole(text: str | None) -> int | None:
    number = number_of(text)
    return None if number is None else int(number)
