"""Waits for a connection to come about: the other host answers late, or the listener here has no room for one more.

A connection of this host comes about at once, as long as the listener's queue of those that it has not accepted yet
has room. Where it has none, the kernel drops what asks for one more (net/ipv4/tcp_ipv4.c), and the client asks again
after a second, then two, then four.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model.axis import NO_THREAD, Int64s, Spans
from culpa.model.calls import FAR_NS, Calls, pick
from culpa.model.kinds import NONE, Kind
from culpa.model.objects import LOOPBACK, Objects, Socket, Thing
from culpa.model.pieces import Pieces

CONNECTING = "connecting"
NOT_TAKEN = "the connection is not accepted"
EINPROGRESS = 115
OPEN_TO_ALL = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
EXPLAINED_LATER = (Kind.UNEXPLAINED, Kind.SLEEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening TCP socket, and a process that holds it."""

    netns: int | None
    address: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectWaits:
    """Connections that were being made, laid onto the axis; `ino` is the socket of each span, `call` the row of its
    connect call.
    """

    spans: Spans
    ino: Int64s
    call: Int64s
    objects: Objects
    listeners: dict[int, list[Listener]]

    @staticmethod
    def of(capture: Capture, calls: Calls, objects: Objects, pieces: Pieces) -> ConnectWaits:
        """Read the connect calls; one that does not wait (EINPROGRESS) goes on to the next call on its socket."""
        axis, made = pieces.axis, _made(calls)
        lanes = axis.lane(made["tid"].to_numpy())
        known = lanes >= 0
        start = axis.place(lanes[known], made["enter_ns"].fill_null(axis.start_ns).to_numpy()[known])
        end = axis.place(lanes[known], made["over_ns"].to_numpy()[known])
        row = np.flatnonzero(known)
        return ConnectWaits(
            spans=Spans.sorted(start, end, row), ino=made["ino"].cast(pl.Int64).to_numpy(),
            call=made["row"].cast(pl.Int64).to_numpy(), objects=objects, listeners=_listeners(capture),
        )  # fmt: skip

    def explain(self, pieces: Pieces, index: Int64s) -> None:
        """Interruptible waits that nothing else explains, while a connection is being made.

        Args:
            pieces: explained as far as other evidence goes.
            index: those that are interruptible waits.
        """
        later = np.isin(pieces.kind[index], EXPLAINED_LATER) & (pieces.next[index] == NO_THREAD)
        index = index[later & (pieces.exchange[index] == NONE)]
        row = pick(self.spans.row, self.spans.covering(pieces.start[index]), NONE)
        for number in np.unique(row[row >= 0]).tolist():
            socket = self.objects.sockets.get(int(self.ino[number]))
            if socket is not None and socket.peer_port:
                self._name(pieces, index[row == number], socket, int(self.call[number]))

    def _name(self, pieces: Pieces, index: Int64s, socket: Socket, call: int) -> None:
        """The wait may be in another call than the one that asked for the connection; that one says for which."""
        if not socket.peer_is_local:
            pieces.call[index] = call
            pieces.label(index, Thing(peer=socket.peer, stage=CONNECTING), Kind.REMOTE)
            return
        listener = self._listener(socket)
        if listener is not None:
            pieces.label(index, Thing(peer=socket.peer, stage=NOT_TAKEN), Kind.QUEUED)
            pieces.owner[index] = listener

    def _listener(self, socket: Socket) -> int | None:
        """The process that listens where a connection is to go; None where it was not seen."""
        there = self.listeners.get(socket.peer_port or NONE, [])
        loops_back = (socket.peer_addr or "").startswith(LOOPBACK)
        there = [one for one in there if one.netns == socket.netns or not loops_back]
        exact = [one.pid for one in there if one.address == socket.peer_addr]
        return next(iter(exact or [one.pid for one in there if one.address in OPEN_TO_ALL]), None)


def _made(calls: Calls) -> pl.DataFrame:
    """tid, ino, row, enter_ns and over_ns of the connect calls: when the connection was there, or was given up."""
    every = calls.frame.lazy().with_row_index("row")
    number = pl.col("nr").is_in(list(calls.numbers.of(syscalls.CONNECT)))
    made = every.filter(number, pl.col("file_type") == "sock").drop_nulls(["tid", "ino"]).collect()
    after = every.filter(pl.col("ino").is_in(made["ino"].implode())).select("ino", next_ns="enter_ns").collect()
    made = made.with_columns(after_ns=pl.col("exit_ns").fill_null(FAR_NS)).sort("after_ns")
    made = made.join_asof(
        after.drop_nulls().sort("next_ns"), left_on="after_ns", right_on="next_ns", by="ino", strategy="forward",
        check_sortedness=False,
    )  # fmt: skip
    goes_on = (pl.col("ret") == -EINPROGRESS).fill_null(value=False)
    over = pl.when(goes_on).then(pl.col("next_ns").fill_null(FAR_NS)).otherwise("after_ns")
    return made.select("tid", "ino", "row", "enter_ns", over_ns=over)


def _listeners(capture: Capture) -> dict[int, list[Listener]]:
    """Who listens, by port."""
    rows = capture.frame(schema.SOCKETS).filter(pl.col("listening").fill_null(value=False))
    found: dict[int, list[Listener]] = {}
    known = rows.drop_nulls(["local_port", "local_addr", "pid"]).select("local_port", "netns", "local_addr", "pid")
    for port, netns, address, pid in known.iter_rows():
        found.setdefault(port, []).append(Listener(netns=netns, address=address, pid=pid))
    return found
