"""Check-ups of a Redis server made by hand: what it said at the start and at the end, PINGs, and counters of its host.

For what no host of the tests has: several NUMA nodes, a slow clock, other versions. The window is 10 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.columns import Table
from culpa.capture.manifest import Cost, Evidence, Host, Manifest, Target, Window
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict

MS = 1_000_000
START_NS, SECONDS = 1_000 * MS, 10
END_NS = START_NS + SECONDS * 1_000 * MS
PID, SERVER = 700, "127.0.0.1:7000"
PINGS = 400

Said = Mapping[str, float | str]
Counted = tuple[str, str, str, float]
"""source, object, field, value."""


def checkup(
    first: Said | None = None, last: Said | None = None, *, settings: Said | None = None,
    slow: Mapping[int, float] | None = None, before: Iterable[Counted] = (), after: Iterable[Counted] = (),
    more: Iterable[tuple[str, str, str]] = (), on_host: bool = True, looks: Sequence[Said] = (),
) -> Verdict:  # fmt: skip
    """The verdict on a check-up without tracing.

    Args:
        first, last: fields of INFO at either end; those of `first` that `last` has not stay as they were.
        settings: of CONFIG GET.
        slow: length (ms) of the PINGs of these numbers; all others take 0.1 ms.
        before, after: counters of the host at either end.
        more: source, field and value of what else it was asked, at the end.
        on_host: whether its process was found.
        looks: what INFO said in between, at equal distances.
    """
    usual: dict[str, float | str] = {"uptime_in_seconds": 100, "used_memory": 50_000_000, "redis_version": "7.0.15"}
    begin = usual | dict(first or {})
    said = [begin, *(begin | dict(look) for look in looks), begin | dict(last or {})]
    rows: dict[str, list[dict[str, object]]] = {table.name: [] for table in (schema.REDIS, schema.COUNTERS)}
    pid = PID if on_host else None
    for at, fields in enumerate(said):
        ts_ns = START_NS + at * (END_NS - START_NS) // (len(said) - 1)
        rows["redis"] += [_fact(ts_ns, pid, "INFO server", name, value) for name, value in fields.items()]
    told = {"slowlog-log-slower-than": "10000", "latency-monitor-threshold": "10"} | dict(settings or {})
    rows["redis"] += [_fact(END_NS, pid, "CONFIG GET", name, value) for name, value in told.items()]
    rows["redis"] += [_fact(END_NS, pid, source, field, value) for source, field, value in more]
    for ts_ns, counted in ((START_NS, before), (END_NS, after)):
        rows["counters"] += [
            {"ts_ns": ts_ns, "source": source, "object": who, "field": field, "value": value}
            for source, who, field, value in counted
        ]
    tables = {
        schema.REDIS.name: _frame(schema.REDIS, rows["redis"]),
        schema.COUNTERS.name: _frame(schema.COUNTERS, rows["counters"]),
        schema.REQUESTS.name: _frame(schema.REQUESTS, _pings(slow or {})),
    }
    return judge(Capture(manifest=_manifest(pid), tables=tables))


def answer(verdict: Verdict, check: str) -> str:
    """fired, clear or skipped."""
    return next(one.answer for one in verdict.checks if one.id == check)


def cause(verdict: Verdict, check: str) -> Cause:
    """The cause of that name."""
    return next(one for one in verdict.causes if one.id == check)


def _fact(ts_ns: int, pid: int | None, source: str, field: str, value: float | str) -> dict[str, object]:
    return {"ts_ns": ts_ns, "server": SERVER, "pid": pid, "source": source, "field": field, "value": str(value)}


def _pings(slow: Mapping[int, float]) -> list[dict[str, object]]:
    every_ns = (END_NS - START_NS) // PINGS
    starts = [START_NS + number * every_ns for number in range(PINGS)]
    return [
        {"start_ns": start, "end_ns": start + int(MS * slow.get(number, 0.1)), "local_port": 4000, "bytes": 7}
        for number, start in enumerate(starts)
    ]


def _frame(table: Table, rows: list[dict[str, object]]) -> pl.DataFrame:
    return table.frame({column.name: [row.get(column.name) for row in rows] for column in table.columns})


def _manifest(pid: int | None) -> Manifest:
    return Manifest(
        culpa_version="0",
        host=Host(kernel="6.1", machine="x86_64", cpus=4, memory_bytes=8 << 30, page_bytes=4096, ticks_per_second=100),
        target=Target(kind="redis", name=f"redis://{SERVER}", pids=() if pid is None else (pid,)),
        window=Window(start_ns=START_NS, end_ns=END_NS, start_realtime_ns=1_700_000_000 * 1_000 * MS, ended_by="limit"),
        evidence=Evidence(waits="samples"),
        cost=Cost(events=0, lost_events=0),
    )
