"""Reads and writes of a few bytes that a program makes by the thousand, one after the other, on one kind of file.

Each costs a way into the kernel and back, whatever it moves. What they wait for in the kernel is left out: a disk that
is slow makes any call slow, and has causes of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

from culpa.diagnose import filecalls, pathpattern
from culpa.diagnose.code import SAMPLED_NS, sampled_threads
from culpa.diagnose.moments import Moments
from culpa.model.kinds import Kind

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

Operation = Literal["read", "write"]
OPERATIONS: tuple[Operation, ...] = ("read", "write")
SMALL_BYTES = 1024
"""A quarter of a page: whatever buffers its output or input moves a page at once at least (stdio: 4096, Python: 8192).
"""
MIN_CALLS = 1000
"""In one request, or in one window of a process. With fewer there is next to nothing to be saved."""
MIN_ON_ONE_FILE = 50
"""Calls on one file, from which one call in place of many would have done; many small files need a call each."""
MIN_SHARE = 0.15
"""Of the root's time, in the calls themselves and not waiting there. Programs that do nothing else spend a third or
more there; what a database writes in pieces beside its pages (SQLite's journal) stays below."""
BETWEEN_NS = 1_000
"""Of what lies between two of them at most so much belongs to them: the way out of the kernel and in again, the probes
that watch it (0.3 us here, 0.8 us where they only sum up), and the preparing of the next call. What is more is work of
the program's own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Habit:
    """Small calls of one process, or of several of one name, on files of one pattern: `inside` the calls, and `spent`
    with what lies between. `pid` and `tid` made most of them.

    `files`: their paths. `bytes`: what the calls moved, null where only their sums are known. `by_thread`: where
    samples of their threads' stacks count.
    """

    operation: Operation
    pid: int
    tid: int
    pattern: str
    files: frozenset[str]
    count: int
    bytes: int | None
    inside: Moments
    spent: Moments
    by_thread: Mapping[int, Moments]


def found(picture: Picture, operation: Operation) -> list[Habit]:
    """The habits that cost the root `MIN_SHARE` of its time or more, the costliest first (kept in `Picture.habits`)."""
    habits = _summed(picture, operation) if picture.seen == "sums" else _recorded(picture, operation)
    costly = [habit for habit in habits if picture.share(habit.inside.ns) >= MIN_SHARE]
    return sorted(costly, key=lambda habit: (-habit.inside.ns, habit.pid, habit.pattern))


def spent(picture: Picture) -> Moments:
    """Where all of them lie."""
    moments = Moments.of_rows([], [], [])
    for operation in OPERATIONS:
        for habit in picture.habits[operation]:
            moments = moments.plus(habit.spent)
    return moments


def named(picture: Picture) -> frozenset[tuple[str, str]]:
    """Path and operation of all of them, by which their sums are known where calls are not recorded one by one."""
    habits = (habit for operation in OPERATIONS for habit in picture.habits[operation])
    return frozenset((path, habit.operation) for habit in habits for path in habit.files)


def _recorded(picture: Picture, operation: Operation) -> Iterator[Habit]:
    calls = picture.file_calls
    if calls is None:
        return
    small = _small(calls.rows, operation).filter(~pl.col("pid").is_in(list(picture.redis_pids)))
    if len(small) < MIN_CALLS:
        return
    names = pathpattern.patterns(small["path"].unique().to_list())
    comms = {pid: picture.objects.process(pid).comm or str(pid) for pid in small["pid"].unique().to_list()}
    small = small.with_columns(
        pattern=pl.col("path").replace_strict(names, default=None, return_dtype=pl.String),
        comm=pl.col("pid").replace_strict(comms, default=None, return_dtype=pl.String),
    )
    for (_, pattern), rows in small.group_by("comm", "pattern", maintain_order=True):
        if len(rows) < MIN_CALLS * (picture.request_count if picture.has_price else 1):
            continue
        files, waits = frozenset(rows["path"].to_list()), calls.waits(rows)
        pid, tid = calls.busiest(rows)
        yield Habit(
            operation=operation, pid=pid, tid=tid,
            pattern=str(pattern) if len(files) > 1 else next(iter(files)), files=files, count=len(rows),
            bytes=int(rows["bytes"].sum()), inside=calls.moments(rows).minus(waits),
            spent=calls.one_after_the_other(rows, between_ns=BETWEEN_NS).minus(waits),
            by_thread=calls.by_thread(rows, sampled_threads(picture), between_ns=SAMPLED_NS),
        )  # fmt: skip


def _small(rows: pl.DataFrame, operation: Operation) -> pl.DataFrame:
    """Calls that moved few bytes and were to move few, on files that have many of them."""
    asked = pl.col("asked").fill_null(pl.col("bytes")) if operation == "read" else pl.col("bytes")
    small = rows.filter((pl.col("operation") == operation) & (pl.col("bytes") > 0) & (asked <= SMALL_BYTES))
    small = small.drop_nulls(["path", "tid", "pid"])
    return small.filter(pl.len().over("pid", "dev", "ino") >= MIN_ON_ONE_FILE)


def _summed(picture: Picture, operation: Operation) -> Iterator[Habit]:
    """Calls on files that were seen to have small ones while calls were recorded."""
    groups: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.IO):
        blamed = picture.blame.nodes[node]
        path, call = (blamed.on.path, blamed.on.syscall) if blamed.on else (None, None)
        if path is not None and (path, operation) in picture.small_calls and call in filecalls.OPERATIONS[operation]:
            pid = picture.objects.pid_of.get(blamed.who, blamed.who)
            groups[picture.objects.process(pid).comm, path].append(node)
    for (_, path), nodes in groups.items():
        inside, between = picture.moments(*nodes), Moments.of_rows([], [], [])
        for node in nodes:
            blamed = picture.blame.nodes[node]
            running = [n for n in picture.nodes(Kind.RUNNING) if picture.blame.nodes[n].who == blamed.who]
            between = between.plus(picture.moments(*running).longest(blamed.count * BETWEEN_NS))
        tid = picture.blame.nodes[nodes[0]].who
        yield Habit(
            operation=operation, pid=picture.objects.pid_of.get(tid, tid), tid=tid, pattern=path,
            files=frozenset({path}), count=sum(picture.blame.nodes[n].count for n in nodes), bytes=None,
            inside=inside, spent=inside.plus(between), by_thread={},
        )  # fmt: skip
