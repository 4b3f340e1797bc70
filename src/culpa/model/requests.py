"""Requests on the sockets of the watched processes, seen from both ends.

The messages of one socket alternate between read and written; a run one way and the answering run the other way are one
*exchange*. On the server's socket the run read comes first, on the client's the run written. A client's exchange and
the server's exchange on the peer socket are the same request; they are joined by time, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model.axis import Int64s

EXCHANGE_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "role": pl.String, "ino": pl.UInt64, "pid": pl.Int64, "tid": pl.Int64, "answer_tid": pl.Int64,
    "ask_start_ns": pl.Int64, "ask_end_ns": pl.Int64, "answer_start_ns": pl.Int64, "answer_end_ns": pl.Int64,
    "protocol": pl.String, "verb": pl.String, "detail": pl.String, "status": pl.Int64, "commands": pl.Int64,
    "ask_bytes": pl.Int64, "answer_bytes": pl.Int64, "peer_ino": pl.UInt64,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Exchanges on watched sockets.

    `exchanges` (one row each): role (server, client), ino, pid, tid (who moved the question), answer_tid (who moved the
    answer), ask_start_ns (start of the first question call), ask_end_ns (end of the last one), answer_start_ns and
    answer_end_ns (ends of the first and last answer call; null: not answered in the window), protocol, verb, detail,
    status, commands, ask_bytes, answer_bytes, peer_ino. ask_* null: asked before the window.
    `server_of`: for each row the row of the same request at the other end, -1 where it was not seen.
    """

    exchanges: pl.DataFrame
    server_of: np.ndarray[tuple[int], np.dtype[np.int64]]

    @property
    def spans(self) -> pl.DataFrame:
        """The server's exchanges: tid, pid, ino, read_ns (last byte read), reply_ns (last answer written), what was
        asked.
        """
        return self.exchanges.filter(pl.col("role") == "server").rename(
            {"ask_end_ns": "read_ns", "answer_end_ns": "reply_ns"}
        )


def find(capture: Capture) -> Requests:
    """Pair the messages of every socket into exchanges.

    Args:
        capture: needs `messages`; `sockets` and the accept calls in `syscalls` tell servers from clients.
    """
    texts = ("protocol", "verb", "detail")
    messages = (
        capture.frame(schema.MESSAGES)
        .drop_nulls(["tid", "pid", "ino", "exit_ns", "direction"])
        .with_columns(pl.col(texts).cast(pl.Categorical))  # a quarter of the memory while rows are moved about
    )
    own = _within_one_process(capture)
    if len(own):
        messages = messages.filter((pl.col("protocol") != "unknown") | ~pl.col("ino").is_in(own.implode()))
    if messages.is_empty():
        return Requests(exchanges=pl.DataFrame(schema=EXCHANGE_SCHEMA), server_of=np.zeros(0, np.int64))
    roles = _roles(capture, messages)
    runs = _runs(messages.drop("kind").join(roles, on=["pid", "ino"])).with_columns(pl.col(texts).cast(pl.String))
    exchanges = _pair(runs).join(_peers(capture), on="ino", how="left")
    exchanges = exchanges.sort("ino", "ask_end_ns", "answer_end_ns", "pid", nulls_last=False).select(
        EXCHANGE_SCHEMA.keys()
    )
    return Requests(exchanges=exchanges, server_of=_match(exchanges))


def _within_one_process(capture: Capture) -> pl.Series:
    """Unix sockets on whose two ends only one process speaks: its threads wake each other so, nobody asks anything."""
    ends = capture.frame(schema.SOCKETS).filter(pl.col("family") == "unix").drop_nulls(["ino", "peer_ino"])
    pairs = ends.select("ino", pair=pl.min_horizontal("ino", "peer_ino")).unique()
    inodes = pairs["ino"].implode()
    speakers = capture.frame(schema.MESSAGES).select("ino", "pid").filter(pl.col("ino").is_in(inodes)).drop_nulls()
    speakers = speakers.join(pairs, on="ino")
    single = speakers.group_by("pair").agg(pl.col("pid").n_unique()).filter(pl.col("pid") == 1)
    return pairs.join(single, on="pair", how="semi")["ino"]


