"""Which commands a Redis was busy with, of whom, and who waited behind them: a bounded table of each server.

From its messages where these were recorded (`redisserved`), else from what it counts of each verb and its slow log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.redisserved import Served, own_sockets
from culpa.diagnose.verdict import Asker, CommandRow, Commands, CountedCommand
from culpa.model.axis import Int64s
from culpa.units import NS_PER_SECOND, printable

if TYPE_CHECKING:
    from culpa.diagnose.redisview import RedisView

MAX_ROWS: Final = 20
MAX_ASKERS: Final = 3
MAX_COUNTED: Final = 20
HOLDERS: Final = 6
"""Rows, the largest, behind which others are looked for."""
P99_FROM: Final = 100
LONGEST_NAME: Final = 80
CONTAINERS: Final = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO", "EXEC"})
"""Commands that run others, which the server counts within them and by themselves (call() in server.c)."""
ASKED_BY_CULPA: Final = (
    "AUTH", "CLIENT", "CLIENT|INFO", "CLUSTER", "CLUSTER|INFO", "CONFIG", "CONFIG|GET", "DBSIZE", "HELLO", "INFO",
    "LATENCY", "LATENCY|LATEST", "SELECT", "SLOWLOG", "SLOWLOG|GET", "SLOWLOG|LEN",
)  # fmt: skip
"""Verbs that a check-up asks in its window; the server's counters do not tell whose they were."""
MICROSECONDS: Final = 1_000_000
OWN: Final = -1
KIND: Final = ["verb", "pattern", "several"]

SEVERAL: Final = "a message with several commands is one request of its first verb"
TIMERS: Final = "the last request of a turn of the event loop carries the timers that ran before its reply"
ELSEWHERE: Final = "its I/O threads read messages: how long each held the main thread was not seen"
WRITERS: Final = "its I/O threads wrote replies: that is in no row, and how large they were was not summed"
COUNTERS: Final = "the server's own counters: commands alone, without reading and answering; no waiting, no askers"
OWN_VERBS: Final = "verbs that culpa asks as well (INFO, CONFIG, SLOWLOG and their kin) are left out"
NESTED: Final = "a script or transaction holds the time of its commands, which have rows of their own"


def of(view: RedisView, served: Served | None) -> Commands | None:
    """The table of one server; None where nothing was asked of it, or nothing of that is known."""
    counted = tuple(_counted(view))
    if served is not None and served.elsewhere < len(served.requests):
        table = _by_sockets(view, served, counted)
    else:
        table = _by_counters(view, counted, (ELSEWHERE,) if served is not None else ())
    return table if table.rows else None


# By its messages ------------------------------------------------------------------------------------------------


def _by_sockets(view: RedisView, served: Served, counted: tuple[CountedCommand, ...]) -> Commands:
    window = view.picture.capture.manifest.window
    span_ns = max(1, window.end_ns - window.start_ns)
    own = own_sockets(view.picture.capture, served.requests["ino"].unique().to_list())
    requests = served.requests.with_columns(kind=_kind(pl.col("ino").is_in(list(own))))
    kinds = _kinds(requests)
    threaded = served.written_elsewhere > 0
    own_ns = int(requests.filter(pl.col("kind") == OWN)["held_ns"].sum())
    shown = kinds.head(MAX_ROWS)
    ranks = requests["kind"].replace_strict(shown["kind"], shown["rank"], default=None, return_dtype=pl.UInt32)
    requests = requests.with_columns(rank=ranks)
    behind = _behind(served, requests, len(shown))
    askers = _askers(view, requests)
    labels = [_label(*kind) for kind in shown.select(KIND).iter_rows()]
    rows = [
        _row(row, span_ns, askers.get(row["rank"], ()), _most(behind[row["rank"]], labels), threaded=threaded)
        for row in shown.iter_rows(named=True)
    ]
    rest = kinds[len(shown) :]
    return Commands(
        server=view.server, basis="sockets", seconds=span_ns / NS_PER_SECOND, rows=tuple(rows), other_rows=len(rest),
        other_requests=int(rest["requests"].sum()), other_seconds=int(rest["held_ns"].sum()) / NS_PER_SECOND,
        own_seconds=own_ns / NS_PER_SECOND, counted=counted[:MAX_COUNTED],
        notes=(TIMERS, *((SEVERAL,) if kinds["several"].any() else ()), *((WRITERS,) if threaded else ())),
    )  # fmt: skip


