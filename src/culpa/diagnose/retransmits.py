"""Waits for the other end of a connection while TCP waited for acknowledgements that did not come.

A segment that is lost costs what the kernel waits before it sends it again: 200 ms at least, twice as long each further
time, a second at the beginning of a connection (net/ipv4/tcp_timer.c).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.blame import Coverage
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.model.axis import Bools
from culpa.model.calls import FAR_NS
from culpa.model.connectwaits import CONNECTING
from culpa.model.kinds import NONE, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Resent:
    """One segment sent once more: when, how long the kernel had waited at most, and the shortest way there and back."""

    ts_ns: int
    timeout_ns: int | None
    round_trip_ns: int
    connecting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What the waits of a process for one peer lost so: which moments of the root, and by which segments; `tid` is one
    of its threads that waited.
    """

    pid: int
    tid: int
    peer: str
    moments: Moments
    resent: tuple[Resent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wait:
    """A wait on a connection [start_ns, end_ns): who waits, on which sockets of this host, where in the tree."""

    tid: int
    ino: int
    sockets: tuple[int, ...]
    start_ns: int
    end_ns: int
    moments: Moments


def losses(picture: Picture) -> list[Loss]:
    """By waiting process and peer, the largest first; none where waits were not seen one by one."""
    resent = _by_socket(picture.capture.frame(schema.RETRANSMITS))
    if picture.graph is None or not resent:
        return []
    found: dict[tuple[int, str], list[tuple[int, Moments, list[Resent]]]] = defaultdict(list)
    for wait in (*_for_answers(picture, resent), *_for_connections(picture, resent)):
        its = sorted((one for ino in wait.sockets for one in resent.get(ino, ())), key=lambda one: one.ts_ns)
        told = [one for one in its if wait.start_ns < one.ts_ns <= wait.end_ns - one.round_trip_ns]
        moments = wait.moments.within(_stalls(wait.start_ns, told))
        if moments.ns:
            socket = picture.objects.sockets.get(wait.ino)
            who = picture.objects.pid_of.get(wait.tid, wait.tid), socket.peer if socket else f"socket {wait.ino}"
            found[who].append((wait.tid, moments, told))
    parts = [
        Loss(pid=pid, tid=some[0][0], peer=peer, moments=_together([part for _, part, _ in some]),
             resent=tuple(one for *_, told in some for one in told))
        for (pid, peer), some in found.items()
    ]  # fmt: skip
    return sorted(parts, key=lambda loss: (-loss.moments.ns, loss.pid, loss.peer))


def _by_socket(rows: pl.DataFrame) -> Mapping[int, list[Resent]]:
    """What timers sent again, by socket inode; what acknowledgements told to be missing costs next to nothing."""
    told = rows.filter("by_timer").drop_nulls(["ts_ns", "ino"]).sort("ts_ns")
    names = ("ino", "ts_ns", "timeout_ns", "round_trip_ns", "connecting")
    found: dict[int, list[Resent]] = defaultdict(list)
    for ino, ts_ns, timeout_ns, round_trip_ns, connecting in told.select(names).iter_rows():
        found[ino].append(
            Resent(
                ts_ns=ts_ns, timeout_ns=timeout_ns, round_trip_ns=round_trip_ns or 0, connecting=bool(connecting)
            )
        )  # fmt: skip
    return found


def _stalls(start_ns: int, told: list[Resent]) -> list[tuple[int, int]]:
    """When nothing got through, before each of the segments that were sent again."""
    before = [start_ns, *(one.ts_ns for one in told)]
    most = (one.ts_ns - (FAR_NS if one.timeout_ns is None else one.timeout_ns) for one in told)
    since = [max(pair) for pair in zip(before, most, strict=False)]
    return [(begun, one.ts_ns) for begun, one in zip(since, told, strict=True) if one.ts_ns > begun]


def _for_answers(picture: Picture, resent: Mapping[int, list[Resent]]) -> Iterator[_Wait]:
    """Waits for answers, from the question on, on connections of which this host sent something again."""
    window = picture.capture.manifest.window
    rows = picture.requests.exchanges.with_row_index("row").filter(
        (pl.col("role") == "client") & pl.any_horizontal(pl.col("ino", "peer_ino").is_in(list(resent)))
    )
    coverage = picture.blame.coverage
    names = ("row", "tid", "ino", "peer_ino", "ask_start_ns", "answer_start_ns")
    for row, tid, ino, peer_ino, asked_ns, answered_ns in rows.select(names).iter_rows():
        moments = _where(coverage, coverage.exchange == row)
        yield _Wait(
            tid=tid, ino=ino, sockets=tuple({ino, peer_ino} - {None}), moments=moments,
            start_ns=window.start_ns if asked_ns is None else asked_ns,
            end_ns=window.end_ns if answered_ns is None else answered_ns,
        )  # fmt: skip


def _for_connections(picture: Picture, resent: Mapping[int, list[Resent]]) -> Iterator[_Wait]:
    """Waits for a connection to come about."""
    if picture.graph is None:
        return
    things = {node: picture.blame.nodes[node].on for node in picture.nodes(Kind.REMOTE)}
    nodes = [node for node, thing in things.items() if thing is not None and thing.stage == CONNECTING]
    inside = picture.blame.inside(*nodes)
    for row in np.unique(inside.call[inside.call != NONE]).tolist():
        tid, ino, enter_ns = picture.graph.calls.select("tid", "ino", "enter_ns").row(row)
        moments = _where(inside, inside.call == row)
        if ino in resent and moments.ns:
            start_ns = int(moments.start_ns.min()) if enter_ns is None else enter_ns
            yield _Wait(
                tid=tid, ino=ino, sockets=(ino,), start_ns=start_ns, end_ns=int(moments.end_ns.max()), moments=moments
            )


def _where(coverage: Coverage, chosen: Bools) -> Moments:
    return Moments.union(coverage.item[chosen], coverage.start_ns[chosen], coverage.end_ns[chosen])


def _together(parts: list[Moments]) -> Moments:
    columns = ("item", "start_ns", "end_ns")
    return Moments.union(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))
