"""Judging ten million events: how long `culpa why FILE` takes, and how much memory.

A real session is repeated in time until it is large enough, as recording so much would take minutes and stop at the
tracer's limit; threads, sockets and texts stay those of the one session.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import polars as pl
from measure import Effort, Row, at_most
from memory import watched_peak
from stand import BenchError
from startup import command
from verdict_time import SESSION_SECONDS, busy_redis

from culpa.capture import schema
from culpa.capture.bundle import Capture, open_capture, save
from culpa.capture.columns import Table
from culpa.capture.manifest import Window
from culpa.collect.trace.tracer import usable

EVENTS: Final = 10_000_000
RECORDED: Final = 1_000_000
MAX_SECONDS: Final = 20.0
MAX_MIB: Final = 2048.0
REPEATED: Final = {
    schema.OFFCPU: ("off_ns", "on_ns"),
    schema.SYSCALLS: ("enter_ns", "exit_ns"),
    schema.MESSAGES: ("enter_ns", "exit_ns"),
    schema.BLOCKS: ("queued_ns", "complete_ns"),
}
"""The tables of events, and the columns in which null says that something reaches over an edge of the window."""


def repeated(capture: Capture, times: int) -> Capture:
    """The same session so many times over, one after the other."""
    window = capture.manifest.window
    length = window.end_ns - window.start_ns
    tables = dict(capture.tables)
    for table, ends in REPEATED.items():
        frame = capture.frame(table)
        parts = [_within(frame, ends, window, first=at == 0, last=at == times - 1) for at in range(times)]
        tables[table.name] = pl.concat(_later(table, part, at * length) for at, part in enumerate(parts))
    late = pl.col("ts_ns") > window.start_ns + length // 2
    tables["thread_states"] = capture.frame(schema.THREAD_STATES).with_columns(
        ts_ns=pl.col("ts_ns") + pl.when(late).then((times - 1) * length).otherwise(0)
    )
    cost = msgspec.structs.replace(capture.manifest.cost, events=capture.manifest.cost.events * times)
    whole = msgspec.structs.replace(window, end_ns=window.start_ns + times * length)
    return Capture(manifest=msgspec.structs.replace(capture.manifest, window=whole, cost=cost), tables=tables)


def _within(frame: pl.DataFrame, ends: tuple[str, str], window: Window, *, first: bool, last: bool) -> pl.DataFrame:
    """The rows of one repetition: what reaches over a seam ends there and begins there anew."""
    began, ended = ends
    if not first:
        frame = frame.with_columns(pl.col(began).fill_null(window.start_ns))
    return frame if last else frame.with_columns(pl.col(ended).fill_null(window.end_ns))


def _later(table: Table, frame: pl.DataFrame, by_ns: int) -> pl.DataFrame:
    return frame.with_columns(pl.col(column.name) + by_ns for column in table.columns if column.unit == "ns")


def _recorded(directory: Path, events: int) -> Capture:
    """A session of a busy Redis, as `culpa record` saves it."""
    path = directory / "recorded.culpa"
    with busy_redis(50, events) as (server, window):
        argv = [*command(), "record", str(server.pid), "--for", f"{window:.2f}s", "-o", str(path), "--quiet"]
        done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=SESSION_SECONDS, check=False)
    if done.returncode:
        raise BenchError(f"culpa record ended with status {done.returncode}: {done.stderr.strip()}")
    return open_capture(path)


def measure(effort: Effort) -> Iterator[Row]:
    """From the file to the verdict."""
    events = effort.times(EVENTS, EVENTS // 10)
    name = f"judging a capture of {events:,} events"
    problem = usable()
    if problem is not None:
        yield Row(name=f"{name} (not measured: {problem})", value=None, unit="s", goal=at_most(MAX_SECONDS))
        return
    with tempfile.TemporaryDirectory(prefix="culpa-bench-") as folder:
        directory = Path(folder)
        capture = _recorded(directory, effort.times(RECORDED, RECORDED // 10))
        held = capture.manifest.cost.events
        times = -(-events // held)
        path = directory / "large.culpa"
        save(repeated(capture, times), path)
        del capture
        found = [_judged(path, directory) for _ in range(effort.times(2, 1))]
    seconds, peaks = (tuple(one[at] for one in found) for at in (0, 1))
    yield Row(name=name, value=max(seconds), unit="s", goal=at_most(MAX_SECONDS), runs=seconds)
    yield Row(name=f"{name}: peak memory", value=max(peaks), unit="MiB", goal=at_most(MAX_MIB), runs=peaks)
    yield Row(name=f"{name}: events", value=float(held * times), unit="events")


def _judged(path: Path, directory: Path) -> tuple[float, float]:
    """Seconds, and MiB at most."""
    began = time.monotonic()
    peak = watched_peak([*command(), "why", str(path), "--json"], directory / "verdict.json")
    return time.monotonic() - began, peak
