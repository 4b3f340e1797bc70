"""What the probes summed up once records cost too much -> `schema.SUMS`.

Pure: the probes' THREAD_SUM, CALL_SUM and THREAD_STATE records in, polars out. What is still open at the end is added:
the stretch a thread is in, the call it has not left.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.collect.trace import events, tables
from culpa.collect.trace.ring import Records

_ACTIVITIES: Final = {name: number for number, name in enumerate(events.ACTIVITIES)}
_FORMAT, _SOCKET = 0o170000, 0o140000
"""S_IFMT, S_IFSOCK."""
_OFF: Final = ("runnable", "blocked", "sleeping")


def seeds(threads: Records, from_ns: int) -> Records:
    """THREAD_SUM records, by slot, of threads that are watched when sums begin: what each is doing at that moment.

    Args:
        threads: THREAD_STATE of the watched threads.
        from_ns: when sums begin.
    """
    sums = np.zeros(events.THREADS_MAX, dtype=events.THREAD_SUM)
    mine = threads[threads["slot"] < events.THREADS_MAX]
    slot = mine["slot"]
    off = mine["off_ns"] != 0
    runnable = off & ((mine["state"] == 0) | (mine["wake_ns"] != 0))
    blocked = (mine["state"] & events.TASK_UNINTERRUPTIBLE) != 0
    activity = np.select(
        [runnable, blocked], [_ACTIVITIES["runnable"], _ACTIVITIES["blocked"]], _ACTIVITIES["sleeping"]
    )
    for name, values in (("tid", mine["tid"]), ("pid", mine["pid"]), ("activity", activity), ("on_cpu", ~off)):
        sums[name][slot] = values
    sums["since_ns"][slot] = from_ns
    return sums


def table(
    threads: Records, calls: Records, open_calls: Records, *, from_ns: int, end_ns: int, anonymous_dev: int
) -> pl.DataFrame:
    """`schema.SUMS` over [from_ns, end_ns).

    Args:
        threads: THREAD_SUM records.
        calls: CALL_SUM records.
        open_calls: CALL records of the calls that are open at the end.
        from_ns: when sums began.
        end_ns: until when.
        anonymous_dev: as in `tables.syscalls`.
    """
    names = schema.SUMS.schema
    parts = [_activities(threads, end_ns), _calls(calls, open_calls, from_ns, end_ns, anonymous_dev)]
    return pl.concat([part.select(pl.col(name).cast(dtype) for name, dtype in names.items()) for part in parts])


def _activities(threads: Records, end_ns: int) -> pl.DataFrame:
    """One row a thread and activity."""
    spent, counts = threads["ns"].astype(np.int64), threads["count"].astype(np.int64)
    rows = np.arange(len(threads))
    activity = threads["activity"].astype(np.int64) & 3
    spent[rows, activity] += threads["off_ns"].astype(np.int64)
    seen = threads["since_ns"] != 0
    open_ns = np.where(seen, np.maximum(end_ns - threads["since_ns"].astype(np.int64), 0), 0)
    now = np.where(threads["on_cpu"] != 0, _ACTIVITIES["running"], activity)
    spent[rows, now] += open_ns
    frames = [
        pl.DataFrame(
            {
                "tid": threads["tid"],
                "pid": threads["pid"],
                "what": pl.Series([name] * len(threads), dtype=pl.String),
                "count": pl.Series(counts[:, number] if name in _OFF else [None] * len(threads), dtype=pl.Int64),
                "total_ns": spent[:, number],
            }
        )
        for name, number in _ACTIVITIES.items()
    ]
    found = pl.concat(frames).filter(pl.col("total_ns") > 0).sort("tid", maintain_order=True)
    missing = {name: pl.lit(None, dtype) for name, dtype in schema.SUMS.schema.items() if name not in found}
    return found.with_columns(**missing)


def _calls(calls: Records, open_calls: Records, from_ns: int, end_ns: int, anonymous_dev: int) -> pl.DataFrame:
    """One row a thread, call and file."""
    ended = pl.DataFrame(
        {name: np.ascontiguousarray(calls[name]) for name in ("tid", "pid", "nr", "dev", "ino", "mode", "count")}
        | {name: calls[name].astype(np.int64) for name in ("total_ns", "longest_ns")}
    )
    enter = open_calls["enter_ns"].astype(np.int64)
    is_socket = open_calls["mode"] & _FORMAT == _SOCKET
    still = pl.DataFrame(
        {
            "tid": np.ascontiguousarray(open_calls["tid"]),
            "pid": np.ascontiguousarray(open_calls["pid"]),
            "nr": np.ascontiguousarray(open_calls["nr"]),
            "dev": np.where(is_socket, 0, open_calls["dev"]).astype(np.uint32),
            "ino": np.where(is_socket, 0, open_calls["ino"]).astype(np.uint64),
            "mode": open_calls["mode"].astype(np.uint32) & _FORMAT,
            "count": np.ones(len(open_calls), np.uint64),
            "total_ns": np.maximum(end_ns - np.maximum(enter, from_ns), 0),
            "longest_ns": np.where(enter > 0, np.maximum(end_ns - enter, 0), 0),
        }
    )
    keys = ("tid", "pid", "nr", "dev", "ino", "mode")
    sums = (
        pl.concat([ended, still])
        .group_by(keys, maintain_order=True)
        .agg(pl.col("count").sum(), pl.col("total_ns").sum(), pl.col("longest_ns").max())
    )
    has_file = (pl.col("dev") != 0) | (pl.col("mode") != 0)
    one = pl.col("ino") != 0
    return sums.with_columns(
        what=pl.lit("call"),
        dev=pl.when(has_file & one).then("dev"),
        ino=pl.when(has_file & one).then("ino"),
        file_type=pl.when(has_file).then(
            tables.file_types(sums["mode"].to_numpy(), sums["dev"].to_numpy(), anonymous_dev)
        ),
        longest_ns=pl.when(pl.col("longest_ns") > 0).then("longest_ns"),
    ).sort("tid", "total_ns", descending=[False, True], maintain_order=True)
