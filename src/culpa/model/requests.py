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
from culpa.model.axis import Integers

ROLE = pl.Enum(["server", "client"])
EXCHANGE_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "role": ROLE, "ino": pl.UInt64, "pid": pl.Int32, "tid": pl.Int32, "answer_tid": pl.Int32,
    "ask_start_ns": pl.Int64, "ask_end_ns": pl.Int64, "answer_start_ns": pl.Int64, "answer_end_ns": pl.Int64,
    "protocol": schema.PROTOCOL, "verb": schema.REPEATED, "detail": schema.REPEATED, "status": pl.Int32,
    "commands": pl.Int64, "ask_bytes": pl.Int64, "answer_bytes": pl.Int64, "peer_ino": pl.UInt64,
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
    messages = _between_processes(_whole(capture.frame(schema.MESSAGES)), capture)
    if messages.is_empty():
        return Requests(exchanges=pl.DataFrame(schema=EXCHANGE_SCHEMA), server_of=np.zeros(0, np.int64))
    roles = _roles(capture, messages)
    role = messages.select("pid", "ino").join(roles, on=["pid", "ino"], how="left", maintain_order="left")["role"]
    exchanges = _exchanges(_Runs(messages, role), _peers(capture))
    return Requests(exchanges=exchanges, server_of=_match(exchanges))


def _whole(messages: pl.DataFrame) -> pl.DataFrame:
    """The messages of which enough is known; all of them as a rule, and then no copy is made."""
    needed = ["tid", "pid", "ino", "exit_ns", "direction"]
    return messages.drop_nulls(needed) if any(messages[name].null_count() for name in needed) else messages


def _between_processes(messages: pl.DataFrame, capture: Capture) -> pl.DataFrame:
    """Without those on unix sockets by which the threads of one process wake each other; mostly there are none."""
    within = _within_one_process(capture)
    if within.is_empty():
        return messages
    return messages.filter(~((pl.col("protocol") == "unknown") & pl.col("ino").is_in(within.implode())))


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
    earliest = pl.col("exit_ns") == pl.col("exit_ns").min()
    begun = messages.group_by("pid", "ino", "kind").agg(
        pl.col("direction").filter(earliest).min(), pl.col("exit_ns").min()
    )
    keys = ["pid", "ino"]
    asked = begun.filter(pl.col("kind") == "request").select(*keys, asked="direction")
    answered = begun.filter(pl.col("kind") == "response").select(*keys, answered="direction")
    first = begun.group_by(keys).agg(pl.col("direction").filter(earliest).min().alias("first"))
    sockets = capture.frame(schema.SOCKETS)
    ports = sockets.filter(pl.col("listening")).select("netns", "local_port").drop_nulls("local_port").unique()
    # An accepted unix socket bears the listener's name; who connected to it has none.
    named = (pl.col("family") == "unix") & pl.col("local_addr").is_not_null()
    names = sockets.filter(named)["ino"].implode()
    serving = (
        sockets.filter(~pl.col("listening").fill_null(value=False))
        .join(ports.with_columns(serves=True), on=["netns", "local_port"], how="left", nulls_equal=True)
        .with_columns(
            serves=pl.when(named).then(True).when(pl.col("peer_ino").is_in(names)).then(False).otherwise("serves")
        )
        .group_by("ino")
        .agg(pl.col("serves").any(), pl.col("local_port").is_not_null().any().alias("ported"))
    )
    server = (
        pl.when(pl.col("asked").is_not_null())
        .then(pl.col("asked") == "in")
        .when(pl.col("answered").is_not_null())
        .then(pl.col("answered") == "out")
        .when(pl.col("serves").is_not_null())
        .then(pl.col("serves"))
        .when(pl.col("ported").fill_null(value=False) & pl.lit(value=len(ports) > 0))
        .then(pl.lit(value=False))
        .otherwise(pl.col("first") == "in")
    )
    return (
        first.join(asked, on=["pid", "ino"], how="left")
        .join(answered, on=["pid", "ino"], how="left")
        .join(serving, on="ino", how="left")
        .select("pid", "ino", role=pl.when(server).then(pl.lit("server", ROLE)).otherwise(pl.lit("client", ROLE)))
    )


