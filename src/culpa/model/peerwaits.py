"""Waits for the other end of a socket: whose answer, and what that end did meanwhile; of an answer that had to wait for
what another client brought, what that client did.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from culpa.model import blockingwaits
from culpa.model.arrivals import LONG_AGO, SEVERAL, UNNAMED, Arrivals, Busy
from culpa.model.axis import NO_THREAD, Axis, Bools, Int64s, Spans
from culpa.model.calls import integers, pick
from culpa.model.kinds import NONE, Kind
from culpa.model.lookups import Lookups
from culpa.model.objects import Objects, Thing
from culpa.model.pieces import Pieces
from culpa.model.requests import Requests

LOOKING_UP = "looking up a name"
FAR = np.iinfo(np.int64).max // 4
"""Stands for "not in this window" among moments."""


class Conversations:
    """Exchanges laid onto the axis: when a client awaits an answer, when a server works on one."""

    def __init__(self, requests: Requests, axis: Axis, arrivals: Arrivals, lookups: Lookups) -> None:
        rows = requests.exchanges
        self._rows = rows.select("verb", "detail")
        self.server_of = requests.server_of
        self.blocks = blockingwaits.are(requests)
        self.ended_by = blockingwaits.ended_by(requests, self.blocks)
        self.ino = integers(rows, "ino")
        self.ask_start = rows["ask_start_ns"].fill_null(axis.start_ns).to_numpy()
        self.ask_end = rows["ask_end_ns"].fill_null(axis.start_ns).to_numpy()
        self.answer_start = rows["answer_start_ns"].fill_null(FAR).to_numpy()
        self.answer_end = rows["answer_end_ns"].fill_null(FAR).to_numpy()
        self.lane = axis.lane(integers(rows, "tid"))
        answer_lane = axis.lane(integers(rows, "answer_tid"))
        self.answer_lane = np.where(answer_lane >= 0, answer_lane, self.lane)
        client = (rows["role"] == "client").to_numpy() & (self.lane >= 0)
        server = (rows["role"] == "server").to_numpy() & (self.lane >= 0)
        asked, over = self.ask_end.copy(), self.answer_end.copy()
        named = np.flatnonzero(lookups.among(self.ino))
        asked[named] = self.ask_start[named]
        over[named] = np.minimum(over[named], lookups.closed_ns(self.ino[named]))
        self.awaiting = self._spans(axis, np.flatnonzero(client), asked, over)
        self.serving = self._spans(axis, np.flatnonzero(server), self.ask_end, self.answer_end)
        self._by_end = np.argsort(self.awaiting.end, kind="stable")
        rows_of = np.flatnonzero(server)
        self._server_rows = rows_of
        self.taker, self.taken = arrivals.first_hand(self.ino, self.lane)
        self.last_server = dict(zip(self.ino[rows_of].tolist(), self.lane[rows_of].tolist(), strict=True))

    def _spans(self, axis: Axis, rows: Int64s, since: Int64s, until: Int64s) -> Spans:
        lanes = self.lane[rows]
        end = axis.place(lanes, until[rows]) + (until[rows] > axis.end_ns)
        return Spans.sorted(axis.place(lanes, since[rows]), end, rows)

    def awaited(self, start: Int64s, end: Int64s) -> Int64s:
        """The exchange that a client's wait [start, end) is for, else `NONE`: of the open ones that answered first."""
        spans = self.awaiting
        if len(spans.row) == 0:
            return np.full(len(start), NONE, np.int64)
        candidate = np.searchsorted(spans.end[self._by_end], end, side="left")
        chosen = pick(self._by_end, np.where(candidate < len(self._by_end), candidate, NONE), NONE)
        holds = (chosen >= 0) & (pick(spans.start, chosen, FAR) <= start)
        return pick(spans.row, np.where(holds, chosen, spans.covering(start)), NONE)

    def busy(self, lanes: Int64s) -> Busy:
        """Which request each of these server threads works on."""
        spans = self.serving
        chosen = np.flatnonzero(np.isin(self.lane[spans.row], lanes))
        shown = pl.concat_str([pl.col("verb"), pl.col("detail")], separator=" ", ignore_nulls=True)
        text = pl.when(pl.col("verb").is_null()).then(pl.lit(UNNAMED)).otherwise(shown)
        asked = self._rows[spans.row[chosen]].select(text).to_series()
        texts = asked.unique().sort()
        place = texts.search_sorted(asked).cast(pl.Int64).to_numpy() if len(texts) else np.zeros(0, np.int64)
        return Busy.of(spans.start[chosen], spans.end[chosen], place, (*texts.to_list(), SEVERAL))

    @property
    def readers(self) -> Int64s:
        """Lanes of the threads that read requests."""
        return np.unique(self.lane[self._server_rows])

    def cuts(self, axis: Axis) -> Int64s:
        """Where the peer had taken the connection, read the question, answered, and where another client began to send
        what it waited for with the answer: on the lane of the client that waits.
        """
        client = self.awaiting.row
        server = self.server_of[client]
        client, server = client[server >= 0], server[server >= 0]
        brought = pick(self.ask_start, self.ended_by[server], LONG_AGO)
        moments = (self.taken[server], self.ask_end[server], self.answer_end[server], brought)
        return np.concatenate([axis.place(self.lane[client], moment) for moment in moments])


