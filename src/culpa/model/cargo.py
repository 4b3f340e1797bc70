"""Whose data block requests carry.

A write through the page cache is submitted by a kernel thread, or by whoever syncs, long after its writer went on. What
a request carries is told by the inode of its pages, and who dirtied those pages by `dirtied`: per device and inode the
bytes are taken first in, first out. More flushed than was dirtied in the window means that the first of it is older.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.model.axis import Bools, Int64s, expand

NOBODY = -1
"""Dirtied before the window, or unseen."""
_INODE = ("ino_dev", "ino", "generation")
_KEY = ("dev", *_INODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """What each request carries, split by whose it is; rows sorted by `request`, each request has at least one.

    `request` is a row of `blocks`, `owner` a tid: the writer of cached pages, else the submitter. `cached` tells pages
    of the page cache that are written; `owner` is `NOBODY` where such were dirtied before the window. `dev` and `ino`
    name the file, -1 where there is none; `ino` 0 is metadata.
    """

    request: Int64s
    owner: Int64s
    dev: Int64s
    ino: Int64s
    bytes: Int64s
    cached: Bools

    def rows(self, requests: Int64s) -> tuple[Int64s, Int64s]:
        """The rows of each request: [first, stop)."""
        return np.searchsorted(self.request, requests), np.searchsorted(self.request, requests, side="right")


def of(requests: pl.DataFrame, parts: pl.DataFrame, dirtied: pl.DataFrame) -> Cargo:
    """What block requests carry.

    Args:
        requests: `schema.BLOCKS`; the result's `request` is its row number.
        parts: `schema.BLOCK_PARTS` of the same requests.
        dirtied: `schema.DIRTIED`; without rows cached writes belong to nobody.
    """
    blocks = requests.with_row_index("request")
    stretches = _stretches(blocks, parts)
    # Data that was on its way when the window began is older than all that was dirtied in it.
    begun = stretches.filter(pl.col("issue_ns").is_not_null())
    found = _first_in_first_out(begun, dirtied)
    older = stretches.filter(pl.col("issue_ns").is_null()).with_columns(owner=pl.lit(NOBODY, pl.Int64))
    rest = blocks.join(stretches, on="request", how="anti").with_columns(owner=pl.col("tid").cast(pl.Int64))
    columns = ("request", "owner", "ino_dev", "ino", "bytes", "cached")
    frame = pl.concat(
        [
            found.select(*columns[:-1], cached=pl.lit(value=True)),
            older.select(*columns[:-1], cached=pl.lit(value=True)),
            rest.select(*columns[:-1], cached=pl.lit(value=False)),
        ],
        how="vertical_relaxed",
    ).sort("request", "owner", "ino_dev", "ino", nulls_last=True)
    numbers = {name: frame[name].cast(pl.Int64, strict=False).fill_null(NOBODY).to_numpy() for name in columns[:-1]}
    return Cargo(
        request=numbers["request"], owner=numbers["owner"], dev=numbers["ino_dev"], ino=numbers["ino"],
        bytes=numbers["bytes"], cached=frame["cached"].to_numpy(),
    )  # fmt: skip


def _stretches(blocks: pl.DataFrame, parts: pl.DataFrame) -> pl.DataFrame:
    """Cached data of writes, one row per request and inode: request, dev, issue_ns, inode, bytes."""
    writes = blocks.filter((pl.col("op") == "write") & pl.col("ino").is_not_null() & (pl.col("bytes") > 0))
    place = ("issue_ns", "dev", "sector")
    split = parts.filter(pl.col("bytes") > 0).join(writes.select("request", *place), on=place)
    whole = writes.join(split.select("request").unique(), on="request", how="anti")
    columns = ("request", "dev", "issue_ns", *_INODE, "bytes")
    stretches = pl.concat([whole.select(columns), split.select(columns)])
    return stretches.with_columns(pl.col("generation").fill_null(0), pl.col("ino_dev", "ino").fill_null(0))


def _first_in_first_out(stretches: pl.DataFrame, dirtied: pl.DataFrame) -> pl.DataFrame:
    """The stretches cut where their writer changes, with `owner`."""
    if stretches.is_empty():
        return stretches.with_columns(owner=pl.lit(NOBODY, pl.Int64))
    keys = stretches.select(_KEY).unique().sort(_KEY).with_row_index("key")
    flushed = stretches.join(keys, on=_KEY).sort("key", "issue_ns", "request")
    written = _written(dirtied, keys)
    out_key, out_bytes = _numbers(flushed, "key", "bytes")
    in_key, in_bytes, in_ns = _numbers(written, "key", "bytes", "from_ns")
    in_total = np.append(0, np.cumsum(in_bytes))
    out_total = np.append(0, np.cumsum(out_bytes))
    base_in = in_total[np.searchsorted(in_key, np.arange(len(keys)))]
    base_out = out_total[np.searchsorted(out_key, np.arange(len(keys)))]
    (out_ns,) = _numbers(flushed, "issue_ns")
    supplied = in_total[_until(in_key, in_ns, out_key, out_ns)] - base_in[out_key]
    end = out_total[1:] - base_out[out_key]
    older = np.zeros(len(keys), np.int64)
    np.maximum.at(older, out_key, end - supplied)
    end = end - older[out_key]
    start = end - out_bytes
    return _cut(flushed, written, start + base_in[out_key], end + base_in[out_key], in_total, base_in[out_key])


def _cut(
    flushed: pl.DataFrame, written: pl.DataFrame, start: Int64s, end: Int64s, in_total: Int64s, base: Int64s
) -> pl.DataFrame:
    """Places [start, end) in the order of dirtying, per stretch; what lies before `base` is older than the window."""
    (tid,) = _numbers(written, "tid")
    begin = np.maximum(start, base)
    first = np.searchsorted(in_total[1:], begin, side="right")
    stop = np.searchsorted(in_total[:-1], end, side="left")
    stretch, row = expand(first, np.where(end > begin, stop, first))
    new = np.minimum(end[stretch], in_total[row + 1]) - np.maximum(begin[stretch], in_total[row])
    old = np.minimum(end, base) - start
    before = np.flatnonzero(old > 0)
    index = np.concatenate([stretch, before])
    return flushed[index].with_columns(
        owner=pl.Series(np.concatenate([tid[row], np.full(len(before), NOBODY)]), dtype=pl.Int64),
        bytes=pl.Series(np.concatenate([new, old[before]]), dtype=pl.Int64),
    )


def _written(dirtied: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    """What was dirtied in the inodes that were flushed, once for each device that it went to."""
    rows = dirtied.drop_nulls(["from_ns", "tid", "dev", "ino", "bytes"]).select(
        "from_ns", "tid", "bytes", pl.col("dev").alias("ino_dev"), "ino", pl.col("generation").fill_null(0)
    )
    return rows.filter(pl.col("bytes") > 0).join(keys, on=_INODE).sort("key", "from_ns", "tid")


def _until(in_key: Int64s, in_ns: Int64s, out_key: Int64s, out_ns: Int64s) -> Int64s:
    """For each (key, moment) how many rows of `in_*`, sorted by key and moment, lie at or before it within the key."""
    moments = np.unique(np.concatenate([in_ns, out_ns]))
    ins, outs = (key * len(moments) + np.searchsorted(moments, ns) for key, ns in ((in_key, in_ns), (out_key, out_ns)))
    return np.searchsorted(ins, outs, side="right")


def _numbers(frame: pl.DataFrame, *names: str) -> tuple[Int64s, ...]:
    return tuple(frame[name].cast(pl.Int64).to_numpy() for name in names)
