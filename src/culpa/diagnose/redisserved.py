"""What a Redis' main thread did message by message: how long each request held it, and how long that one had waited.

Redis serves in turns: one poll, then for each socket that is ready one read and all commands in it, then timers, the
append-only file, the replies of them all (`beforeSleep`), and the next poll. So the time between the read of a request
and its reply belongs to many; its own is the read, the time from there to whatever the thread turns to next, and the
writing of its reply. Its commands are not seen one by one: a message that holds several is one request of the first.
The last request of a turn carries the timers that ran before the replies.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.moments import Moments
from culpa.model.axis import Int64s
from culpa.model.requests import Requests
from culpa.syscalls import ACCEPT, MANY_WAIT, Numbers

Int32s = np.ndarray[tuple[int], np.dtype[np.int32]]
SERVED: dict[str, pl.DataType | type[pl.DataType]] = {
    "verb": schema.REPEATED, "pattern": schema.REPEATED, "ino": pl.UInt64, "read_ns": pl.Int64, "held_ns": pl.Int64,
    "waited_ns": pl.Int64, "waited_most_ns": pl.Int64, "several": pl.Boolean, "reply_bytes": pl.Int64,
}  # fmt: skip
LONG_READ_NS = 1_000_000
"""Commands take microseconds: what was read in one go and takes a millisecond is long, or many."""
LONG_READS: dict[str, pl.DataType | type[pl.DataType]] = {
    "verb": schema.REPEATED, "pattern": schema.REPEATED, "ino": pl.UInt64, "several": pl.Boolean, "exit_ns": pl.Int64,
    "until_ns": pl.Int64, "bytes": pl.Int64,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Served:
    """The requests of one server's main thread.

    `requests` (one row each, n rows, in order of their reading): verb, pattern, ino; read_ns (start of the read);
    held_ns (time of the main thread); waited_ns and waited_most_ns (how long it lay unread: at least from when the
    thread last woke, at most from when it looked before or had answered this client); several (it holds more than one
    command); reply_bytes. `slice_request` and `slice_ns`: every stretch of the thread's time with its request (-1:
    asked before the window) in order of time; `waits_from` and `waits_to`: of each request the stretches that lie in
    `waited_most_ns`. `long_reads`: reads that ended at exit_ns and after which the thread turned to nothing else for a
    millisecond or more (until_ns): bytes of the read, and verb, pattern, ino and several of the request that it is part
    of. `elsewhere` and `written_elsewhere` count messages that other threads read and wrote.
    """

    requests: pl.DataFrame
    slice_request: Int64s
    slice_ns: Int64s
    waits_from: Int64s
    waits_to: Int64s
    long_reads: pl.DataFrame
    elsewhere: int
    written_elsewhere: int


def find(capture: Capture, found: Requests) -> dict[int, Served]:
    """By process, of the servers that were asked what they know; those are left out of whom nothing was seen.

    Args:
        capture: needs `messages` and `syscalls`, recorded in events.
        found: the requests in it, for which end of a socket is the server's.
    """
    if capture.manifest.evidence.waits != "events" or capture.frame(schema.MESSAGES).is_empty():
        return {}
    pids = capture.frame(schema.REDIS)["pid"].drop_nulls().unique().sort().to_list()
    served = {pid: _of(capture, found, pid) for pid in pids}
    return {pid: one for pid, one in served.items() if one is not None}


def _of(capture: Capture, found: Requests, pid: int) -> Served | None:
    serves = (pl.col("pid") == pid) & (pl.col("role") == "server") & (pl.col("protocol") == "resp")
    sockets = found.exchanges.lazy().filter(serves).select(pl.col("ino").unique()).collect()["ino"]
    start_ns, end_ns = capture.manifest.window.start_ns, capture.manifest.window.end_ns
    mine = (pl.col("pid") == pid) & pl.col("ino").is_in(sockets.implode()) & (pl.col("exit_ns") <= end_ns)
    here, reads = pl.col("tid") == pid, pl.col("direction").eq_missing("in")
    every = capture.frame(schema.MESSAGES).lazy().filter(mine)
    others, rows = pl.collect_all(
        [
            every.select(read=(~here & reads).sum(), written=(~here & ~reads).sum()),
            every.filter(here).select(
                "exit_ns", "ino", "verb", pl.col("enter_ns").fill_null(start_ns),
                pl.col("commands", "bytes").fill_null(0),
                pattern="detail", read=reads, asks=reads & pl.col("kind").eq_missing("request"),
            ),
        ]
    )  # fmt: skip
    if rows.is_empty():
        return None
    messages = _Messages(rows)
    calls = _Calls(capture, pid)
    until = _until(messages, calls, end_ns)
    slice_ns = _lengths(messages, calls, until)
    request_of = _requests(messages)
    return _served(messages, calls, slice_ns, until, request_of, (others[0, 0], others[0, 1]))


class _Messages:
    """Columns of messages in order of time, as arrays."""

    def __init__(self, rows: pl.DataFrame) -> None:
        enter = rows["enter_ns"].to_numpy()
        by_time = np.argsort(enter, kind="stable")
        self._rows, self._by_time = rows, by_time
        self.enter = enter[by_time]
        self.exit = rows["exit_ns"].to_numpy()[by_time]
        self.read = rows["read"].to_numpy()[by_time]
        self.asks = rows["asks"].to_numpy()[by_time]
        self.commands = rows["commands"].to_numpy()[by_time]
        self.bytes = rows["bytes"].to_numpy()[by_time]
        inos = rows["ino"].unique().sort().to_numpy()
        codes = np.searchsorted(inos, rows["ino"].to_numpy()[by_time])
        order = np.argsort(codes.astype(np.uint16) if len(inos) < 1 << 16 else codes, kind="stable")
        self.order = order.astype(np.int32)
        """By socket, and by time within one."""
        grouped = codes[self.order]
        self.begins = np.append(True, grouped[1:] != grouped[:-1])
        """Where in that order a socket's messages begin."""
        self._place = np.arange(len(codes), dtype=np.int32)
        self._first = np.maximum.accumulate(np.where(self.begins, self._place, np.int32(0)))
        after_read = np.append(False, self.read[self.order][:-1]) & ~self.begins
        self.answers = np.zeros(len(codes), np.bool_)
        self.answers[self.order] = after_read & ~self.read[self.order]
        """The first message of a reply; what begins a later one may only look like a reply."""

    def asked(self, asks: Int64s) -> pl.DataFrame:
        """verb, ino and pattern of some messages."""
        return self._rows.select("verb", "ino", "pattern")[self._by_time[asks]]

    def last(self, what: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Int32s:
        """Of each message the last one of its socket, itself or before, of which this holds; -1 where there is none."""
        near = np.maximum.accumulate(np.where(what[self.order], self._place, np.int32(-1)))
        found = np.empty(len(near), np.int32)
        found[self.order] = np.where(near >= self._first, self.order[near], np.int32(-1))
        return found


class _Calls:
    """Where the main thread turned to something else: polls, accepts, reads that brought nothing; what was not its own.

    `foreign`: it was ready and had no CPU, or wrote and synced a file that it appends to.
    """

    def __init__(self, capture: Capture, pid: int) -> None:
        numbers, window = Numbers(capture.manifest.host.machine), capture.manifest.window
        calls = capture.frame(schema.SYSCALLS).lazy().filter(pl.col("tid") == pid)
        polls = pl.col("nr").is_in(list(numbers.of(MANY_WAIT)))
        nothing = (pl.col("file_type") == "sock") & (pl.col("ret").fill_null(0) <= 0)
        appended = capture.frame(schema.FILES).filter(pl.col("append"))["ino"]
        appends = (pl.col("file_type") == "reg") & pl.col("ino").is_in(appended.implode())
        turned = polls | nothing | pl.col("nr").is_in(list(numbers.of(ACCEPT)))
        turns, files, off = pl.collect_all(
            [
                calls.filter(turned).select("enter_ns", "exit_ns", polls=polls),
                calls.filter(appends).select(start="enter_ns", end=pl.col("exit_ns").fill_null(window.end_ns)),
                capture.frame(schema.OFFCPU).lazy().filter((pl.col("tid") == pid) & pl.col("off_ns").is_not_null())
                .select("off_ns", "wake_ns", "on_ns", "state"),
            ]
        )  # fmt: skip
        self.enter = np.sort(turns["enter_ns"].drop_nulls().to_numpy(), kind="stable")
        ended = turns.filter("polls").drop_nulls("exit_ns").sort("exit_ns")
        self.poll_exit = ended["exit_ns"].to_numpy()
        self.poll_enter = ended["enter_ns"].fill_null(window.start_ns).to_numpy()
        self.slept = off.filter(pl.col("state") != 0)["off_ns"].sort().to_numpy()
        ready = pl.coalesce("wake_ns", pl.when(pl.col("state") == 0).then("off_ns"))
        stretches = [
            off.select(start=ready, end=pl.col("on_ns").fill_null(window.end_ns)),
            files,
        ]
        both = pl.concat(stretches).drop_nulls().sort("start")
        nobody = np.zeros(len(both), np.int64)
        self.foreign = Moments.union(nobody, both["start"].to_numpy(), both["end"].to_numpy())


def _until(messages: _Messages, calls: _Calls, end_ns: int) -> Int64s:
    """When the thread was done with each message: a write at its end, a read when it turned elsewhere."""
    reads = np.flatnonzero(messages.read)
    turned = np.append(calls.enter, end_ns)
    other = turned[np.minimum(np.searchsorted(calls.enter, messages.exit[reads]), len(calls.enter))]
    until = np.minimum(np.append(messages.enter[1:], end_ns)[reads], other)
    ends: Int64s = messages.exit.copy()
    ends[reads] = np.maximum(until, ends[reads])
    return ends


def _lengths(messages: _Messages, calls: _Calls, ends: Int64s) -> Int64s:
    """How long the thread was at each message, what was not its own left out."""
    lengths = ends - messages.enter
    foreign = calls.foreign
    at = np.searchsorted(messages.enter, foreign.start_ns, side="right") - 1
    inside = (at >= 0) & (foreign.start_ns < ends[np.maximum(at, 0)])
    at = at[inside]
    np.subtract.at(lengths, at, np.minimum(foreign.end_ns[inside], ends[at]) - foreign.start_ns[inside])
    held: Int64s = np.maximum(lengths, 0)
    return held


def _requests(messages: _Messages) -> Int32s:
    """The message that asked for what each message is part of; -1: it was asked before the window."""
    return messages.last(messages.asks)


def _served(
    messages: _Messages, calls: _Calls, slice_ns: Int64s, until: Int64s, asked_by: Int32s, others: tuple[int, int],
) -> Served:  # fmt: skip
    size = len(messages.enter)
    asks = np.flatnonzero(messages.asks)
    number = np.full(size + 1, -1, np.int64)
    number[asks] = np.arange(len(asks))
    request = number[asked_by]
    known = request >= 0
    held = np.bincount(request[known], slice_ns[known], len(asks)).astype(np.int64)
    wrote = known & ~messages.read
    replied = np.bincount(request[wrote], messages.bytes[wrote], len(asks)).astype(np.int64)
    several = np.zeros(len(asks), np.bool_)
    several[request[known & (messages.commands > 1) & (messages.asks | messages.answers)]] = True
    looked, earliest = _unread_since(messages, calls, asks)
    read_ns = messages.enter[asks]
    frame = messages.asked(asks).with_columns(
        read_ns=pl.Series(read_ns), held_ns=pl.Series(held), waited_ns=pl.Series(read_ns - looked),
        waited_most_ns=pl.Series(read_ns - earliest), several=pl.Series(several), reply_bytes=pl.Series(replied),
    )  # fmt: skip
    long = np.flatnonzero(known & messages.read & (until - messages.exit >= LONG_READ_NS))
    of = frame[request[long]].select("verb", "pattern", "ino", "several")
    long_reads = of.with_columns(
        exit_ns=pl.Series(messages.exit[long], dtype=pl.Int64), until_ns=pl.Series(until[long], dtype=pl.Int64),
        bytes=pl.Series(messages.bytes[long], dtype=pl.Int64),
    )  # fmt: skip
    return Served(
        long_reads=long_reads.select(list(LONG_READS)), requests=frame.select(list(SERVED)), slice_request=request,
        slice_ns=slice_ns,
        waits_from=np.searchsorted(messages.enter, earliest), waits_to=asks, elsewhere=others[0],
        written_elsewhere=others[1],
    )  # fmt: skip


def _unread_since(messages: _Messages, calls: _Calls, asks: Int64s) -> tuple[Int64s, Int64s]:
    """Since when each request had come at the latest, and since when it may have come at the earliest.

    A poll that slept was ended by what came first; one that returned at once tells of what had come since the one
    before. A client that waits for its answers had not asked before the last one.
    """
    read_ns = messages.enter[asks]
    if not len(calls.poll_exit):
        return read_ns, read_ns
    turn = np.searchsorted(calls.poll_exit, read_ns, side="right") - 1
    looked = np.where(turn >= 0, calls.poll_exit[np.maximum(turn, 0)], read_ns)
    after, before = (np.searchsorted(calls.slept, side) for side in (calls.poll_exit, calls.poll_enter))
    slept = (after > before)[np.maximum(turn, 0)] | (turn < 1)
    earliest = np.where(slept, looked, calls.poll_exit[np.maximum(turn - 1, 0)])
    answered = messages.last(~messages.read)[asks]
    spoke = np.where(answered >= 0, messages.exit[np.maximum(answered, 0)], earliest)
    return looked, np.minimum(np.maximum(earliest, spoke), looked)


def own_sockets(capture: Capture, inos: Collection[int]) -> set[int]:
    """Which of a server's sockets culpa itself asked on."""
    ports = set(capture.frame(schema.REQUESTS)["local_port"].drop_nulls().unique().to_list())
    asked = capture.frame(schema.REDIS).filter((pl.col("source") == "CLIENT INFO") & (pl.col("field") == "addr"))
    ends = set(asked["value"].drop_nulls().to_list())
    watcher = capture.frame(schema.PROCESSES).filter(pl.col("role") == "culpa")["pid"]
    sockets = capture.frame(schema.SOCKETS)
    own_unix = sockets.filter((pl.col("family") == "unix") & pl.col("pid").is_in(watcher.implode()))["ino"]
    rows = sockets.filter(pl.col("ino").is_in(list(inos))).select("ino", "peer_addr", "peer_port", "peer_ino")
    known = set(own_unix.drop_nulls().to_list())
    return {
        ino for ino, address, port, peer in rows.iter_rows()
        if port in ports or f"{address}:{port}" in ends or peer in known
    }  # fmt: skip
