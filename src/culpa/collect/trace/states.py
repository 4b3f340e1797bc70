"""What every watched thread does at one moment, as the kernel's list of tasks has it: STATE_EVENT records -> columns.

The kernel keeps when a thread last came onto a CPU by the scheduler's own clock, which drifts from CLOCK_MONOTONIC over
days. The reader has just come onto its CPU itself, so its own record tells the difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from culpa.capture import schema
from culpa.collect.trace import tables
from culpa.collect.trace.events import TASK_NOLOAD, TASK_UNINTERRUPTIBLE
from culpa.collect.trace.ring import Records

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "tid": pl.Int32, "nr": pl.Int32, "arg0": pl.UInt64, "since_ns": pl.Int64, "stack_id": pl.Int32, "dev": pl.UInt32,
    "ino": pl.UInt64, "file_type": schema.FILE_TYPE,
}  # fmt: skip
"""The columns of `schema.THREAD_STATES` that /proc does not know, and those that say whether both saw the same call."""


def table(
    records: Records, own_tid: int, stack_id: Callable[[tuple[int, ...]], int], anonymous_dev: int
) -> pl.DataFrame:
    """One row a thread, in `SCHEMA`; the reader itself is left out.

    Args:
        records: STATE_EVENT, all read in one go by the thread `own_tid` just after it had slept.
        own_tid: the reader.
        stack_id: gives return addresses, innermost first, a number.
        anonymous_dev: as in `tables.syscalls`.
    """
    own, others = records[records["tid"] == own_tid], records[records["tid"] != own_tid]
    if not len(others):
        return pl.DataFrame(schema=SCHEMA)
    clocked = others["arrival_ns"] != 0
    lag_ns = int(own["now_ns"][0]) - int(own["arrival_ns"][0]) if len(own) else 0
    since = np.minimum(others["arrival_ns"].astype(np.int64) + lag_ns, others["now_ns"].astype(np.int64))
    since = np.maximum(since, 0)  # a thread that sleeps since boot: the two clocks differ by more than it is old
    blocked = (others["state"] & (TASK_UNINTERRUPTIBLE | TASK_NOLOAD)) == TASK_UNINTERRUPTIBLE
    stacks = [tuple(frames[frames != 0].tolist()) for frames in np.where(blocked[:, None], others["frame"], 0)]
    has_file = (others["dev"] != 0) | (others["mode"] != 0)
    columns = {
        "tid": pl.Series(others["tid"].copy()),
        "nr": _known(others["nr"], others["nr"] >= 0),
        "arg0": pl.Series(others["arg"][:, 0].copy()),
        "since_ns": _known(since, clocked & (len(own) > 0)),
        "stack_id": pl.Series([stack_id(stack) if stack else None for stack in stacks], dtype=pl.Int32),
        "dev": _known(others["dev"], has_file),
        "ino": _known(others["ino"], has_file),
        "file_type": _where(tables.file_types(others["mode"], others["dev"], anonymous_dev), has_file),
    }
    return pl.DataFrame(columns).cast(SCHEMA)  # type: ignore[arg-type]  # a mapping of names to types


def _known(values: npt.NDArray[np.integer], known: npt.NDArray[np.bool_]) -> pl.Series:
    """The values, null where they are not known."""
    return _where(pl.Series(np.ascontiguousarray(values)), known)


def _where(values: pl.Series, known: npt.NDArray[np.bool_]) -> pl.Series:
    return values.zip_with(pl.Series(known), pl.Series([None], dtype=values.dtype))
