"""Blocking commands of Redis: the server answers once another client has sent what this one waits for.

Which client that was is told by the key: the last command that added to it before the answer, read by the same thread
after it had read the blocking one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from culpa.model.axis import Bools, Int64s
from culpa.model.kinds import NONE
from culpa.model.requests import Requests

BLOCKING: Final = frozenset(
    {"BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN", "XREAD", "XREADGROUP"}
)
"""Commands that may wait for data. https://redis.io/docs/latest/commands/, those with the flag `blocking`."""
ADDS: Final = frozenset(
    {"LINSERT", "LMOVE", "LPUSH", "LPUSHX", "RPOPLPUSH", "RPUSH", "RPUSHX", "XADD", "ZADD", "ZINCRBY"}
)
"""Commands that end such a wait."""


def are(requests: Requests) -> Bools:
    """Which exchanges are such a command."""
    verbs: Bools = requests.exchanges["verb"].cast(pl.String).is_in(list(BLOCKING)).fill_null(value=False).to_numpy()
    return verbs


def ended_by(requests: Requests, blocks: Bools) -> Int64s:
    """For each exchange of a server's with a blocking command the row of the client's exchange that brought what it
    waited for; `NONE` for others, and where that is not seen. `blocks`: as from `are`.
    """
    found = np.full(len(requests.exchanges), NONE, np.int64)
    if not blocks.any():
        return found
    read = requests.exchanges.with_row_index("row").filter(
        (pl.col("role") == "server") & (pl.col("protocol") == "resp")
    )
    read = read.with_columns(pl.col("verb", "detail").cast(pl.String)).drop_nulls(["tid", "ask_end_ns", "detail"])
    key = ["tid", "detail"]
    waiting = read.filter(pl.col("verb").is_in(list(BLOCKING)) & pl.col("answer_start_ns").is_not_null())
    adding = read.filter(pl.col("verb").is_in(list(ADDS))).select(*key, by="row", at="ask_end_ns")
    if waiting.is_empty() or adding.is_empty():
        return found
    waiting = waiting.select(*key, "row", since="ask_end_ns", at="answer_start_ns")
    joined = waiting.sort("at").join_asof(
        adding.sort("at"), on="at", by=key, strategy="backward", coalesce=False, check_sortedness=False
    )
    joined = joined.filter(pl.col("at_right") > pl.col("since"))
    found[joined["row"].to_numpy()] = requests.server_of[joined["by"].to_numpy()]
    return found