def _kind(own: pl.Expr) -> pl.Expr:
    """A number for each different verb, pattern and kind of message; `OWN` for what culpa asked."""
    verb, pattern = (pl.col(name).to_physical().cast(pl.Int64).fill_null(-1) + 1 for name in ("verb", "pattern"))
    return pl.when(own).then(OWN).otherwise(verb * (1 << 33) + pattern * 2 + pl.col("several").cast(pl.Int64))


def _kinds(requests: pl.DataFrame) -> pl.DataFrame:
    """One row for each kind that others than culpa asked, the most time first, with its `rank`."""
    held = pl.col("held_ns")
    found = (
        requests.lazy().filter(pl.col("kind") != OWN).group_by("kind")
        .agg(
            pl.col(KIND).first(), pl.len().alias("requests"), held.sum(), held.median().alias("p50"),
            held.quantile(0.99).alias("p99"), held.max().alias("max"),
            pl.col("waited_ns", "waited_most_ns", "reply_bytes").sum(),
        ).collect()
    )  # fmt: skip
    text = pl.col("verb", "pattern").cast(pl.String).name.suffix("_text")
    order = found.with_columns(text).with_row_index("at").sort(
        "held_ns", "verb_text", "pattern_text", "several", descending=[True, False, False, False], nulls_last=True
    )  # fmt: skip
    return found[order["at"]].with_row_index("rank")


def _row(
    row: Mapping[str, object], span_ns: int, askers: tuple[Asker, ...], most: tuple[str | None, float | None], *,
    threaded: bool,
) -> CommandRow:  # fmt: skip
    requests, held_ns = _number(row["requests"]), _number(row["held_ns"])
    p99 = _number(row["p99"]) / NS_PER_SECOND if requests >= P99_FROM else None
    return CommandRow(
        verb=_shown(row["verb"]) or "a command", pattern=_shown(row["pattern"]), requests=int(requests),
        calls=None if row["several"] else int(requests), seconds=held_ns / NS_PER_SECOND, share=held_ns / span_ns,
        p50=_number(row["p50"]) / NS_PER_SECOND, p99=p99, max=_number(row["max"]) / NS_PER_SECOND,
        waited=(_number(row["waited_ns"]) / NS_PER_SECOND, _number(row["waited_most_ns"]) / NS_PER_SECOND),
        behind=most[0], behind_seconds=most[1], reply_bytes=None if threaded else int(_number(row["reply_bytes"])),
        askers=askers,
    )  # fmt: skip


def _behind(served: Served, requests: pl.DataFrame, rows: int) -> Int64s:
    """For each row [rows, HOLDERS] how much of its waiting the thread spent on each of the largest rows."""
    rank = requests["rank"].fill_null(-1).cast(pl.Int64).to_numpy()
    found: Int64s = np.zeros((rows, min(rows, HOLDERS)), np.int64)
    waits = np.flatnonzero((rank >= 0) & (served.waits_to > served.waits_from))
    holder = np.append(rank, -1)[served.slice_request]
    for number in range(found.shape[1]):
        spent = np.append(0, np.cumsum(np.where(holder == number, served.slice_ns, 0)))
        part = spent[served.waits_to[waits]] - spent[served.waits_from[waits]]
        found[:, number] = np.bincount(rank[waits], part, rows).astype(np.int64)
    return found


def _most(waited_ns: Int64s, labels: list[str]) -> tuple[str | None, float | None]:
    """The row behind which most was waited, and how long."""
    if not len(waited_ns) or not waited_ns.any():
        return None, None
    number = int(np.argmax(waited_ns))
    return labels[number], int(waited_ns[number]) / NS_PER_SECOND


def _askers(view: RedisView, requests: pl.DataFrame) -> dict[int, tuple[Asker, ...]]:
    """The largest clients of each row."""
    spent = requests.drop_nulls("rank").group_by("rank", "ino").agg(pl.len().alias("requests"), pl.col("held_ns").sum())
    names = _names(view, spent["ino"].unique().to_list())
    told = spent.with_columns(name=pl.col("ino").replace_strict(names, default="unknown", return_dtype=pl.String))
    totals = told.group_by("rank", "name").agg(pl.col("requests", "held_ns").sum())
    totals = totals.sort("rank", "held_ns", "name", descending=[False, True, False])
    found: dict[int, tuple[Asker, ...]] = {}
    for rank, name, count, held_ns in totals.select("rank", "name", "requests", "held_ns").iter_rows():
        known = found.get(rank, ())
        if len(known) < MAX_ASKERS:
            found[rank] = (*known, Asker(name=name, requests=count, seconds=held_ns / NS_PER_SECOND))
    return found