class _Runs:
    """Runs of messages in one direction on one socket, in order; `question` says which way each goes.

    A recognised request that follows another one without an answer between is still the same run (pipelining); the
    socket's messages are taken in the order in which their calls ended. Most runs are one message, so that they are
    kept as places in the order, and a column is looked at only where it is asked for: grouping hundreds of thousands of
    them takes many times the memory.
    """

    def __init__(self, messages: pl.DataFrame, role: pl.Series) -> None:
        self._columns = messages.with_columns(role=role)
        keys = {name: messages[name].to_physical().to_numpy() for name in ("pid", "ino", "exit_ns", "direction", "tid")}
        order = np.lexsort([keys[name] for name in ("tid", "direction", "exit_ns", "ino", "pid")]).astype(np.int32)
        self._order = order
        question = ((messages["direction"] == "in") == (role == "server")).to_numpy()[order]
        changed = np.ones(len(order), bool)
        changed[1:] = question[1:] != question[:-1]
        for name in ("ino", "pid"):
            changed[1:] |= keys[name][order[1:]] != keys[name][order[:-1]]
        self._first = np.flatnonzero(changed).astype(np.int32)
        self._last = np.append(self._first[1:], np.int32(len(order))) - np.int32(1)
        self.question = question[self._first]

    def __len__(self) -> int:
        return len(self._first)

    def begins(self, name: str, runs: Integers) -> pl.Series:
        """A column of the first message of some runs; null for the run -1."""
        return self._at(name, self._order[self._first[runs]], runs)

    def ends(self, name: str, runs: Integers) -> pl.Series:
        """A column of the last message of some runs; null for the run -1."""
        return self._at(name, self._order[self._last[runs]], runs)

    def first_known(self, name: str, runs: Integers) -> pl.Series:
        """The first value in each run that is not null; null where there is none, and for the run -1."""
        known = np.flatnonzero(self._columns[name].is_not_null().to_numpy()[self._order])
        place = np.searchsorted(known, self._first[runs])
        found = np.append(known, len(self._order))[place]
        inside = (runs >= 0) & (found <= self._last[runs])
        return self._at(name, self._order[np.where(inside, found, 0)], np.where(inside, runs, -1))

    def sums(self, name: str, runs: Integers) -> pl.Series:
        """The sum of a column in each run; null for the run -1."""
        values = self._columns[name].cast(pl.Int64).fill_null(0).to_numpy()[self._order]
        return _nulled(pl.Series(np.add.reduceat(values, self._first)[runs]), runs)

    def _at(self, name: str, rows: Integers, runs: Integers) -> pl.Series:
        return _nulled(self._columns[name].gather(rows), runs)


def _nulled(values: pl.Series, runs: Integers) -> pl.Series:
    """The values, null where there is no run."""
    missing = runs < 0
    return values.zip_with(pl.Series(~missing), values.clear(1)) if missing.any() else values


def _exchanges(runs: _Runs, peers: pl.DataFrame) -> pl.DataFrame:
    """A question run with the answer run that follows it on the same socket; either may be missing at the edges.

    An answer without a question on its socket answers what was asked before the window.
    """
    every = np.arange(len(runs), dtype=np.int32)
    same = np.ones(len(runs) - 1, bool)
    for name in ("pid", "ino"):
        values = runs.begins(name, every).to_numpy()
        same &= values[1:] == values[:-1]
    answered = np.append(same & ~runs.question[1:], False)
    orphan = ~runs.question & np.append(True, ~same)
    ask = np.concatenate([every[runs.question], np.full(np.count_nonzero(orphan), -1, np.int32)])
    answer = np.concatenate([np.where(answered, every + 1, -1)[runs.question], every[orphan]])
    # In order of socket and time, what was asked before the window first.
    moments = (runs.ends("exit_ns", which).fill_null(-1).to_numpy() for which in (answer, ask))
    whole = np.where(ask >= 0, ask, answer)
    order = np.lexsort([runs.begins("pid", whole).to_numpy(), *moments, runs.begins("ino", whole).to_numpy()])
    return _frame(runs, ask[order], answer[order], peers)


def _frame(runs: _Runs, ask: Integers, answer: Integers, peers: pl.DataFrame) -> pl.DataFrame:
    """`EXCHANGE_SCHEMA` of pairs of runs, -1 where there is none."""
    whole = np.where(ask >= 0, ask, answer)
    ino = runs.begins("ino", whole)
    columns = {
        "role": runs.begins("role", whole),
        "ino": ino,
        "pid": runs.begins("pid", whole),
        "tid": runs.ends("tid", whole),
        "answer_tid": runs.ends("tid", answer),
        "ask_start_ns": runs.begins("enter_ns", ask),
        "ask_end_ns": runs.ends("exit_ns", ask),
        "answer_start_ns": runs.begins("exit_ns", answer),
        "answer_end_ns": runs.ends("exit_ns", answer),
        "protocol": runs.first_known("protocol", whole),
        "verb": runs.first_known("verb", ask),
        "detail": runs.first_known("detail", ask),
        "status": runs.first_known("status", answer),
        "commands": runs.sums("commands", ask),
        "ask_bytes": runs.sums("bytes", ask),
        "answer_bytes": runs.sums("bytes", answer),
        "peer_ino": ino.replace_strict(peers["ino"], peers["peer_ino"], default=None, return_dtype=pl.UInt64),
    }
    return pl.DataFrame([columns[name].alias(name).cast(dtype) for name, dtype in EXCHANGE_SCHEMA.items()])


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
    rows = exchanges.lazy().with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    until = pl.col("answer_end_ns").fill_null(np.iinfo(np.int64).max)
    clients = (
        rows.filter(
            (pl.col("role") == "client") & pl.col("peer_ino").is_not_null() & pl.col("ask_start_ns").is_not_null()
        )
        .select("row", "peer_ino", until_ns=until, at="ask_start_ns")
        .collect()
    )
    servers = (
        rows.filter((pl.col("role") == "server") & pl.col("ask_end_ns").is_not_null())
        .select(ino="ino", at="ask_end_ns", server_row="row")
        .collect()
    )
    found = clients.sort("at").join_asof(
        servers.sort("at"),
        on="at", by_left="peer_ino", by_right="ino", strategy="forward", coalesce=False, check_sortedness=False,
    )  # fmt: skip
    found = found.filter(pl.col("server_row").is_not_null() & (pl.col("at_right") <= pl.col("until_ns")))
    matched = np.full(len(exchanges), -1, np.int64)
    client_rows, server_rows = found["row"].to_numpy(), found["server_row"].to_numpy()
    matched[client_rows] = server_rows
    matched[server_rows] = client_rows
    return matched
