"""One file, one identity: files of overlays become the files that hold their data.

A system call on an overlay names the overlay's inode; dirtied pages and block requests name the layer's. Whatever
joins the two needs one of them, and only the layer's is known to both sides.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture

_WITH_FILES = (schema.SYSCALLS, schema.THREAD_STATES, schema.SAMPLES, schema.SUMS, schema.ASYNC_IO)
_KEY = ("dev", "ino")


def united(capture: Capture) -> Capture:
    """The capture in which every file that has a known backing goes by it; the same one where none has."""
    files = capture.frame(schema.FILES)
    pairs = files.drop_nulls(["dev", "ino", "backing_dev", "backing_ino"]).select(
        *_KEY, new_dev="backing_dev", new_ino="backing_ino"
    )
    pairs = pairs.unique(list(_KEY), keep="last", maintain_order=True)
    if pairs.is_empty():
        return capture
    tables = dict(capture.tables)
    for table in _WITH_FILES:
        if capture.has(table):
            tables[table.name] = _renamed(capture.frame(table), pairs)
    tables[schema.FILES.name] = _one_each(_renamed(files, pairs))
    return replace(capture, tables=tables)


def _renamed(frame: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Device and inode of a table's rows by the pairs; all else, and the order, as it was."""
    if not frame["dev"].is_in(pairs["dev"].unique().implode()).any():
        return frame
    joined = frame.select(_KEY).join(pairs, on=list(_KEY), how="left", maintain_order="left")
    return frame.with_columns(
        dev=pl.coalesce(joined["new_dev"], joined["dev"]), ino=pl.coalesce(joined["new_ino"], joined["ino"])
    )


def _one_each(files: pl.DataFrame) -> pl.DataFrame:
    """One row a file; of several, each column is the first that knew, those of overlays first."""
    rest = [pl.col(name).drop_nulls().first() for name in files.columns if name not in _KEY]
    ordered = files.sort(pl.col("backing_ino").is_null(), maintain_order=True)
    return ordered.group_by(list(_KEY), maintain_order=True).agg(rest).select(files.columns)
