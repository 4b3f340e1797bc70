"""One Redis server as the rules see it: what it said, how that changed, and what its main thread was busy with.

Facts come from `schema.REDIS`, at several moments of the window. A field that a version does not have, or that was not
asked for, is None and never 0.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.blame import ROOT, Coverage
from culpa.diagnose.finding import Finding, Unseen
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisholds import (
    BLOCKING,
    FORKING,
    MIN_HOLD_NS,
    SLOW_LOG_FULL,
    Hold,
    accounted,
    explained,
    is_one_of_many,
)
from culpa.diagnose.verdict import Evidence
from culpa.model.axis import Int64s
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

STALL_NS = 5_000_000
"""A client that waits so long for PING notices; a healthy server on a busy host answers within a millisecond or two."""
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


class RedisView:
    """A server of the picture: `pid` where its process is on this host, `server` as it was addressed."""

    def __init__(self, picture: Picture, server: str, pid: int | None) -> None:
        self.picture = picture
        self.server = server
        self.pid = pid
        mine = pl.col("server") == server if pid is None else pl.col("pid") == pid
        self._facts = picture.capture.frame(schema.REDIS).filter(mine).sort("ts_ns", maintain_order=True)

    @cached_property
    def _ends(self) -> dict[tuple[str, str], tuple[int, str, int, str]]:
        """First and last moment and value of each fact, by source and field."""
        grouped = self._facts.drop_nulls(["source", "field", "value"]).group_by("source", "field", maintain_order=True)
        columns = (pl.col(name).first().alias(f"first_{name}") for name in ("ts_ns", "value"))
        last = (pl.col(name).last().alias(f"last_{name}") for name in ("ts_ns", "value"))
        rows = grouped.agg(*columns, *last)
        return {(source, field): (a, b, c, d) for source, field, a, b, c, d in rows.iter_rows()}

    def text(self, field: str, source: str = "INFO") -> str | None:
        """The last value of a field of INFO (any section), or of another source."""
        for (where, name), (_, _, _, value) in self._ends.items():
            if name == field and (where == source or (source == "INFO" and where.startswith("INFO "))):
                return value
        return None

    def number(self, field: str, source: str = "INFO") -> float | None:
        """The last value as a number; None where it is none."""
        return _number(self.text(field, source))

    def need(self, field: str, source: str = "INFO") -> float:
        """The last value as a number.

        Raises:
            Unseen: the server did not say.
        """
        number = self.number(field, source)
        if number is None:
            raise Unseen(f"the server does not say {field}")
        return number

    def need_text(self, field: str) -> str:
        """The last value of a field of INFO.

        Raises:
            Unseen: the server did not say.
        """
        value = self.text(field)
        if value is None:
            raise Unseen(f"the server does not say {field}")
        return value

    def need_delta(self, field: str) -> float:
        """How much a counter grew in the window.

        Raises:
            Unseen: the server did not say twice.
        """
        grown = self.delta(field)
        if grown is None:
            raise Unseen(f"the server does not count {field}")
        return grown

    def need_setting(self, name: str) -> str:
        """A setting.

        Raises:
            Unseen: the server does not say.
        """
        value = self.setting(name)
        if value is None:
            raise Unseen(f"the server does not tell its setting {name}")
        return value

    def first(self, field: str) -> float | None:
        """The first value of a field of INFO."""
        found = self._both(field)
        return None if found is None else found[1]

    def delta(self, field: str) -> float | None:
        """How much a counter of INFO grew in the window; None where the server was restarted or reset it."""
        found = self._both(field)
        if found is None:
            return None
        grown = found[3] - found[1]
        return grown if grown >= 0 else None

    def grown(self, field: str, part: str) -> float:
        """How much one part of a field like `count=3,calls=5` grew; absent at the start it began at 0."""
        values = self._facts.filter((pl.col("field") == field) & pl.col("source").str.starts_with("INFO "))["value"]
        counts = [_part(text, part) for text in values.to_list()]
        known = [count for count in counts if count is not None]
        if not known:
            return 0.0
        began = known[0] if self._both("uptime_in_seconds") and len(counts) > 1 else 0.0
        return max(0.0, known[-1] - began)

    def values(self, field: str) -> list[float]:
        """All values of a field of INFO, in order."""
        rows = self._facts.filter((pl.col("field") == field) & pl.col("source").str.starts_with("INFO "))
        return [number for value in rows["value"].to_list() if (number := _number(value)) is not None]

    @property
    def seconds(self) -> float:
        """Between the first and the last INFO."""
        found = self._both("uptime_in_seconds") or self._both("used_memory")
        return (found[2] - found[0]) / NS_PER_SECOND if found else 0.0

    def _both(self, field: str) -> tuple[int, float, int, float] | None:
        for (where, name), (first_ns, first, last_ns, last) in self._ends.items():
            if name == field and where.startswith("INFO "):
                a, b = _number(first), _number(last)
                return None if a is None or b is None else (first_ns, a, last_ns, b)
        return None

    def fields(self, prefix: str, source: str = "INFO") -> dict[str, str]:
        """The last values of all fields that begin so, by their name."""
        return {
            name: value
            for (where, name), (_, _, _, value) in self._ends.items()
            if name.startswith(prefix) and where.startswith(source)
        }

    def numbered(self, source: str) -> dict[str, dict[str, str]]:
        """Facts whose field is `NUMBER.NAME`, by number."""
        found: dict[str, dict[str, str]] = {}
        for (where, field), (_, _, _, value) in self._ends.items():
            number, dot, name = field.partition(".")
            if where == source and dot and number.isdecimal():
                found.setdefault(number, {})[name] = value
        return found

    def setting(self, name: str) -> str | None:
        """A setting as the server said it last; None where it was not asked or refuses."""
        return self.text(name, "CONFIG GET")

    @cached_property
    def version(self) -> tuple[int, int, int] | None:
        """Of Redis' command set: a Valkey says which Redis it is compatible with."""
        found = _VERSION.match(self.text("redis_version") or "")
        return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None

    @property
    def is_valkey(self) -> bool:
        """Whether it calls itself Valkey."""
        return self.text("server_name") == "valkey" or self.text("valkey_version") is not None

    def at_least(self, *version: int) -> bool:
        """Whether its version is known and not older."""
        return self.version is not None and self.version >= version

    # What its host knows of it ----------------------------------------------------------------------------------

    @cached_property
    def _counters(self) -> pl.DataFrame:
        return self.picture.capture.frame(schema.COUNTERS).sort("ts_ns")

    def host_number(self, field: str) -> float | None:
        """The last value of a counter of its own process, or of the baseline that was measured before."""
        mine = pl.col("object").is_in([str(self.pid), ""]) if self.pid is not None else pl.col("object") == ""
        found = self._counters.filter((pl.col("field") == field) & mine)["value"]
        return None if found.is_empty() else float(found[-1])

    def host_setting(self, name: str) -> float | None:
        """A setting of the kernel, if the server runs under it."""
        wanted = (pl.col("field") == name) & pl.col("source").str.starts_with("/proc/sys/")
        found = self._counters.filter(wanted)["value"]
        return None if found.is_empty() or self.pid is None else float(found[-1])

    def threads_allowed(self) -> list[int]:
        """For each of its threads, on how many CPUs it may run; empty where that was not seen."""
        mine = (pl.col("field") == "Cpus_allowed") & (pl.col("object") == str(self.pid))
        return [int(value) for value in self._counters.filter(mine)["value"].to_list()]

    @property
    def is_bystander(self) -> bool:
        """Whether another server was to be examined, and this one was met on the way."""
        return self.picture.is_checkup and self.pid not in self.picture.capture.manifest.target.pids

    # What its clients waited for -------------------------------------------------------------------------------

    @cached_property
    def stalls(self) -> Moments:
        """Requests of the root that waited for at least `STALL_NS`: from asking to the answer."""
        rows = self.picture.root.requests
        if rows.is_empty():
            return _moments([], [], [])
        slow = rows.filter(pl.col("end_ns") - pl.col("start_ns") >= STALL_NS)
        return _moments(slow["item"].to_list(), slow["start_ns"].to_list(), slow["end_ns"].to_list())

    @cached_property
    def all_moments(self) -> Moments:
        """The root's whole time."""
        return self.picture.moments(ROOT)

    @cached_property
    def free_stalls(self) -> Moments:
        """Stalls that no command explains: where events were recorded, what the main thread computed meanwhile."""
        holds = tuple(hold for hold in self.holds if hold.verb not in FORKING)
        if self.pid is not None and self.picture.graph is not None:
            spans = list(zip(self.stalls.start_ns.tolist(), self.stalls.end_ns.tolist(), strict=True))
            computed = within(Moments.of(self.running), spans)
            return computed.minus(self.stalled_by(holds)) if holds else computed
        return self.stalls.minus(self.stalled_by(holds)) if holds else self.stalls

    def refused(self, error: str) -> Moments:
        """culpa's own PINGs that were answered with an error that begins so."""
        rows = self.picture.capture.frame(schema.REQUESTS).sort("start_ns").with_row_index("item")
        hit = rows.filter(pl.col("error").str.starts_with(error))
        return _moments(hit["item"].to_list(), hit["start_ns"].to_list(), hit["end_ns"].to_list())

    def stall_facts(self, moments: Moments) -> tuple[Evidence, ...]:
        """How many requests of the root waited in these moments, and the longest of them."""
        touched = self.stalls.overlap(self.stalls.start_ns, self.stalls.end_ns, self.stalls.item)
        theirs = moments.overlap(self.stalls.start_ns, self.stalls.end_ns, self.stalls.item)
        hit = theirs * 2 >= touched
        if not hit.any():
            return ()
        longest = int((self.stalls.end_ns - self.stalls.start_ns)[hit].max())
        return (
            Evidence(
                fact=f"requests that waited 5 ms or more for it: {int(hit.sum())}, the longest {longest / 1e6:.3g} ms",
                value=round(moments.ns / NS_PER_SECOND, 6), unit="s", threshold=STALL_NS / NS_PER_SECOND,
                source="requests",
            ),
        )  # fmt: skip

    def nodes(self, *kinds: Kind) -> list[int]:
        """Nodes of the blame tree that are about the main thread."""
        return [node for node in self.picture.nodes(*kinds) if self.picture.blame.nodes[node].who == self.pid]

    @cached_property
    def running(self) -> Coverage:
        """When the root waited for what the main thread computed."""
        return self.picture.blame.inside(*self.nodes(Kind.RUNNING))

    @cached_property
    def holds(self) -> tuple[Hold, ...]:
        """Commands that took long: seen on its sockets where events were recorded, else by its slow log."""
        seen = self._seen_holds()
        return seen if seen is not None else self.logged

    def _seen_holds(self) -> tuple[Hold, ...] | None:
        """From the main thread's exchanges: a command is worked on until the next one is read, or it is answered.

        Its length is what the thread computed in that time: what it waited for has other causes.
        """
        if self.pid is None or self.picture.graph is None:
            return None
        rows = self.picture.requests.exchanges.filter(
            (pl.col("role") == "server") & (pl.col("pid") == self.pid) & pl.col("ask_end_ns").is_not_null()
        ).sort("ask_end_ns")
        if rows.is_empty():
            return None
        end_ns = self.picture.capture.manifest.window.end_ns
        rows = rows.with_columns(
            until=pl.min_horizontal(
                pl.col("answer_end_ns").fill_null(end_ns), pl.col("ask_end_ns").shift(-1).over("tid").fill_null(end_ns)
            )
        )
        messages = dict(rows.group_by("verb").len().iter_rows())
        rows = rows.filter(pl.col("until") - pl.col("ask_end_ns") >= MIN_HOLD_NS)
        sizes = {(hold.verb, hold.pattern): hold for hold in self.logged}
        found = []
        lengths = self._computed_ns(rows["ask_end_ns"].to_numpy(), rows["until"].to_numpy())
        rows = rows.with_columns(length=pl.Series(lengths, dtype=pl.Int64)).filter(pl.col("length") >= MIN_HOLD_NS)
        columns = ("verb", "detail", "ask_end_ns", "until", "length")
        for verb, pattern, start, until, length in rows.select(columns).iter_rows():
            ran = self.grown(f"cmdstat_{(verb or '').lower()}", "calls")
            if is_one_of_many(length, messages=messages[verb], commands=ran):
                continue
            told = sizes.get((verb, pattern)) or self._sampled.get(pattern)
            found.append(
                Hold(
                    verb=verb or "a command", pattern=pattern, start_ns=start, end_ns=until, length_ns=length,
                    arguments=told.arguments if told else None, option=told.option if told else None,
                    type=told.type if told else None, elements=told.elements if told else None,
                    bytes=told.bytes if told else None,
                )
            )  # fmt: skip
        threshold_us, new = self.number("slowlog-log-slower-than", "CONFIG GET"), self.number("new", "SLOWLOG GET")
        if threshold_us is None or threshold_us < 0 or new is None or new >= SLOW_LOG_FULL:
            return tuple(found)
        return accounted(found, self.logged, threshold_ns=int(threshold_us * 1000))

    @cached_property
    def _sampled(self) -> dict[str, Hold]:
        """The largest keys of a sample, by their pattern: their type and size, of no command."""
        found: dict[str, Hold] = {}
        for _, key in sorted(self.numbered("KEYS SAMPLED").items(), reverse=True):
            if "pattern" in key:
                found[key["pattern"]] = Hold(
                    verb="", start_ns=0, end_ns=0, length_ns=0, pattern=key["pattern"], type=key.get("type"),
                    elements=_whole(key.get("length")), bytes=_whole(key.get("bytes")),
                )  # fmt: skip
        return found

    def _computed_ns(self, start_ns: Int64s, end_ns: Int64s) -> Int64s:
        """How long the main thread was on a CPU within each stretch of time."""
        graph = self.picture.graph
        assert graph is not None
        lane = int(graph.axis.lane(np.array([self.pid], dtype=np.int64))[0])
        zero = np.zeros(len(start_ns), np.int64)
        if lane < 0:
            return zero
        base = lane * graph.axis.span - graph.axis.start_ns
        first, last = np.searchsorted(graph.start, [lane * graph.axis.span, (lane + 1) * graph.axis.span])
        mine = np.flatnonzero(graph.kind[first:last] == Kind.RUNNING) + first
        running = Moments(item=np.zeros(len(mine), np.int64), start_ns=graph.start[mine] - base,
                          end_ns=graph.end[mine] - base)  # fmt: skip
        return running.overlap(start_ns, end_ns, zero)

    @cached_property
    def logged(self) -> tuple[Hold, ...]:
        """From slow log entries of the window; the log knows the second in which a command ended."""
        window, found = self.picture.capture.manifest.window, []
        for entry in self.numbered("SLOWLOG GET").values():
            length, second = _number(entry.get("us")), _number(entry.get("at_unix"))
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

    def stalled_by(self, holds: tuple[Hold, ...]) -> Moments:
        """The root's time in which these commands ran.

        Exactly where they were seen; else the stalls of the seconds they ended in, as much of each as they took.
        """
        if all(hold.exact for hold in holds):
            computed = within(Moments.of(self.running), [(hold.start_ns, hold.end_ns) for hold in holds])
            blocking = [(hold.start_ns, hold.end_ns) for hold in holds if hold.verb in BLOCKING]
            return computed.plus(within(self.all_moments, blocking))
        return explained(self.stalls, holds)