class PeerWaits:
    """Explains waits between a question written and its answer read."""

    def __init__(self, pieces: Pieces, conversations: Conversations, objects: Objects) -> None:
        self._pieces = pieces
        self._talk = conversations
        self._objects = objects

    def explain(self, index: Int64s, on_socket: Int64s, receives: Bools) -> None:
        """Follow each wait to the thread that answers.

        Args:
            index: pieces that wait for bytes, in a receiving call or in one that waits for many files.
            on_socket: the socket inode of the call, for receiving calls.
            receives: which of them are receiving calls: they wait for that socket's answer and no other.
        """
        talk = self._talk
        exchange = talk.awaited(self._pieces.start[index], self._pieces.end[index])
        fits = (exchange >= 0) & (~receives | (pick(talk.ino, exchange, NONE) == on_socket))
        index, exchange = index[fits], exchange[fits]
        self._pieces.exchange[index] = exchange
        server = talk.server_of[exchange]
        seen = server >= 0
        moment = self._pieces.axis.time(self._pieces.start[index])
        before = seen & (moment < pick(talk.ask_end, server, FAR))
        after = seen & (moment >= pick(talk.answer_end, server, FAR))
        during = seen & ~before & ~after
        taken = moment >= pick(talk.taken, server, LONG_AGO)
        holder = np.where(taken, pick(talk.lane, server, NONE), pick(talk.taker, server, NONE))
        self._follow(index[before], exchange[before], holder[before], Kind.QUEUED)
        bringer = pick(talk.ended_by, server, NONE)
        other = pick(talk.lane, np.where(moment < pick(talk.ask_start, bringer, LONG_AGO), bringer, NONE), NONE)
        other[other == self._pieces.lane[index]] = NONE
        lanes = np.where(other >= 0, other, pick(talk.answer_lane, server, NONE))
        self._follow(index[during], exchange[during], lanes[during], Kind.PEER)
        self._name(index[after], exchange[after], Kind.UNEXPLAINED, "delivery of the answer")
        self._unseen(index[~seen], exchange[~seen])

    def _follow(self, index: Int64s, exchange: Int64s, lanes: Int64s, kind: Kind) -> None:
        self._name(index, exchange, kind, None)
        self._pieces.next[index] = lanes
        self._pieces.kind[index[lanes < 0]] = Kind.UNEXPLAINED

    def _name(self, index: Int64s, exchange: Int64s, kind: Kind, stage: str | None) -> None:
        ino = pick(self._talk.ino, exchange, NONE)
        for number in np.unique(ino).tolist():
            socket = self._objects.sockets.get(number)
            peer = socket.peer if socket else f"socket {number}"
            self._pieces.label(index[ino == number], Thing(peer=peer, stage=stage), kind)

    def _unseen(self, index: Int64s, exchange: Int64s) -> None:
        """No sign of the question at the other end: another host, not read yet, or a local process not watched.

        A name server is asked by datagrams, of which no socket at the other end knows: it is told apart by its port.
        """
        ino = pick(self._talk.ino, exchange, NONE)
        for number in np.unique(ino).tolist():
            here, rows = index[ino == number], exchange[ino == number]
            socket = self._objects.sockets.get(number)
            peer_ino = socket.peer_ino if socket is not None and socket.peer_ino is not None else NONE
            lane = self._talk.last_server.get(peer_ino, NO_THREAD)
            asks_names = socket is not None and socket.asks_names and lane == NO_THREAD
            if socket is not None and (asks_names or not socket.peer_is_local):
                self._name(here, rows, Kind.REMOTE, LOOKING_UP if asks_names else None)
            elif lane != NO_THREAD:
                self._follow(here, rows, np.full(len(here), lane), Kind.QUEUED)
            else:
                self._name(here, rows, Kind.UNEXPLAINED, "a process that was not watched")