def _names(view: RedisView, inos: list[int]) -> dict[int, str]:
    """Of a server's sockets who is at the other end: the address, and the name it gave itself, else its program."""
    capture = view.picture.capture
    given = {one.get("addr"): one.get("name") for one in view.numbered("CLIENT NAMED").values()}
    sockets = capture.frame(schema.SOCKETS)
    programs = dict(capture.frame(schema.PROCESSES).select("pid", "comm").drop_nulls().iter_rows())
    held = dict(sockets.select("ino", "pid").drop_nulls().iter_rows())
    found = {}
    rows = sockets.filter(pl.col("ino").is_in(inos)).select("ino", "family", "peer_addr", "peer_port", "peer_ino")
    for ino, family, address, port, peer in rows.iter_rows():
        place = "a unix socket" if family == "unix" else f"{address}:*" if address else "an unknown address"
        program = programs.get(held.get(peer))
        name = given.get(f"{address}:{port}") or given.get(f"[{address}]:{port}")
        told = f" (name={name})" if name else f" ({program})" if program else ""
        found[ino] = printable(place + told, LONGEST_NAME)
    return found


def _label(verb: object, pattern: object, several: object) -> str:
    parts = (_shown(verb) or "a command", _shown(pattern), "and more in one message" if several else None)
    return " ".join(part for part in parts if part)


def _shown(text: object) -> str | None:
    return printable(str(text), LONGEST_NAME) if text is not None else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


# By its counters ------------------------------------------------------------------------------------------------


def _by_counters(view: RedisView, counted: tuple[CountedCommand, ...], notes: tuple[str, ...]) -> Commands:
    seconds = view.counted_seconds
    rows = [_counted_row(view, one, seconds) for one in counted]
    rest = rows[MAX_ROWS:]
    nested = (NESTED,) if any(one.contains for one in counted) else ()
    return Commands(
        server=view.server, basis="commandstats", seconds=seconds, rows=tuple(rows[:MAX_ROWS]), other_rows=len(rest),
        other_requests=sum(row.requests for row in rest), other_seconds=sum(row.seconds for row in rest),
        own_seconds=None, counted=counted[:MAX_COUNTED], notes=(*notes, COUNTERS, OWN_VERBS, *nested),
    )  # fmt: skip


def _counted_row(view: RedisView, one: CountedCommand, seconds: float) -> CommandRow:
    """With the longest that the slow log kept, and the pattern if all that it kept have the same."""
    kept = [hold for hold in view.logged if hold.verb == one.verb.partition("|")[0]]
    patterns = {hold.pattern for hold in kept}
    return CommandRow(
        verb=one.verb, pattern=patterns.pop() if len(patterns) == 1 and len(kept) == one.calls else None,
        requests=one.calls, calls=one.calls, seconds=one.seconds, share=one.seconds / seconds if seconds else 0.0,
        p50=None, p99=None, max=max((hold.length_ns for hold in kept), default=0) / NS_PER_SECOND if kept else None,
        waited=None, behind=None, behind_seconds=None, reply_bytes=None,
    )  # fmt: skip


def _counted(view: RedisView) -> Iterator[CountedCommand]:
    """What the server counted of each verb in the window without culpa's PINGs, the most time first."""
    pings, found = _own_pings(view), []
    for name, (calls, usec) in view.counted("cmdstat_", "calls", "usec").items():
        verb = printable(name.upper(), LONGEST_NAME)
        others = calls - pings if verb == "PING" else calls
        if others <= 0 or verb in ASKED_BY_CULPA:
            continue
        quantiles = view.parts(f"latency_percentiles_usec_{name}")
        found.append(
            CountedCommand(
                verb=verb, calls=int(others), seconds=usec / MICROSECONDS * others / calls, contains=verb in CONTAINERS,
                p50_since_start=_seconds(quantiles.get("p50")), p99_since_start=_seconds(quantiles.get("p99")),
            )
        )  # fmt: skip
    yield from sorted(found, key=lambda one: (-one.seconds, one.verb))


def _own_pings(view: RedisView) -> int:
    picture = view.picture
    if not picture.is_checkup or view.is_bystander:
        return 0
    return len(picture.capture.frame(schema.REQUESTS) if picture.asked is None else picture.asked)


def _seconds(usec: float | None) -> float | None:
    return None if usec is None else usec / MICROSECONDS