def each_server(check: Callable[[RedisView], Iterator[Finding]]) -> Callable[[Picture], Iterator[Finding]]:
    """Make a rule's function of one that looks at a single server.

    Where it cannot look at one (`Unseen`) the others are looked at all the same; it is skipped where that is all.
    """

    @functools.wraps(check)
    def all_of_them(picture: Picture) -> Iterator[Finding]:
        views = picture.redis_servers
        if not views:
            raise Unseen("no Redis server was asked")
        unseen: list[Unseen] = []
        for view in views:
            try:
                yield from check(view)
            except Unseen as reason:
                unseen.append(reason)
        if len(unseen) == len(views):
            raise unseen[0]

    return all_of_them


def servers(picture: Picture) -> list[RedisView]:
    """The servers that were asked, in the order of their addresses; one for each process."""
    rows = picture.capture.frame(schema.REDIS).select("server", "pid").drop_nulls("server").unique(maintain_order=True)
    found: dict[object, RedisView] = {}
    for server, pid in rows.sort("server", "pid").iter_rows():
        found.setdefault(pid if pid is not None else server, RedisView(picture, server, pid))
    return list(found.values())


def within(moments: Moments, spans: list[tuple[int, int]]) -> Moments:
    """The parts of some moments that lie in any of these spans of time [start, end), in ns."""
    if not spans:
        return _moments([], [], [])
    ordered = sorted(spans)
    start = np.array([span[0] for span in ordered], np.int64)
    end = np.maximum.accumulate(np.array([span[1] for span in ordered], np.int64))
    first = np.searchsorted(end, moments.start_ns, side="right")
    last = np.searchsorted(start, moments.end_ns, side="left")
    rows = np.repeat(np.arange(len(moments.item)), np.maximum(last - first, 0))
    step = np.arange(len(rows)) - np.repeat(
        np.cumsum(np.maximum(last - first, 0)) - np.maximum(last - first, 0), np.maximum(last - first, 0)
    )
    span = first[rows] + step
    ends = np.array([one[1] for one in ordered], np.int64)
    return Moments.union(
        moments.item[rows],
        np.maximum(moments.start_ns[rows], start[span]),
        np.minimum(moments.end_ns[rows], ends[span]),
    )


def _moments(item: list[int], start: list[int], end: list[int]) -> Moments:
    return Moments.union(np.array(item, np.int64), np.array(start, np.int64), np.array(end, np.int64))


def _part(text: str, name: str) -> float | None:
    """One value of `name=1,other=2`."""
    return next(
        (_number(value) for key, _, value in (part.partition("=") for part in text.split(",")) if key == name), None
    )


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _whole(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None else int(number)
