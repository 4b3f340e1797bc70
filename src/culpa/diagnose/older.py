"""Waits that were there before culpa looked: how long they have lasted by the kernel's own account."""

from __future__ import annotations

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.finding import Finding
from culpa.diagnose.picture import Picture
from culpa.diagnose.verdict import Evidence
from culpa.units import NS_PER_SECOND

WAITING = ("D", "S", "T", "t")
NOTICEABLE_NS = NS_PER_SECOND // 10
"""A wait that began this little before the window needs no mention."""


def age(picture: Picture, finding: Finding) -> tuple[Evidence, ...]:
    """How long the blamed wait had lasted when it ended, or when the window did; nothing where it began in the window.

    The thread that is blamed comes first, then the thread of the root that waits at that moment.
    """
    window, moments = picture.capture.manifest.window, finding.moments
    old = moments.start_ns <= window.start_ns + NOTICEABLE_NS
    if picture.graph is None or not old.any():
        return ()
    until_ns = int(moments.end_ns[old].max())
    for tid in [finding.tid, *_root_threads(picture, moments.item[old])]:
        since_ns = _since(picture, tid)
        if since_ns is not None and since_ns < window.start_ns - NOTICEABLE_NS:
            return (
                Evidence(
                    fact=f"{picture.objects.thread_name(tid or 0)} has waited since before culpa looked, for",
                    value=round((until_ns - since_ns) / NS_PER_SECOND, 3), unit="s", threshold=None,
                    source="thread_states",
                ),
            )  # fmt: skip
    return ()


def _root_threads(picture: Picture, items: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
    """The threads whose time these items of the root are."""
    assert picture.graph is not None
    interval, axis = picture.root.interval, picture.graph.axis
    lanes = interval.start[np.isin(interval.item, items)] // axis.span
    return [int(tid) for tid in np.unique(axis.tids[lanes]).tolist()]


def _since(picture: Picture, tid: int | None) -> int | None:
    """When the wait began in which the thread was found at the start of the window; None: in none, or not known."""
    if tid is None:
        return None
    states = picture.capture.frame(schema.THREAD_STATES).filter(pl.col("tid") == tid).sort("ts_ns")
    if states.is_empty() or states["state"][0] not in WAITING:
        return None
    since_ns = states["since_ns"][0]
    return None if since_ns is None else int(since_ns)
