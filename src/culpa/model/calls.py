"""System calls laid onto the axis, and their columns as arrays."""

from __future__ import annotations

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.model.axis import NO_THREAD, Axis, Bools, Int64s, Integers, Spans
from culpa.model.kinds import NONE

UNKNOWN_NR = -1
OPEN_RET = 1
"""Stands for the return value of a call that has none yet: not 0, which would say that its timer ran out."""


FAR_NS = np.iinfo(np.int64).max // 4

LAID_ROWS = 1 << 17
"""Calls laid onto the axis at once: what is needed in between then stays small."""


class Calls:
    """The calls of one capture: row arrays, and which call covers a point of the axis.

    Look-ups take row numbers and answer -1 for the row -1, so that "no call" needs no special case.
    """

    def __init__(self, seen: pl.DataFrame, states: pl.DataFrame, axis: Axis, numbers: syscalls.Numbers) -> None:
        self._seen = len(seen)
        self.frame = frame = pl.concat([seen, _resting(seen, states)], how="diagonal")
        self.numbers = numbers
        self._nr = np.append(frame["nr"].fill_null(UNKNOWN_NR).to_numpy(), np.int32(UNKNOWN_NR))
        self.on_disk = frame["file_type"].is_in(["reg", "dir"]).fill_null(value=False).to_numpy()
        self.on_socket = (frame["file_type"] == "sock").fill_null(value=False).to_numpy()
        self.spans = self._lay(frame, axis)

    @staticmethod
    def _lay(frame: pl.DataFrame, axis: Axis) -> Spans:
        start, end = np.empty(len(frame), np.int64), np.empty(len(frame), np.int64)
        for at in range(0, len(frame), LAID_ROWS):
            part = frame.slice(at, LAID_ROWS)
            here = slice(at, at + len(part))
            lanes = axis.lane(part["tid"].fill_null(NO_THREAD).to_numpy())
            start[here] = axis.place(lanes, part["enter_ns"].fill_null(axis.start_ns).to_numpy())
            end[here] = axis.place(lanes, part["exit_ns"].fill_null(axis.end_ns).to_numpy())
            # A call still open at the end holds the window's last moment as well.
            end[here] += part["exit_ns"].is_null().to_numpy()
            end[here][lanes < 0] = start[here][lanes < 0]
        return Spans.sorted(start, end, np.arange(len(frame), dtype=np.int32))

    def covering(self, points: Int64s) -> Integers:
        """The row of the call that covers each point, else `NONE`."""
        covering = self.spans.covering(points)
        return np.append(self.spans.row, np.int32(NONE))[covering]

    def _column(self, name: str, rows: Int64s, missing: int) -> Int64s:
        """A column at some rows; `missing` for a null and for the row -1. Most rows are never looked at."""
        known = np.flatnonzero(rows >= 0)
        answer = np.full(len(rows), missing, np.int64)
        answer[known] = self.frame[name].gather(rows[known]).cast(pl.Int64, strict=False).fill_null(missing).to_numpy()
        return answer

    def nr(self, rows: Integers) -> Integers:
        """System call numbers."""
        return self._nr[rows]

    def ret(self, rows: Int64s) -> Int64s:
        """Return values."""
        return self._column("ret", rows, OPEN_RET)

    def exit_ns(self, rows: Int64s) -> Int64s:
        """When the calls ended; long after the window for one that did not."""
        return self._column("exit_ns", rows, FAR_NS)

    def dev(self, rows: Int64s) -> Int64s:
        """Devices of the calls' files."""
        return self._column("dev", rows, NONE)

    def ino(self, rows: Int64s) -> Int64s:
        """Inodes of the calls' files."""
        return self._column("ino", rows, NONE)

    def among(self, rows: Int64s, names: frozenset[str]) -> Bools:
        """Which of the calls are of a class."""
        return np.isin(self.nr(rows), list(self.numbers.of(names)))

    def are_there(self, names: frozenset[str]) -> bool:
        """Whether any call of a class was seen."""
        return bool(np.isin(self._nr, list(self.numbers.of(names))).any())

    def is_resting(self, rows: Int64s) -> Bools:
        """Calls that a thread sat in all the time, known only from /proc."""
        resting: Bools = rows >= self._seen
        return resting

    @property
    def resting_pids(self) -> frozenset[int]:
        """Processes with threads that sat in one call all the time."""
        return frozenset(self.frame["pid"][self._seen :].drop_nulls().to_list())

    def is_socket(self, rows: Int64s) -> Bools:
        """Which of the calls are on a socket."""
        on_socket: Bools = np.append(self.on_socket, False)[rows]
        return on_socket

    def is_file_type(self, rows: Int64s, file_type: str) -> Bools:
        """Which of the calls are on a file of a type, as `schema.SYSCALLS` names it."""
        known = np.flatnonzero(rows >= 0)
        answer = np.zeros(len(rows), bool)
        answer[known] = (self.frame["file_type"].gather(rows[known]) == file_type).fill_null(value=False).to_numpy()
        return answer

    def arg(self, rows: Int64s, number: int) -> Int64s:
        """Argument 0, 1 or 2 of the calls; addresses of user space fit."""
        return self._column(f"arg{number}", rows, NONE)

    def futex_command(self, rows: Int64s) -> Int64s:
        """The operations of futex calls, without their flags; `NONE` for other calls."""
        futex = np.flatnonzero(self.among(rows, syscalls.FUTEX))
        command = np.full(len(rows), NONE, np.int64)
        command[futex] = self.arg(rows[futex], 1) & syscalls.FUTEX_COMMAND_MASK
        return command

    def futex_for_work(self, rows: Int64s) -> Bools:
        """Futex waits with a bitset: glibc's condition variables and semaphores, where workers wait for work."""
        for_work: Bools = self.futex_command(rows) == syscalls.FUTEX_WAIT_BITSET
        return for_work


def _resting(seen: pl.DataFrame, states: pl.DataFrame) -> pl.DataFrame:
    """Calls of threads that made none: /proc saw them in the same one at the start and at the end.

    Which futex operation such a wait is cannot be read there; a wait that outlasts the window is one for work.
    """
    both = states.filter(pl.col("nr").is_not_null()).group_by("tid", maintain_order=True).agg(
        pl.col("pid", "nr", "arg0").first(), pl.col("dev", "ino", "file_type").drop_nulls().first(),
        pl.len().alias("times"), pl.col("nr").n_unique().alias("calls"),
    )  # fmt: skip
    quiet = both.filter((pl.col("times") > 1) & (pl.col("calls") == 1)).join(seen.select("tid"), on="tid", how="anti")
    return quiet.select(
        "tid", "pid", "nr", "arg0", "dev", "ino", "file_type", arg1=pl.lit(syscalls.FUTEX_WAIT_BITSET, pl.UInt64)
    ).sort("tid")


def integers(frame: pl.DataFrame, name: str) -> Int64s:
    """A column as int64, -1 for null."""
    return frame[name].cast(pl.Int64, strict=False).fill_null(-1).to_numpy()


def pick(values: Integers, rows: Integers, missing: int) -> Int64s:
    """`values[rows]`, and `missing` where a row is negative."""
    if len(values) == 0:
        return np.full(len(rows), missing, np.int64)
    picked = values[rows].astype(np.int64, copy=False)
    picked[rows < 0] = missing
    return picked