def _roles(capture: Capture, messages: pl.DataFrame) -> pl.DataFrame:
    """pid, ino, role: by the first recognised request, else by whether its port listens, else by who spoke first."""
    asked = (
        messages.filter(pl.col("kind") == "request")
        .sort("exit_ns")
        .group_by("pid", "ino")
        .agg(pl.col("direction").first().alias("asked"))
    )
    answered = (
        messages.filter(pl.col("kind") == "response")
        .sort("exit_ns")
        .group_by("pid", "ino")
        .agg(pl.col("direction").first().alias("answered"))
    )
    first = messages.sort("exit_ns").group_by("pid", "ino").agg(pl.col("direction").first().alias("first"))
    sockets = capture.frame(schema.SOCKETS)
    ports = sockets.filter(pl.col("listening")).select("netns", "local_port").drop_nulls("local_port").unique()
    serving = (
        sockets.filter(~pl.col("listening").fill_null(value=False))
        .join(ports.with_columns(serves=True), on=["netns", "local_port"], how="left", nulls_equal=True)
        .group_by("ino")
        .agg(pl.col("serves").any(), pl.col("local_port").is_not_null().any().alias("ported"))
    )
    server = (
        pl.when(pl.col("asked").is_not_null())
        .then(pl.col("asked") == "in")
        .when(pl.col("answered").is_not_null())
        .then(pl.col("answered") == "out")
        .when(pl.col("serves").fill_null(value=False))
        .then(pl.lit(value=True))
        .when(pl.col("ported").fill_null(value=False) & pl.lit(value=len(ports) > 0))
        .then(pl.lit(value=False))
        .otherwise(pl.col("first") == "in")
    )
    return (
        first.join(asked, on=["pid", "ino"], how="left")
        .join(answered, on=["pid", "ino"], how="left")
        .join(serving, on="ino", how="left")
        .select("pid", "ino", role=pl.when(server).then(pl.lit("server")).otherwise(pl.lit("client")))
    )


def _runs(messages: pl.DataFrame) -> pl.DataFrame:
    """One row per run of messages in one direction on one socket; `question` says which way it goes.

    A recognised request that follows another one without an answer between is still the same run (pipelining); the
    socket's messages are taken in the order in which their calls ended. Most runs are one message, so that they are
    found by their first and last rows; grouping hundreds of thousands of them takes many times the memory.
    """
    ordered = messages.sort("pid", "ino", "exit_ns", "direction", "tid").with_columns(
        question=(pl.col("direction") == "in") == (pl.col("role") == "server")
    )
    keys = (ordered[name].to_physical().to_numpy() for name in ("question", "ino", "pid"))
    changed = np.any([np.append(True, key[1:] != key[:-1]) for key in keys], axis=0)
    first = np.flatnonzero(changed)
    last = np.append(first[1:], len(ordered)) - 1
    begins, ends = ordered[first], ordered[last]
    return pl.DataFrame(
        [
            *(begins[name] for name in ("pid", "ino", "role", "question")),
            begins["tid"].alias("first_tid"),
            ends["tid"].alias("last_tid"),
            begins["enter_ns"].alias("start_ns"),
            begins["exit_ns"].alias("first_end_ns"),
            ends["exit_ns"].alias("end_ns"),
            *(_first_known(ordered[name], first, last) for name in ("protocol", "verb", "detail", "status")),
            *(pl.Series(name, _sums(ordered[name], first)) for name in ("commands", "bytes")),
        ]
    )


def _first_known(values: pl.Series, first: Int64s, last: Int64s) -> pl.Series:
    """The first value of each run [first, last] that is not null; null where there is none."""
    known = np.flatnonzero(values.is_not_null().to_numpy())
    place = np.searchsorted(known, first)
    inside = np.append(known, np.iinfo(np.int64).max)[place] <= last
    rows = pl.Series(np.append(known, 0)[place]).set(pl.Series(~inside), None)
    return values.gather(rows)


