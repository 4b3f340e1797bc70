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
MOST_THREADS = 16
"""Threads that are asked for their age."""


def age(picture: Picture, finding: Finding) -> tuple[Evidence, ...]:
    """How long the blamed wait had lasted when it ended, or when the window did; nothing where it began in the window.

    The thread that is blamed comes first, then the thread of the root that waits at that moment.
    """
    if picture.graph is None:
        return ()
    start_ns, moments = picture.capture.manifest.window.start_ns, finding.moments
    for tid in dict.fromkeys([finding.tid, *_root_threads(picture, moments.item)][:MOST_THREADS]):
        since_ns = _since(picture, tid)
        if tid is None or since_ns is None or since_ns > start_ns - NOTICEABLE_NS:
            continue
        over_ns = _first_run(picture, tid)
        within = moments.start_ns < over_ns
        if within.any():
            age_ns = min(over_ns, int(moments.end_ns[within].max())) - since_ns
            return (
                Evidence(
                    fact=f"{picture.objects.thread_name(tid)} has waited since before culpa looked, for",
                    value=round(age_ns / NS_PER_SECOND, 3), unit="s", threshold=None, source="thread_states",
                ),
            )  # fmt: skip
    return ()


def _first_run(picture: Picture, tid: int) -> int:
    """When the thread first ran in the window; its end where it did not."""
    ran = picture.capture.frame(schema.OFFCPU).filter(pl.col("tid") == tid)["on_ns"].min()
    return picture.capture.manifest.window.end_ns if ran is None else int(str(ran))


def _root_threads(picture: Picture, items: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
    """The threads whose time these items of the root are."""
    assert picture.graph is not None
    axis, tids = picture.graph.axis, []
    for interval in (picture.root.interval, picture.root.queued):
        lanes = interval.start[np.isin(interval.item, items)] // axis.span
        tids += [int(tid) for tid in np.unique(axis.tids[lanes]).tolist()]
    return tids


def _since(picture: Picture, tid: int | None) -> int | None:
    """When the wait began in which the thread was found at the start of the window; None: in none, or not known."""
    if tid is None:
        return None
    states = picture.capture.frame(schema.THREAD_STATES).filter(pl.col("tid") == tid).sort("ts_ns")
    if states.is_empty() or states["state"][0] not in WAITING:
        return None
    since_ns = states["since_ns"][0]
    return None if since_ns is None else int(since_ns)
