"""Who serves together: the threads that read the requests of one process, or of all processes behind one port.

Redis servers are left out: their one thread is how they are made, and there the slow command is the cause.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.model.arrivals import SEVERAL
from culpa.model.objects import Thing

MIN_QUEUED_SHARE = 0.1
"""Of the root's time, in the queue for a thread of the crew: a cause with less is no more than a note."""
MAX_SERVED = 3
"""Requests that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Threads that take requests from the same clients; `pids` are their processes, sorted."""

    pids: tuple[int, ...]
    tids: frozenset[int]


def crews(picture: Picture) -> list[Crew]:
    """All of them, by the smallest process id."""
    served = _served(picture)
    of_port = served.drop_nulls("local_port").group_by("netns", "local_port").agg(pl.col("pid").unique())
    groups = _joined([set(pids) for pids in of_port["pid"].to_list()] + [{pid} for pid in served["pid"].unique()])
    found = []
    for pids in groups:
        tids = served.filter(pl.col("pid").is_in(list(pids)))["tid"].unique().to_list()
        found.append(Crew(pids=tuple(sorted(pids)), tids=frozenset(tids)))
    return sorted(found, key=lambda crew: crew.pids)


def _served(picture: Picture) -> pl.DataFrame:
    """tid, pid, netns, local_port of the requests that were read, one row for each of them that differs."""
    rows = picture.requests.exchanges.filter(pl.col("role") == "server").select("ino", "pid", "tid", "protocol")
    redis = rows.filter(pl.col("protocol") == "resp")["pid"].unique().implode()
    ports = picture.capture.frame(schema.SOCKETS).select("ino", "netns", "local_port").unique("ino", keep="last")
    return rows.filter(~pl.col("pid").is_in(redis)).join(ports, on="ino", how="left").drop("ino", "protocol").unique()


def _joined(groups: list[set[int]]) -> list[set[int]]:
    """Groups that share a member become one."""
    joined: list[set[int]] = []
    for group in groups:
        apart = [other for other in joined if not other & group]
        joined = [*apart, group.union(*(other for other in joined if other & group))]
    return joined


def all_busy(picture: Picture, crew: Crew) -> Moments:
    """When every thread of the crew worked on some request; the moments are of item 0."""
    end_ns = picture.capture.manifest.window.end_ns
    rows = picture.requests.exchanges.filter((pl.col("role") == "server") & pl.col("tid").is_in(list(crew.tids)))
    start = rows["ask_end_ns"].fill_null(picture.capture.manifest.window.start_ns).to_numpy()
    end = rows["answer_end_ns"].fill_null(end_ns).to_numpy()
    each = Moments.union(rows["tid"].cast(pl.Int64).to_numpy(), start, end)
    return all_at_once(each, len(crew.tids))


def all_at_once(each: Moments, members: int) -> Moments:
    """When so many items are there at the same time; the moments are of item 0."""
    point = np.concatenate([each.start_ns, each.end_ns])
    step = np.repeat([1, -1], len(each.start_ns))
    order = np.lexsort((step, point))
    point, level = point[order], np.cumsum(step[order])
    full = np.flatnonzero(level[:-1] >= members) if len(level) else np.zeros(0, np.int64)
    return Moments.union(np.zeros(len(full), np.int64), point[full], point[full + 1])


def is_behind_another(on: Thing | None) -> bool:
    """Whether a node's time was spent behind one other request that is known."""
    return on is not None and on.behind not in (None, SEVERAL)


def served_meanwhile(picture: Picture, nodes: list[int]) -> list[tuple[str, list[int]]]:
    """The requests that were served while others lay in the queue, and the nodes of each, the longest first."""
    found: dict[str, list[int]] = defaultdict(list)
    for node in nodes:
        on = picture.blame.nodes[node].on
        found[(on.behind if on else None) or ""].append(node)
    return sorted(found.items(), key=lambda entry: (-picture.moments(*entry[1]).ns, entry[0]))[:MAX_SERVED]
