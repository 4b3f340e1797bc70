"""Clients that rest: they wait all the while, and nobody owes them an answer.

A client that sat in one wait for the whole window may be idle, or may wait for an answer to a question asked before. It
is idle where every connection on which it is the client is settled: answered in the window, or with data received after
the last that was sent. Where both fell into one tick of the kernel's, the server must be on this host and have nothing
to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from culpa import syscalls
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model.objects import Objects
from culpa.model.requests import Requests

AT_REST = syscalls.SLEEPS_IN | syscalls.RECEIVE


def settled(capture: Capture, objects: Objects, requests: Requests, pids: frozenset[int]) -> frozenset[int]:
    """Of these processes those to whom nobody owes an answer, as far as can be told.

    Args:
        capture: `sockets` and `thread_states` are read.
        objects: of the same capture.
        requests: of the same capture.
        pids: processes with threads that wait all the while.
    """
    owed = _owed(capture, objects, requests, pids)
    return frozenset(pids) - frozenset(owed)


def _owed(capture: Capture, objects: Objects, requests: Requests, pids: frozenset[int]) -> Iterator[int]:
    """The process of each connection on which an answer may be owed."""
    sockets = capture.frame(schema.SOCKETS).drop_nulls("ino")
    holder = dict(sockets.drop_nulls("pid").select("ino", "pid").iter_rows())
    talk = requests.exchanges.select("ino", "role", "pid", open=pl.col("answer_end_ns").is_null())
    asked = dict(talk.filter(pl.col("role") == "client").group_by("ino").agg(pl.col("open").any()).iter_rows())
    busy = frozenset(talk.filter((pl.col("role") == "server") & pl.col("open"))["pid"].to_list())
    resting = _at_rest(capture, objects) - busy
    columns = ("pid", "ino", "peer_ino", "sent_ns", "received_ns")
    for pid, ino, peer_ino, sent_ns, received_ns in _connections(sockets, pids).select(columns).iter_rows():
        peer = holder.get(peer_ino)
        if ino in asked:
            owed = asked[ino]
        elif peer == pid:
            owed = False
        elif sent_ns is None or received_ns is None:
            owed = True
        else:  # where both lie within one tick of the kernel's, the last question was answered, as a rule
            owed = sent_ns > received_ns or (sent_ns == received_ns and peer not in resting)
        if owed:
            yield pid


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