def _sums(values: pl.Series, first: Int64s) -> Int64s:
    """The sum of each run that begins at `first`."""
    return np.add.reduceat(values.cast(pl.Int64).fill_null(0).to_numpy(), first)


def _pair(runs: pl.DataFrame) -> pl.DataFrame:
    """A question run with the answer run that follows it on the same socket; either may be missing at the edges."""
    follows = (pl.col("ino").shift(-1) == pl.col("ino")) & (pl.col("pid").shift(-1) == pl.col("pid"))
    answered = follows & ~pl.col("question").shift(-1)

    def after(name: str) -> pl.Expr:
        return pl.when(answered).then(pl.col(name).shift(-1)).otherwise(None)

    asked = runs.with_columns(
        answer_tid=after("last_tid"),
        answer_start_ns=after("first_end_ns"),
        answer_end_ns=after("end_ns"),
        answer_status=after("status"),
        answer_bytes=after("bytes"),
    ).filter(pl.col("question"))
    begun = (pl.col("ino").shift(1) != pl.col("ino")) | (pl.col("pid").shift(1) != pl.col("pid"))
    orphans = runs.filter(~pl.col("question") & begun.fill_null(value=True))
    # An answer without a question on this socket answers what was asked before the window.
    return pl.concat(
        [
            asked.select(
                "role", "ino", pl.col("pid").cast(pl.Int64), tid=pl.col("last_tid").cast(pl.Int64),
                answer_tid=pl.col("answer_tid").cast(pl.Int64), ask_start_ns="start_ns", ask_end_ns="end_ns",
                answer_start_ns="answer_start_ns", answer_end_ns="answer_end_ns", protocol="protocol", verb="verb",
                detail="detail", status=pl.col("answer_status").cast(pl.Int64),
                commands=pl.col("commands").cast(pl.Int64),
                ask_bytes="bytes", answer_bytes="answer_bytes",
            ),
            orphans.select(
                "role", "ino", pl.col("pid").cast(pl.Int64), tid=pl.col("last_tid").cast(pl.Int64),
                answer_tid=pl.col("last_tid").cast(pl.Int64), ask_start_ns=pl.lit(None, pl.Int64),
                ask_end_ns=pl.lit(None, pl.Int64), answer_start_ns="first_end_ns", answer_end_ns="end_ns",
                protocol="protocol", verb=pl.lit(None, pl.String), detail=pl.lit(None, pl.String),
                status=pl.col("status").cast(pl.Int64), commands=pl.lit(None, pl.Int64),
                ask_bytes=pl.lit(None, pl.Int64), answer_bytes="bytes",
            ),
        ]
    )  # fmt: skip


def _peers(capture: Capture) -> pl.DataFrame:
    return (
        capture.frame(schema.SOCKETS)
        .drop_nulls("peer_ino")
        .select("ino", "peer_ino")
        .unique("ino", keep="last", maintain_order=True)
    )


def _match(exchanges: pl.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For each client row the server row that it caused, and back: the first one read at the peer after it was
    asked.
    """
    rows = exchanges.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    open_end = rows["answer_end_ns"].fill_null(np.iinfo(np.int64).max)
    rows = rows.with_columns(until_ns=open_end)
    clients = rows.filter(
        (pl.col("role") == "client") & pl.col("peer_ino").is_not_null() & pl.col("ask_start_ns").is_not_null()
    )
    servers = rows.filter((pl.col("role") == "server") & pl.col("ask_end_ns").is_not_null())
    found = clients.select("row", "peer_ino", "until_ns", at="ask_start_ns").sort("at").join_asof(
        servers.select(ino="ino", at="ask_end_ns", server_row="row").sort("at"),
        on="at", by_left="peer_ino", by_right="ino", strategy="forward", coalesce=False, check_sortedness=False,
    )  # fmt: skip
    found = found.filter(pl.col("server_row").is_not_null() & (pl.col("at_right") <= pl.col("until_ns")))
    matched = np.full(len(exchanges), -1, np.int64)
    client_rows, server_rows = found["row"].to_numpy(), found["server_row"].to_numpy()
    matched[client_rows] = server_rows
    matched[server_rows] = client_rows
    return matched
