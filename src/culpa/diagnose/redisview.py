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

import polars as pl

from culpa.capture import schema
from culpa.diagnose import commandtable, redisholds, redisworked
from culpa.diagnose.blame import ROOT, Coverage
from culpa.diagnose.finding import Finding, Unseen
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisholds import FORKING, Hold, number_of
from culpa.diagnose.root import STALL_NS
from culpa.diagnose.verdict import Commands, Evidence
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

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
    def _info(self) -> pl.DataFrame:
        """The facts of INFO, of any section."""
        return self._facts.filter(pl.col("source").str.starts_with("INFO "))

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
        return number_of(self.text(field, source))

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
        told = self._info
        rows = told.filter(pl.col("field") == field).select("ts_ns", "value").drop_nulls()
        counts = [_part(text, part) for text in rows["value"].to_list()]
        known = [count for count in counts if count is not None]
        if not known:
            return 0.0
        new = rows["ts_ns"][0] > told["ts_ns"].min()
        began = known[0] if self._both("uptime_in_seconds") and len(counts) > 1 and not new else 0.0
        return max(0.0, known[-1] - began)

    def counted(self, prefix: str, *parts: str) -> dict[str, tuple[float, ...]]:
        """How much the parts of all fields `PREFIX...` of INFO grew, by the rest of their names.

        Empty where the server was asked only once. A field that was not there at first began at 0, as all do where the
        server was restarted or its counters reset.
        """
        told = [(name, ends) for (where, name), ends in self._ends.items() if where.startswith("INFO ")]
        mine = [(name.removeprefix(prefix), ends) for name, ends in told if name.startswith(prefix)]
        began_ns = min((first_ns for _, (first_ns, _, _, _) in told), default=0)
        if not any(last_ns > first_ns for _, (first_ns, _, last_ns, _) in mine):
            return {}
        found = {}
        for name, (first_ns, first, _, last) in mine:
            new = first_ns > began_ns
            grown = [((0.0 if new else _part(first, part) or 0.0), _part(last, part) or 0.0) for part in parts]
            reset = any(after < before for before, after in grown)
            found[name] = tuple(after if reset else after - before for before, after in grown)
        return found

    @property
    def counted_seconds(self) -> float:
        """Between the first and the last time its commands were counted."""
        ends = [ends for (where, _), ends in self._ends.items() if where == "INFO commandstats"]
        return max(((last - first) / NS_PER_SECOND for first, _, last, _ in ends), default=0.0)

    def parts(self, field: str) -> dict[str, float]:
        """The numbers in a field like `p50=1.0,p99=2.0`."""
        pairs = (pair.partition("=") for pair in (self.text(field) or "").split(","))
        return {name: number for name, _, text in pairs if (number := number_of(text)) is not None}

    def said(self, *fields: str) -> pl.DataFrame:
        """All that INFO said of these fields, in order: `ts_ns`, `field`, `value` (text)."""
        return self._info.filter(pl.col("field").is_in(fields)).select("ts_ns", "field", "value").drop_nulls()

    def values(self, field: str) -> list[float]:
        """All values of a field of INFO, in order."""
        return [number for value in self.said(field)["value"].to_list() if (number := number_of(value)) is not None]

    @property
    def seconds(self) -> float:
        """Between the first and the last INFO."""
        found = self._both("uptime_in_seconds") or self._both("used_memory")
        return (found[2] - found[0]) / NS_PER_SECOND if found else 0.0

    def _both(self, field: str) -> tuple[int, float, int, float] | None:
        for (where, name), (first_ns, first, last_ns, last) in self._ends.items():
            if name == field and where.startswith("INFO "):
                a, b = number_of(first), number_of(last)
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

    def host_numbers(self, field: str, who: str) -> list[int]:
        """All values of a counter of one object, each once, in order."""
        mine = (pl.col("field") == field) & (pl.col("object") == who)
        return [int(value) for value in self._counters.filter(mine)["value"].drop_nulls().unique().sort().to_list()]

    @property
    def is_bystander(self) -> bool:
        """Whether another server was to be examined, and this one was met on the way."""
        return self.picture.is_checkup and self.pid not in self.picture.capture.manifest.target.pids

    # What its clients waited for -------------------------------------------------------------------------------

    @cached_property
    def stalls(self) -> Moments:
        """Requests of the root that a client notices."""
        return self.picture.root.stalls

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
            computed = Moments.of(self.running).within(spans)
            return computed.minus(self.stalled_by(holds)) if holds else computed
        return self.stalls.minus(self.stalled_by(holds)) if holds else self.stalls

    def refused(self, error: str) -> Moments:
        """culpa's own PINGs that were answered with an error that begins so."""
        rows = self.picture.capture.frame(schema.REQUESTS).sort("start_ns").with_row_index("item")
        hit = rows.filter(pl.col("error").str.starts_with(error))
        return Moments.of_rows(hit["item"].to_list(), hit["start_ns"].to_list(), hit["end_ns"].to_list())

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

    def monitored(self, *events: str) -> tuple[Evidence, ...]:
        """What its own latency monitor noted of these events while culpa watched; nothing where it noted none."""
        noted = self._noted
        facts = []
        for event in events:
            if lasted := noted.get(event):
                seconds = "1 second" if len(lasted) == 1 else f"{len(lasted)} seconds"
                facts.append(
                    Evidence(
                        fact=f"its latency monitor noted {event} in {seconds}, the longest",
                        value=max(lasted), unit="ms", threshold=self.number("threshold_ms", "LATENCY MONITOR"),
                        source=f"LATENCY HISTORY {event}",
                    )
                )  # fmt: skip
        return tuple(facts)

    def all_monitored(self) -> tuple[Evidence, ...]:
        """The same of every event, or that it was on and noted none; nothing where it was off, or not asked."""
        threshold = self.number("threshold_ms", "LATENCY MONITOR")
        if self._noted or not threshold:
            return self.monitored(*sorted(self._noted))
        return (
            Evidence(fact="events that its own latency monitor noted meanwhile", value=0, unit="",
                     threshold=f"{threshold:g} ms", source="LATENCY HISTORY"),
        )  # fmt: skip

    @cached_property
    def _noted(self) -> dict[str, list[float]]:
        """Milliseconds of the worst of each second of the window, by event."""
        noted: dict[str, list[float]] = {}
        for field, value in self.fields("", "LATENCY HISTORY").items():
            event, lasted = field.rpartition(".")[0], number_of(value)
            if event and lasted is not None:
                noted.setdefault(event, []).append(lasted)
        return noted

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
        seen = redisholds.seen(self)
        return seen if seen is not None else redisworked.of_log(self, self.logged)

    @cached_property
    def logged(self) -> tuple[Hold, ...]:
        """Entries of its slow log of the window."""
        return redisholds.logged(self)

    @cached_property
    def commands(self) -> Commands | None:
        """What it was busy with, by command; None where that is not known."""
        return commandtable.of(self, self.picture.served.get(self.pid) if self.pid is not None else None)

    def stalled_by(self, holds: tuple[Hold, ...]) -> Moments:
        """The root's time in which these commands ran."""
        return redisholds.stalled_by(self, holds)


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


def _part(text: str, name: str) -> float | None:
    """One value of `name=1,other=2`."""
    return next(
        (number_of(value) for key, _, value in (part.partition("=") for part in text.split(",")) if key == name), None
    )
