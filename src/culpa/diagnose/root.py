"""What the shares are shares of: the requests of the target, or the time of its threads.

For a URL or a command it is the probe's own clock, one span a request, with the server's span under it. For a process
it is the union of its recognised requests; if it served none, the running, runnable and non-idle waiting time of its
threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.blame import NOT_RECEIVED, NOTHING, ROOT, UNREAD, BlameBuilder, Interval
from culpa.diagnose.moments import Moments
from culpa.model import timeline
from culpa.model.axis import NO_THREAD, Axis, Bools, Int64s, Integers
from culpa.model.kinds import Kind
from culpa.model.objects import Thing
from culpa.model.requests import Requests
from culpa.model.waitgraph import NOT_WATCHED, WaitGraph

BUSY_SHARE = 0.9
"""Of the time a request lay unread, to be called busy all the time."""
STALL_NS = 5_000_000
"""A client that waits so long for PING notices; a healthy server on a busy host answers within a millisecond or two."""
Basis = Literal["requests", "threads"]


@dataclass(frozen=True, kw_only=True)
class Root:
    """The root's intervals on the axis, and its requests.

    `requests`: item, start_ns, end_ns, done (bool), ino (server socket; null where the server was not seen), verb and
    detail (what was asked; null where it was not recognised). Requests served at the same time by one thread share an
    item. `queued`: time before a request was read, on the axis of the thread that had or would read it. `leads` are
    parts of a request that belong to no thread: item, start_ns, end_ns, kind, thing.
    """

    basis: Basis
    interval: Interval
    queued: Interval
    requests: pl.DataFrame
    leads: tuple[tuple[int, int, int, Kind, Thing], ...]
    threads: int
    idle_ns: int
    wall_ns: int

    @cached_property
    def ns(self) -> int:
        """The root's whole time."""
        threads = sum(int((part.end - part.start).sum()) for part in (self.interval, self.queued))
        return threads + sum(lead[2] - lead[1] for lead in self.leads)

    @property
    def stalls(self) -> Moments:
        """The requests that waited for at least `STALL_NS`: from asking to the answer."""
        slow = self.requests.filter(pl.col("end_ns") - pl.col("start_ns") >= STALL_NS)
        return Moments.of_rows(slow["item"].to_list(), slow["start_ns"].to_list(), slow["end_ns"].to_list())

    def items_at(self, axis: Axis, tids: Integers, times_ns: Int64s) -> tuple[Int64s, Bools]:
        """The item that each thread served at its moment, and whether it served any."""
        order = np.argsort(self.interval.start, kind="stable")
        lanes = axis.lane(tids)
        point = axis.place(lanes, times_ns)
        if not len(order):
            return np.zeros(len(point), np.int64), np.zeros(len(point), bool)
        found = np.searchsorted(self.interval.start[order], point, side="right") - 1
        holder = order[np.maximum(found, 0)]
        inside: Bools = (found >= 0) & (lanes >= 0) & (self.interval.end[holder] >= point)
        return self.interval.item[holder], inside


REQUEST_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "item": pl.Int64, "start_ns": pl.Int64, "end_ns": pl.Int64, "done": pl.Boolean, "ino": pl.UInt64,
    "protocol": schema.PROTOCOL, "verb": schema.REPEATED, "detail": schema.REPEATED,
}  # fmt: skip


def find(capture: Capture, graph: WaitGraph, requests: Requests) -> Root:
    """The root of a capture, by the kind of its target."""
    kind = capture.manifest.target.kind
    if kind == "url" or (kind == "redis" and len(capture.frame(schema.REQUESTS))):
        return _probed(capture, graph, requests)
    if kind == "command":
        return _command(capture, graph)
    served = _served(capture, graph, requests)
    return served if served.ns > 0 else _threads(capture, graph)


def seed(root: Root) -> BlameBuilder:
    """A tree that already holds the parts of requests that belong to no thread."""
    tree = BlameBuilder(Kind.REQUEST)
    one = np.ones(1, np.int64)
    for item, start, end, kind, thing in root.leads:
        node = tree.node(ROOT, kind, -1, thing)
        for target, leaf in ((ROOT, False), (node, True)):
            tree.add(one * target, one * item, one * start, one * (end - start), leaf=np.array([leaf]))
    return tree


def _target_lanes(capture: Capture, pids_of_lanes: Int64s) -> Int64s:
    return np.flatnonzero(np.isin(pids_of_lanes, capture.manifest.target.pids))


