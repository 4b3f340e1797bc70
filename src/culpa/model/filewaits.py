"""Waits for the other end of a pipe, for an eventfd, and on sockets for what is no request.

All of these wake the waiter inside the system call of whoever caused it, so the waker is believed where its call is on
the same object: the pipe's inode (both ends have the same, and opening one waits for the other), the socket's other
end, an eventfd (all share one inode; eight bytes are written to it). A wait on many files is for the one that the
thread reads or writes next. What is sent over TCP faster than it is read waits for the thread that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from culpa import syscalls
from culpa.model import childwaits
from culpa.model.axis import NO_THREAD, Bools, Int64s
from culpa.model.calls import Calls, pick
from culpa.model.kinds import NONE, Kind
from culpa.model.objects import Objects, Thing
from culpa.model.pieces import Pieces
from culpa.model.timeline import Timeline
from culpa.model.wakes import Wakes

EVENTFD_BYTES = 8
"""Every write to an eventfd is one 64-bit number (eventfd(2))."""
MOVES = syscalls.RECEIVE | syscalls.SEND
ENDS = syscalls.SEND | syscalls.CLOSE
PIPE, EVENTFD, UNIX = range(3)
_STAGES = ("pipe", "eventfd", "unix socket")
NOT_READ = "what is sent is not read yet"


class FileWaits:
    """Waits that a thread at the other end of a file ended, and which kind of file that is."""

    def __init__(self, timeline: Timeline, calls: Calls, objects: Objects, ended: Mapping[int, int]) -> None:
        self._timeline, self._calls, self._objects = timeline, calls, objects
        wakes = Wakes.of(timeline, calls, MOVES | syscalls.OPEN | syscalls.MANY_WAIT)
        wakes = wakes.only(wakes.waker >= 0)
        through = self._through(wakes)
        many = calls.among(wakes.call, syscalls.MANY_WAIT)
        holds = np.where(many, self._many(wakes, through), self._one(wakes, through))
        kind = np.where(holds, through, NONE)
        kind[self._last_writer_ended(wakes, ended)] = PIPE
        self._wakes, self._kind = wakes.only(kind != NONE), kind[kind != NONE]

    def _through(self, wakes: Wakes) -> Int64s:
        """What kind of object the waker's call is on, `NONE` where it is none of these."""
        calls, act = self._calls, wakes.act
        moves = calls.among(act, MOVES | syscalls.OPEN | syscalls.CLOSE)
        rows = np.where(moves, act, NONE)
        kind = np.full(len(rows), NONE, np.int64)
        kind[calls.is_file_type(rows, "fifo")] = PIPE
        number = calls.is_file_type(rows, "anon") & (calls.arg(rows, 2) == EVENTFD_BYTES)
        kind[number & calls.among(rows, syscalls.SEND)] = EVENTFD
        peers = self._objects.unix_peers
        kind[calls.is_socket(rows) & np.isin(calls.ino(rows), [*peers, *peers.values()])] = UNIX
        return kind

    def _other_end(self, wakes: Wakes, through: Int64s) -> Int64s:
        """The inode that the waiter has of the object on which the waker acts."""
        ino = self._calls.ino(wakes.act)
        return np.where(through == UNIX, self._peer(ino), ino)

    def _peer(self, ino: Int64s) -> Int64s:
        """The other end of each of these unix sockets, `NONE` where it is not known."""
        peers = self._objects.unix_peers
        numbers, inverse = np.unique(ino, return_inverse=True)
        others = np.array([peers.get(number, NONE) for number in numbers.tolist()], dtype=np.int64)
        return others[inverse.reshape(-1)] if len(others) else ino

    def _one(self, wakes: Wakes, through: Int64s) -> Bools:
        """Waits in a call on that very object, in which the waker goes the other way."""
        calls = self._calls
        receives = calls.among(wakes.call, syscalls.RECEIVE)
        opposite = np.where(
            receives, calls.among(wakes.act, ENDS), calls.among(wakes.act, syscalls.RECEIVE | syscalls.CLOSE)
        )
        opening = calls.among(wakes.call, syscalls.OPEN)
        opposite = np.where(opening, calls.among(wakes.act, syscalls.OPEN), opposite)
        same = calls.ino(wakes.call) == self._other_end(wakes, through)
        # Many send datagrams to one socket, which has no single other end.
        same |= (
            (through == UNIX)
            & calls.is_socket(wakes.call)
            & (self._peer(calls.ino(wakes.call)) == calls.ino(wakes.act))
        )
        on_number = calls.is_file_type(wakes.call, "anon") & (calls.arg(wakes.call, 2) == EVENTFD_BYTES)
        held: Bools = opposite & (through != NONE) & np.where(through == EVENTFD, on_number, same)
        return held

    def _many(self, wakes: Wakes, through: Int64s) -> Bools:
        """Waits on many files after which the thread uses that object before it waits on many again."""
        calls = self._calls
        ready = calls.among(wakes.call, syscalls.MANY_WAIT) & (calls.ret(wakes.call) > 0)
        other = np.where(ready & (through != EVENTFD) & (through != NONE), self._other_end(wakes, through), NONE)
        by_number: Bools = ready & (through == EVENTFD)
        inodes = np.unique(other[other != NONE])
        if len(inodes) == 0:
            return by_number
        moving = np.flatnonzero(calls.among(calls.spans.row, MOVES))
        rows, places = calls.spans.row[moving], calls.spans.start[moving]
        ino = calls.ino(rows)
        use = np.isin(ino, inodes)
        room = self._timeline.axis.span * (len(self._timeline.axis.tids) + 1)
        uses = np.sort(np.searchsorted(inodes, ino[use]) * room + places[use])
        key = np.searchsorted(inodes, other) * room
        again = calls.spans.start[calls.among(calls.spans.row, syscalls.MANY_WAIT)]
        following = np.searchsorted(again, wakes.end)
        lane_end = (wakes.lane + 1) * self._timeline.axis.span
        until = np.minimum(np.append(again, lane_end.max())[following], lane_end)
        first = np.searchsorted(uses, key + wakes.end)
        used = (first < len(uses)) & (pick(uses, np.minimum(first, len(uses) - 1), 0) < key + until)
        held: Bools = by_number | (ready & (other != NONE) & used)
        return held

    def _last_writer_ended(self, wakes: Wakes, ended: Mapping[int, int]) -> Bools:
        """Reads of a pipe that came to its end because the process that still had it open for writing ended."""
        calls = self._calls
        at_end = calls.among(wakes.call, syscalls.RECEIVE) & (calls.ret(wakes.call) == 0)
        at_end &= calls.is_file_type(wakes.call, "fifo")
        found = np.zeros(len(at_end), bool)
        segments = wakes.segment[at_end]
        found[at_end] = childwaits.ended_at_wake(self._timeline, segments, ended)
        return found

    def explain(self, pieces: Pieces, index: Int64s) -> None:
        """Follow each wait to the thread at the other end.

        Args:
            index: pieces that are interruptible waits.
        """
        waits, row = index, self._wakes.row_of(pieces.segment[index])
        index, row = index[row >= 0], row[row >= 0]
        pid, call = self._timeline.pid, self._wakes.call[row]
        within = pid[self._wakes.waker[row]] == pid[self._wakes.lane[row]]
        # A thread that reads what others of its process write takes its next piece of work there.
        pieces.idle[index[within & self._calls.among(call, syscalls.RECEIVE)]] = True
        pieces.follow(index, self._wakes.waker[row], Kind.PEER)
        nr, kind = self._calls.nr(call), self._kind[row]
        for number, which in np.unique(np.stack([nr, kind], axis=1), axis=0).tolist():
            thing = Thing(syscall=self._calls.numbers.name(number), stage=_STAGES[which])
            pieces.label(index[(nr == number) & (kind == which)], thing)
        self._explain_full(pieces, waits)

    def _explain_full(self, pieces: Pieces, index: Int64s) -> None:
        """Waits for room in a connection: for whoever reads at its other end; of another host nothing more is known.

        The kernel takes what comes over loopback in anybody's context, so it is no waker that tells who reads, but the
        calls on the socket at the other end.
        """
        calls = self._calls
        call = pieces.call[index]
        index = index[calls.among(call, syscalls.SEND) & calls.is_socket(call) & (pieces.next[index] == NO_THREAD)]
        ino = calls.ino(pieces.call[index])
        for number in np.unique(ino).tolist():
            here, socket = index[ino == number], self._objects.sockets.get(number)
            if socket is None or number in self._objects.unix_peers:
                continue
            reader = NO_THREAD if socket.peer_ino is None else self._reader(socket.peer_ino)
            pieces.label(here, Thing(peer=socket.peer, stage=NOT_READ))
            if reader not in (NO_THREAD, int(pieces.lane[here[0]])):
                pieces.follow(here, np.full(len(here), reader), Kind.PEER)

    def _reader(self, ino: int) -> int:
        """The lane of the thread that read last from a socket, `NO_THREAD` where none did."""
        calls, span = self._calls, self._timeline.axis.span
        reads = np.flatnonzero(calls.among(calls.spans.row, syscalls.RECEIVE))
        starts = calls.spans.start[reads[calls.ino(calls.spans.row[reads]) == ino]]
        return int(starts[np.argmax(starts % span)] // span) if len(starts) else NO_THREAD
