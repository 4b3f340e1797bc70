"""Values of a capture that cannot be true: refused, or left out and said so.

The judge computes with what a capture holds, so that after this no number overflows, no text is endless and no stretch
ends before it begins. A value out of range comes from no collector: the file is refused. A stretch that ends before it
begins might come from a kernel's clock: the row is left out, in the open.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import polars as pl

from culpa.capture.columns import Column, Table
from culpa.capture.manifest import BlindSpot, Manifest

MAX_NS: Final = 1 << 62
"""146 years of uptime; twice this still fits into a signed 64-bit number."""
MAX_BYTES: Final = 1 << 62
MAX_WINDOW_NS: Final = 7 * 24 * 3600 * 10**9
MAX_TID: Final = 1 << 22
"""PID_MAX_LIMIT of include/linux/threads.h."""
MAX_PORT: Final = 65_535
MAX_TEXT_BYTES: Final = 64 << 10
MAX_TEXT_LETTERS: Final = MAX_TEXT_BYTES // 4
"""A letter takes up to four bytes in UTF-8."""
MAX_FRAMES: Final = 256
"""Above PERF_MAX_STACK_DEPTH (127) of the kernel."""
MAX_VALUE: Final = 1e300
MAX_PIDS: Final = 65_536
MAX_BLIND_SPOTS: Final = 1000
MAX_WORDS: Final = 16 << 10

_ID_COLUMNS: Final = frozenset({"tid", "pid", "ppid", "waker_tid", "waker_pid", "prev_tid"})
_PORT_COLUMNS: Final = frozenset({"local_port", "peer_port"})
_SMALL_COLUMNS: Final = frozenset({"cpu", "depth", "line", "threads", "active", "commands", "queue_depth", "stack_id"})
_ORDERED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "offcpu": (("off_ns", "wake_ns"), ("wake_ns", "on_ns"), ("off_ns", "on_ns")),
    "syscalls": (("enter_ns", "exit_ns"),),
    "messages": (("enter_ns", "exit_ns"),),
    "blocks": (("queued_ns", "issue_ns"), ("issue_ns", "complete_ns"), ("queued_ns", "complete_ns")),
    "tasks": (("watched_ns", "exit_ns"),),
    "probe_requests": (("start_ns", "end_ns"),),
}

_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "probe_requests": ("start_ns",),
    "counters": ("ts_ns", "value"),
}
"""Columns that every collector fills in every row."""


class CheckError(ValueError):
    """The capture holds what no collector writes; the message says what."""


def check_column(table: Table, column: Column, values: pl.Series) -> int:
    """Compare the values of a column, of its stored type, with their bounds.

    Returns:
        The bytes that its texts take once each value stands alone: a dictionary may hold one long text that a million
        rows point to.

    Raises:
        CheckError: a value is out of range.
    """
    if column.is_text:
        return _text_bytes(table, column, values)
    if column.dtype == pl.List(pl.String):
        if (values.list.len().max() or 0) > MAX_FRAMES:  # type: ignore[operator]  # an integer column
            raise _out_of_range(table, column)
        return _text_bytes(table, column, values.explode())
    if column.dtype == pl.Float64:
        if not (values.is_finite() & (values.abs() <= MAX_VALUE)).all():
            raise _out_of_range(table, column)
    elif (bounds := _bounds(column)) and not values.is_between(*bounds).all():
        raise _out_of_range(table, column)
    return 0


def spent(table: Table, budget: int, text_bytes: int) -> int:
    """What is left of the bytes that all texts together may take.

    Raises:
        CheckError: nothing is.
    """
    if text_bytes > budget:
        raise CheckError(f"the texts of {table.name} would take far more memory than a capture of this size does")
    return budget - text_bytes


def sound_rows(table: Table, frame: pl.DataFrame) -> tuple[pl.DataFrame, BlindSpot | None]:
    """The rows that do not end before they begin and have what every row has; a blind spot if that are not all."""
    true = [(pl.col(earlier) <= pl.col(later)).fill_null(True) for earlier, later in _ORDERED.get(table.name, ())]
    true += [pl.col(name).is_not_null() for name in _REQUIRED.get(table.name, ())]
    possible = frame.select(pl.all_horizontal(true)).to_series() if true else pl.Series([True])
    if possible.all():
        return frame, None
    kept = frame.filter(possible)
    return kept, BlindSpot(
        what=f"{frame.height - kept.height} of {frame.height} rows of {table.name}",
        why="they end before they begin, or lack what every row has",
        way_out="record again; if it happens again, report it",
    )


def shortened(values: pl.Series) -> pl.Series:
    """Texts cut so that none is too long to be opened again; anything else as it is."""
    return values.str.head(MAX_TEXT_LETTERS) if values.dtype == pl.String else values


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest whose numbers or lengths make no sense.

    Raises:
        CheckError: names what is wrong.
    """
    window, host, target, cost = manifest.window, manifest.host, manifest.target, manifest.cost
    _within("the window", 0, window.start_ns, window.end_ns, window.start_ns + MAX_WINDOW_NS, MAX_NS)
    _within("the wall clock", 0, window.start_realtime_ns, MAX_NS)
    _within("the number of CPUs", 1, host.cpus, 1 << 16)
    _within("the memory size", 0, host.memory_bytes, MAX_BYTES)
    _within("the page size", 1, host.page_bytes, 1 << 30)
    _within("the clock tick", 1, host.ticks_per_second, 10**9)
    _within("the slowness limit", 0, target.slower_than_ns, MAX_NS)
    _within("the number of processes", 0, len(target.pids), MAX_PIDS)
    _within("the number of blind spots", 0, len(manifest.blind_spots), MAX_BLIND_SPOTS)
    for pid in target.pids:
        _within("a process id", 0, pid, MAX_TID)
    for amount in (cost.events, cost.lost_events, cost.probe_cpu_ns, cost.culpa_cpu_ns, cost.peak_rss_bytes):
        _within("the cost", 0, amount, MAX_NS)
    words = [manifest.culpa_version, host.kernel, host.machine, target.name, target.method]
    words += [word for spot in manifest.blind_spots for word in (spot.what, spot.why, spot.way_out)]
    if any(len(word) > MAX_WORDS for word in words):
        raise CheckError("a text of its manifest is too long")


def _within(what: str, *ascending: int) -> None:
    if any(low > high for low, high in pairwise(ascending)):
        raise CheckError(f"{what} is out of range")


def _bounds(column: Column) -> tuple[int, int] | None:
    """Lowest and highest sensible value of an integer column; null where any number may stand."""
    if column.unit == "ns":
        return 0, MAX_NS
    if column.unit == "B":
        return 0, MAX_BYTES
    if column.name in _ID_COLUMNS:
        return 0, MAX_TID
    if column.name in _PORT_COLUMNS:
        return 0, MAX_PORT
    return (0, (1 << 31) - 1) if column.name in _SMALL_COLUMNS else None


def _text_bytes(table: Table, column: Column, values: pl.Series) -> int:
    lengths = values.str.len_bytes()
    if int(lengths.max() or 0) > MAX_TEXT_BYTES:  # type: ignore[arg-type]  # an integer column
        raise CheckError(f"a text in {table.name}.{column.name} is too long")
    return int(lengths.cast(pl.UInt64).sum())


def _out_of_range(table: Table, column: Column) -> CheckError:
    return CheckError(f"a value in {table.name}.{column.name} is out of range")
