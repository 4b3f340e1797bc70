"""Waits for an answer that does not come: who would give it, and what that thread sits in meanwhile.

Nothing of the question was seen: it was asked before the window, or its reader never ran in it. What is left is the
connection, which names the process at its other end, and what the threads of that process are in. One that did nothing
in the whole window but wait in one place, other than for work, is who hangs; of several the one that sits on that very
connection, else the one that came to rest next after the question: whoever took it sits there since then.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from culpa import syscalls
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model.axis import NO_THREAD, Bools, Int64s
from culpa.model.calls import Calls
from culpa.model.kinds import NO_THING, NONE, Kind
from culpa.model.objects import Objects, Thing
from culpa.model.peerwaits import Conversations
from culpa.model.pieces import Pieces
from culpa.model.resting import Debt
from culpa.model.timeline import Activity, Timeline
from culpa.units import format_ns

TICK_NS = 10_000_000
"""Both moments are inexact: when data was last sent to the kernel's tick, when a thread last ran to a millisecond."""
NO_ANSWER = "no answer comes"
MOST_WAITERS = 200
"""Threads whose wait is followed; a process in which more hang at once hangs in one way."""


class HungWaits:
    """Follows waits on connections on which an answer is owed."""

    def __init__(self, pieces: Pieces, timeline: Timeline, calls: Calls, objects: Objects, capture: Capture) -> None:
        self._pieces, self._timeline, self._calls, self._objects = pieces, timeline, calls, objects
        sockets = capture.frame(schema.SOCKETS).drop_nulls(["ino", "pid"])
        self._holder: dict[int, int] = dict(sockets.select("ino", "pid").iter_rows())
        states = capture.frame(schema.THREAD_STATES).drop_nulls("tid").sort("ts_ns").unique("tid", keep="first")
        self._since: dict[int, int] = dict(states.drop_nulls("since_ns").select("tid", "since_ns").iter_rows())
        self._still: dict[int, dict[int, tuple[bool, bool]]] = {}
        self._sits_on: dict[int, int] = dict(states.drop_nulls("ino").select("tid", "ino").iter_rows())

    def explain(self, index: Int64s, debts: tuple[Debt, ...]) -> None:
        """Waits that were there all the while, for an answer to what was asked before the window.

        Args:
            index: pieces that are interruptible waits, explained as far as what was seen explains them.
            debts: connections on which an answer may be owed.
        """
        pieces, calls = self._pieces, self._calls
        call = pieces.call[index]
        receives = calls.among(call, syscalls.RECEIVE) & calls.is_socket(call)
        index = index[(receives | calls.among(call, syscalls.MANY_WAIT)) & calls.is_resting(call) & self._open(index)]
        known = [debt for debt in debts if debt.asked_ns is not None]
        for lane in np.unique(pieces.lane[index]).tolist()[:MOST_WAITERS]:
            here = index[pieces.lane[index] == lane]
            debt = self._debt(lane, pieces.call[here[:1]], known)
            if debt is not None:
                self._blame(here, debt)

    def explain_unread(self, index: Int64s, talk: Conversations) -> None:
        """Waits for an answer to a question of this window that nobody was seen to read, at a process that hangs.

        Args:
            index: as in `explain`.
            talk: the exchanges.
        """
        pieces = self._pieces
        index = index[(pieces.exchange[index] >= 0) & self._open(index)]
        for exchange in np.unique(pieces.exchange[index]).tolist()[:MOST_WAITERS]:
            here = index[pieces.exchange[index] == exchange]
            socket = self._objects.sockets.get(int(talk.ino[exchange]))
            pid = None if socket is None else self._holder.get(socket.peer_ino or NONE)
            if socket is None or pid is None:
                continue
            lane = self._who_hangs(pid, socket.peer_ino, int(talk.ask_end[exchange]))
            # Whoever may read it and does not is innocent unless it is known to be kept from it.
            if lane != NO_THREAD and self._is_still(lane) and not self._has(lane, Kind.IDLE, Kind.UNEXPLAINED):
                self._follow(here, socket.peer, lane)

    def _open(self, index: Int64s) -> Bools:
        pieces = self._pieces
        unexplained: Bools = (pieces.kind[index] == Kind.UNEXPLAINED) & (pieces.next[index] == NO_THREAD)
        return unexplained

    def _debt(self, lane: int, call: Int64s, debts: list[Debt]) -> Debt | None:
        """The connection that a thread waits on; None where it may be one of several with different peers."""
        pid = int(self._timeline.pid[lane])
        mine = [debt for debt in debts if debt.pid == pid]
        if self._calls.among(call, syscalls.RECEIVE)[0]:
            ino = int(self._calls.ino(call)[0])
            return next((debt for debt in mine if debt.ino == ino), None)
        sockets = self._objects.sockets
        peers = {(self._holder.get(sockets[debt.ino].peer_ino or NONE), sockets[debt.ino].peer) for debt in mine}
        return max(mine, key=lambda debt: debt.asked_ns or 0) if len(peers) == 1 else None

    def _blame(self, index: Int64s, debt: Debt) -> None:
        pieces, socket = self._pieces, self._objects.sockets[debt.ino]
        pid = self._holder.get(socket.peer_ino or NONE)
        lane = NO_THREAD if pid is None else self._who_hangs(pid, socket.peer_ino, debt.asked_ns or 0)
        # One that goes on with its work may owe nothing: it may let the asker wait for what is to come (a long poll).
        if lane != NO_THREAD and self._is_still(lane):
            self._follow(index, socket.peer, lane)
        else:
            pieces.label(index, Thing(peer=socket.peer, stage=NO_ANSWER))
            pieces.owner[index] = NONE if pid is None else pid

    def _follow(self, index: Int64s, peer: str, lane: int) -> None:
        """Lead on to a thread; where nothing tells what that waits for, say in which call it is, and for how long."""
        pieces, axis = self._pieces, self._timeline.axis
        pieces.label(index, Thing(peer=peer))
        pieces.follow(index, np.full(len(index), lane), Kind.PEER)
        since_ns, at = self._rest_since(lane), np.arange(len(pieces.start))[self._of_lane(lane)]
        at = at[np.isin(pieces.kind[at], (Kind.UNEXPLAINED, Kind.IDLE)) & (pieces.next[at] == NO_THREAD)]
        if not self._is_still(lane) or not NONE < since_ns < axis.start_ns:
            return
        for number in np.unique(pieces.on[at][pieces.on[at] != NO_THING]).tolist():
            thing = pieces.things.all()[number]
            if thing.stage is None and thing.syscall is not None:
                age = f"for {format_ns(axis.end_ns - since_ns)}"
                pieces.label(at[pieces.on[at] == number], replace(thing, stage=age))

    def _who_hangs(self, pid: int, ino: int | None, asked_ns: int) -> int:
        """The lane of the process's thread that is to answer on a socket, else `NO_THREAD`."""
        lanes = np.flatnonzero(self._timeline.pid == pid).tolist()
        tids = self._timeline.axis.tids
        here = [lane for lane in lanes if ino is not None and self._sits_on.get(int(tids[lane])) == ino]
        if len(lanes) < 2 or len(here) == 1:
            return (here or lanes or [NO_THREAD])[0]
        still = self._still_lanes(pid, lanes)
        if len(still) == len(lanes) and all(stopped for stopped, _ in still.values()):
            return next((lane for lane in lanes if tids[lane] == pid), lanes[0])
        after = [lane for lane in still if self._rest_since(lane) >= asked_ns - TICK_NS]
        hanging = [lane for lane in after if not still[lane][1]] or after
        return min(hanging, key=self._rest_since, default=NO_THREAD)

    def _still_lanes(self, pid: int, lanes: list[int]) -> dict[int, tuple[bool, bool]]:
        """Of a process's lanes those that waited in one place all the while: whether they are stopped, and idle."""
        if pid not in self._still:
            self._still[pid] = {
                lane: (self._has(lane, Kind.STOPPED), self._has(lane, Kind.IDLE))
                for lane in lanes
                if self._is_still(lane)
            }
        return self._still[pid]

    def _rest_since(self, lane: int) -> int:
        return self._since.get(int(self._timeline.axis.tids[lane]), NONE)

    def _of_lane(self, lane: int) -> slice:
        span = self._timeline.axis.span
        return slice(*np.searchsorted(self._pieces.start, [lane * span, (lane + 1) * span]).tolist())

    def _is_still(self, lane: int) -> bool:
        """Whether the thread waited in one place all the while."""
        activity = self._timeline.activity[self._pieces.segment[self._of_lane(lane)]]
        return bool((activity == Activity.WAITING).all())

    def _has(self, lane: int, *kinds: Kind) -> bool:
        return bool(np.isin(self._pieces.kind[self._of_lane(lane)], kinds).any())
