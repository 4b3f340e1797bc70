"""Clients that rest: they wait all the while, and nobody owes them an answer.

A client that sat in one wait for the whole window may be idle, or may wait for an answer to a question asked before. It
is idle where every connection on which it is the client is settled: answered in the window, or with data received after
the last that was sent. Where both fell into one tick of the kernel's, the server must be on this host and have nothing
to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from culpa import syscalls
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model.objects import Objects
from culpa.model.requests import Requests

AT_REST = syscalls.SLEEPS_IN | syscalls.RECEIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Debt:
    """A connection on which a process may be owed an answer, by the socket inode of its end.

    `asked_ns`: when it had last sent something, where nothing has come since: then an answer is owed, unless the
    protocol has none. None where that is not known.
    """

    pid: int
    ino: int
    asked_ns: int | None


def debts(capture: Capture, objects: Objects, requests: Requests, pids: frozenset[int]) -> tuple[Debt, ...]:
    """Where these processes may be owed an answer; those that have no debt are known to be idle.

    Args:
        capture: `sockets`, `thread_states` and `redis` are read.
        objects: of the same capture.
        requests: of the same capture.
        pids: processes with threads that wait all the while.
    """
    return tuple(_debts(capture, objects, requests, pids))


def _debts(capture: Capture, objects: Objects, requests: Requests, pids: frozenset[int]) -> Iterator[Debt]:
    sockets = capture.frame(schema.SOCKETS).drop_nulls("ino")
    holder = dict(sockets.drop_nulls("pid").select("ino", "pid").iter_rows())
    talk = requests.exchanges.select("ino", "role", "pid", open=pl.col("answer_end_ns").is_null())
    asked = dict(talk.filter(pl.col("role") == "client").group_by("ino").agg(pl.col("open").any()).iter_rows())
    busy = frozenset(talk.filter((pl.col("role") == "server") & pl.col("open"))["pid"].to_list())
    resting = _at_rest(capture, objects) - busy
    holding = _holds_answers_back(capture)
    columns = ("pid", "ino", "peer_ino", "sent_ns", "received_ns")
    for pid, ino, peer_ino, sent_ns, received_ns in _connections(sockets, pids).select(columns).iter_rows():
        peer, asked_ns = holder.get(peer_ino), None
        if ino in asked:
            owed = asked[ino]
        elif peer == pid or peer in holding:
            owed = False
        elif sent_ns is None:
            owed = True
        elif received_ns is None or sent_ns > received_ns:
            owed, asked_ns = True, sent_ns
        else:  # where both lie within one tick of the kernel's, the last question was answered, as a rule
            owed = sent_ns == received_ns and peer not in resting
            asked_ns = sent_ns
        if owed:
            yield Debt(pid=pid, ino=ino, asked_ns=asked_ns)


LETS_WAIT = ("blocked_clients", "pubsub_channels", "pubsub_patterns", "pubsubshard_channels")
"""Of INFO: clients in a blocking command (BLPOP, XREAD BLOCK, WAIT), and channels that somebody listens to."""


def _holds_answers_back(capture: Capture) -> frozenset[int]:
    """Redis servers that let clients wait for what may come.

    One that answered within the window has answered whatever came before, in its one thread: who still waits does so by
    choice. One that hangs answers nothing, and is not among these.
    """
    said = capture.frame(schema.REDIS).filter(pl.col("field").is_in(LETS_WAIT) & (pl.col("value") != "0"))
    return frozenset(said["pid"].drop_nulls().to_list())


def _connections(sockets: pl.DataFrame, pids: frozenset[int]) -> pl.DataFrame:
    """Where these processes are the client: they have a port that nobody listens on, or no name."""
    ports = sockets.filter(pl.col("listening"))["local_port"].drop_nulls().implode()
    serves = pl.col("local_port").is_in(ports).fill_null(pl.col("local_addr").is_not_null())
    connected = ~pl.col("listening").fill_null(value=False) & (
        pl.col("peer_addr").is_not_null() | pl.col("peer_ino").is_not_null()
    )
    return sockets.filter(pl.col("pid").is_in(list(pids)) & connected & ~serves)


def _at_rest(capture: Capture, objects: Objects) -> frozenset[int]:
    """Servers and nothing else, all of whose threads slept in a wait for work at the start and at the end."""
    calls = list(syscalls.Numbers(capture.manifest.host.machine).of(AT_REST))
    states = capture.frame(schema.THREAD_STATES).filter(pl.col("pid").is_in(list(objects.pure_servers)))
    sleeps = (pl.col("state").cast(pl.String) == "S") & pl.col("nr").is_in(calls).fill_null(value=False)
    found = states.group_by("pid").agg(sleeps.all().alias("rests"))
    return frozenset(found.filter("rests")["pid"].to_list())