def _lane_pids(capture: Capture, graph: WaitGraph) -> Int64s:
    known = dict(timeline.owners(capture).iter_rows())
    return np.array([known.get(tid, -1) for tid in graph.axis.tids.tolist()], dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A server's exchange on the connection of one of the probe's requests."""

    ino: int
    read_ns: int | None
    answered_ns: int | None
    tids: tuple[int | None, int | None]
    verb: str | None
    detail: str | None


End = tuple[int | None, int | None]
"""The probe's end of a connection: its port, or the inode of its unix socket."""


def _answers(capture: Capture, requests: Requests) -> dict[End, list[_Answer]]:
    """The probe's own end to the server's exchanges on that connection, in order."""
    sent = capture.frame(schema.REQUESTS)
    ports, inos = (sent[name].drop_nulls().unique().implode() for name in ("local_port", "local_ino"))
    by_ino = pl.col("peer_ino").is_in(inos).fill_null(value=False)
    ends = capture.frame(schema.SOCKETS).filter(by_ino | pl.col("peer_port").is_in(ports)).select(
        "ino", own_port=pl.when(~by_ino).then("peer_port"), own_ino=pl.when(by_ino).then("peer_ino")
    ).unique()  # fmt: skip
    rows = requests.exchanges.filter(pl.col("role") == "server").join(ends, on="ino").sort("ask_end_ns", "ino")
    columns = ("own_port", "own_ino", "ino", "ask_end_ns", "answer_end_ns", "answer_tid", "tid", "verb", "detail")
    found: dict[End, list[_Answer]] = {}
    for port, own_ino, ino, read, answered, answer_tid, tid, verb, detail in rows.select(columns).iter_rows():
        answer = _Answer(
            ino=ino, read_ns=read, answered_ns=answered, tids=(answer_tid, tid), verb=verb, detail=detail
        )  # fmt: skip
        found.setdefault((port, own_ino), []).append(answer)
    return found


class _Probed:
    """Gathers the parts of the probe's requests: a thread's time, and what is nobody's."""

    def __init__(self, capture: Capture, graph: WaitGraph) -> None:
        self._window, self._method = capture.manifest.window, capture.manifest.target.method
        self._protocol = "resp" if capture.manifest.target.kind == "redis" else "http"
        self._unseen = _unseen_server(capture)
        self._graph, self._axis = graph, graph.axis
        self._targets = _target_lanes(capture, _lane_pids(capture, graph))
        self.rows: list[tuple[object, ...]] = []
        self.leads: list[tuple[int, int, int, Kind, Thing]] = []
        self._read: list[tuple[int, int, int]] = []
        self._unread: list[tuple[int, int, int]] = []

    def add(
        self, item: int, sent_ns: int, received_ns: int | None, answers: list[_Answer], *, after_ns: int, failed: bool
    ) -> None:
        """One request and the exchanges on its connection; one that failed was not finished.

        The clock may be read late on the way out, so that it was served before it "began": what was read after the
        request before it on that connection had ended (`after_ns`) is its own.
        """
        start = max(sent_ns, self._window.start_ns)
        end = min(received_ns or self._window.end_ns, self._window.end_ns)
        mine = [a for a in answers if min(after_ns, start) <= (a.read_ns or start) < end]
        answer, last = (mine[0], mine[-1]) if mine else (None, None)
        ino, verb, detail = (answer.ino, answer.verb, answer.detail) if answer else (None, None, None)
        done = received_ns is not None and not failed
        self.rows.append((item, start, end, done, ino, self._protocol, verb or self._method, detail))
        if answer is None or last is None:
            self._unanswered(item, start, end, waits=received_ns is None or failed)
            return
        read = min(max(answer.read_ns or start, start), end)
        # One request may be several exchanges: a TLS handshake comes first, or "100 Continue".
        answered = min(max(last.answered_ns or end, read), end)
        self._queued(item, start, read, answer)
        self._lead(item, answered, end, Kind.QUEUED, NOT_RECEIVED)
        self._thread(item, read, answered, last)

    def _unanswered(self, item: int, start: int, end: int, *, waits: bool) -> None:
        """No sign of the request at the server: where one thread takes them all, it waits for that one.

        Which one takes them is not known where what keeps it busy began before the window.
        """
        taker = self._graph.taker if waits else NO_THREAD
        if waits and taker == NO_THREAD:
            taker = _occupied(self._graph, self._targets, start, end)
        if taker != NO_THREAD:
            self._add(self._unread, item, taker, start, end)
        else:
            self._lead(item, start, end, *self._unseen)

    def _queued(self, item: int, start: int, read: int, answer: _Answer) -> None:
        """Until it was read it waited for the thread that accepted the connection, then for the one that read."""
        reader = self._lane(*answer.tids[::-1])
        if reader == NO_THREAD:
            self._lead(item, start, read, Kind.QUEUED, UNREAD)
            return
        by, until = self._graph.arrivals.first_hand(np.array([answer.ino]), np.array([reader]))
        taken = min(max(int(until[0]), start), read)
        self._add(self._unread, item, int(by[0]), start, taken)
        self._add(self._unread, item, reader, taken, read)

    def _thread(self, item: int, read: int, answered: int, answer: _Answer) -> None:
        """The time of the thread that answered, else of the one that read."""
        lane = self._lane(*answer.tids)
        if lane == NO_THREAD:
            self._lead(item, read, answered, Kind.UNEXPLAINED, Thing(stage="a thread that was not watched"))
            return
        self._add(self._read, item, lane, read, answered)

    def _lane(self, *tids: int | None) -> int:
        """The lane of the first of these threads that was watched."""
        lanes = self._axis.lane(np.array([tid if tid is not None else -1 for tid in tids], dtype=np.int64))
        return next((lane for lane in lanes.tolist() if lane >= 0), NO_THREAD)

    def _add(self, to: list[tuple[int, int, int]], item: int, lane: int, start: int, end: int) -> None:
        base = lane * self._axis.span - self._axis.start_ns
        to.append((base + start, base + end, item))

    def _lead(self, item: int, start: int, end: int, kind: Kind, thing: Thing) -> None:
        if end > start:
            self.leads.append((item, start, end, kind, thing))

    def read(self) -> Interval:
        """The time of threads that worked on requests."""
        return _gathered(self._read)

    def unread(self) -> Interval:
        """The time before requests were read."""
        return _gathered(self._unread)


def _gathered(rows: list[tuple[int, int, int]]) -> Interval:
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return Interval.of(columns[:, 0], columns[:, 1], columns[:, 2])


def _probed(capture: Capture, graph: WaitGraph, requests: Requests) -> Root:
    """The probe's requests; the server's exchange is found by the probe's own end of the connection."""
    end_ns = capture.manifest.window.end_ns
    sent = capture.frame(schema.REQUESTS).filter(pl.col("start_ns") < end_ns).sort("start_ns")
    answers, gathered = _answers(capture, requests), _Probed(capture, graph)
    columns = ("start_ns", "end_ns", "local_port", "local_ino", "error")
    ended: dict[End, int] = {}
    for item, (start, end, port, ino, error) in enumerate(sent.select(columns).iter_rows()):
        own = (port, ino)
        gathered.add(
            item, start, end, answers.get(own, []), after_ns=ended.get(own, start), failed=error is not None
        )  # fmt: skip
        ended[own] = end or end_ns
    table = pl.DataFrame(gathered.rows, schema=REQUEST_SCHEMA, orient="row")
    return _root(graph, "requests", gathered.read(), table, tuple(gathered.leads), queued=gathered.unread())


def _occupied(graph: WaitGraph, lanes: Int64s, start_ns: int, end_ns: int) -> int:
    """The target's thread that was busy for longest while a request lay unread; `NO_THREAD` where one was free.

    Whoever idles all the while could have read it, and does not for a reason that is not known.
    """
    busiest, longest = NO_THREAD, 0
    for lane in lanes.tolist():
        low, high = (lane * graph.axis.span + moment - graph.axis.start_ns for moment in (start_ns, end_ns))
        first, last = np.searchsorted(graph.end, low, side="right"), np.searchsorted(graph.start, high, side="left")
        length = np.minimum(graph.end[first:last], high) - np.maximum(graph.start[first:last], low)
        unseen = np.isin(graph.on[first:last], [n for n, thing in enumerate(graph.things) if thing == NOT_WATCHED])
        busy = int(length[(graph.kind[first:last] != Kind.IDLE) & ~unseen].sum())
        if busy < BUSY_SHARE * (high - low):
            return NO_THREAD
        if busy > longest:
            busiest, longest = lane, busy
    return busiest


def _unseen_server(capture: Capture) -> tuple[Kind, Thing]:
    if not capture.manifest.target.pids:
        return Kind.REMOTE, Thing(peer=capture.manifest.target.name)
    return Kind.UNEXPLAINED, Thing(stage="the server's part was not seen")


def _command(capture: Capture, graph: WaitGraph) -> Root:
    """The command's main thread from exec to exit."""
    window = capture.manifest.window
    rows = []
    lanes = graph.axis.lane(np.array(capture.manifest.target.pids[:1] or [-1], dtype=np.int64))
    starts, ends, items = [], [], []
    for item, request in enumerate(capture.frame(schema.REQUESTS).sort("start_ns").iter_rows(named=True)):
        start = max(request["start_ns"], window.start_ns)
        end = min(request["end_ns"] or window.end_ns, window.end_ns)
        rows.append((item, start, end, request["end_ns"] is not None, None, None, None, None))
        if lanes[0] >= 0 and end > start:
            starts.append(int(lanes[0]) * graph.axis.span + start - graph.axis.start_ns)
            ends.append(int(lanes[0]) * graph.axis.span + end - graph.axis.start_ns)
            items.append(item)
    interval = Interval.of(np.array(starts, np.int64), np.array(ends, np.int64), np.array(items, np.int64))
    return _root(graph, "requests", interval, pl.DataFrame(rows, schema=REQUEST_SCHEMA, orient="row"), ())


def _served(capture: Capture, graph: WaitGraph, requests: Requests) -> Root:
    """The union, per thread, of the requests that the target's processes served."""
    window = capture.manifest.window
    rows = requests.exchanges.filter(
        (pl.col("role") == "server")
        & pl.col("pid").is_in(list(capture.manifest.target.pids))
        & (pl.col("ask_end_ns").fill_null(window.start_ns) < window.end_ns)
        & ~pl.col("ino").is_in(_asked_by_culpa(capture).implode())
    ).with_columns(
        start_ns=pl.col("ask_end_ns").fill_null(window.start_ns),
        stop_ns=pl.col("answer_end_ns").fill_null(window.end_ns),
        served_by=pl.coalesce("answer_tid", "tid"),
    )
    lanes = graph.axis.lane(rows["served_by"].cast(pl.Int64).to_numpy())
    start = graph.axis.place(lanes, rows["start_ns"].to_numpy())
    end = graph.axis.place(lanes, rows["stop_ns"].to_numpy())
    keep = lanes >= 0
    points, rows = start[keep], rows.filter(pl.Series(keep))
    start, end = _union(points, end[keep])
    interval = Interval.of(start, end, np.arange(len(start), dtype=np.int64))
    table = rows.select(
        item=pl.Series(np.searchsorted(start, points, side="right") - 1, dtype=pl.Int64),
        start_ns="start_ns", end_ns="stop_ns",
        done=pl.col("answer_end_ns").is_not_null() & pl.col("ask_end_ns").is_not_null(),
        ino="ino", protocol="protocol", verb="verb", detail="detail",
    )  # fmt: skip
    return _root(graph, "requests", interval, table, ())


def _asked_by_culpa(capture: Capture) -> pl.Series:
    """Server sockets whose other end is culpa itself, asking a Redis about its settings."""
    own = capture.frame(schema.REDIS).filter((pl.col("source") == "CLIENT INFO") & (pl.col("field") == "addr"))
    peer = pl.concat_str([pl.col("peer_addr"), pl.lit(":"), pl.col("peer_port").cast(pl.String)])
    return capture.frame(schema.SOCKETS).filter(peer.is_in(own["value"].drop_nulls().implode()))["ino"].unique()


def _union(start: Int64s, end: Int64s) -> tuple[Int64s, Int64s]:
    """Merge intervals that overlap or touch."""
    if len(start) == 0:
        return start, end
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(end[order])
    first = np.append(True, start[1:] > reach[:-1])
    last = np.append(first[1:], True)
    return start[first], reach[last]


def _threads(capture: Capture, graph: WaitGraph) -> Root:
    """Everything the target's threads did that was not idle."""
    lanes = _target_lanes(capture, _lane_pids(capture, graph))
    mine = np.isin(graph.start // graph.axis.span, lanes) if len(graph.start) else np.zeros(0, bool)
    unseen = np.array([thing.stage == NOT_WATCHED.stage for thing in graph.things] + [False])[graph.on]
    idle = mine & graph.idle
    counted = mine & ~idle & ~unseen
    start, end = _union(graph.start[counted], graph.end[counted])
    interval = Interval.of(start, end, np.arange(len(start), dtype=np.int64))
    empty = pl.DataFrame(schema=REQUEST_SCHEMA)
    idle_ns = int((graph.end[idle] - graph.start[idle]).sum())
    return _root(graph, "threads", interval, empty, (), idle_ns=idle_ns, threads=len(lanes))


def _root(
    graph: WaitGraph,
    basis: Basis,
    interval: Interval,
    table: pl.DataFrame,
    leads: tuple[tuple[int, int, int, Kind, Thing], ...],
    *,
    queued: Interval = NOTHING,
    idle_ns: int = 0,
    threads: int | None = None,
) -> Root:
    lanes = np.unique(interval.start // graph.axis.span)
    return Root(
        basis=basis,
        interval=interval,
        queued=queued,
        requests=table,
        leads=leads,
        threads=len(lanes) if threads is None else threads,
        idle_ns=idle_ns,
        wall_ns=graph.axis.end_ns - graph.axis.start_ns,
    )
