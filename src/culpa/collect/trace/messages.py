"""The captured first bytes of socket reads and writes -> protocol, verb, key pattern, path, digest, status.

Two steps, both on whole columns. `parse` looks at each message alone, right after it was drained, so that the bytes,
which hold passwords and cookies, live no longer than that. `settle` then decides per socket what one message leaves
open: an array of bulk strings is a Redis command in one direction and a reply in the other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from culpa.capture import schema
from culpa.collect.trace import mysql, resp
from culpa.collect.trace.redis_commands import KEY_FIRST, KEY_FIRST_PREFIXES, KNOWN

CHUNK_ROWS: Final = 1 << 15
"""Rows parsed at once: their bytes then stay in the processor's cache."""
LONGEST_VERB: Final = 32
LONGEST_KEY: Final = 128
LONGEST_DETAIL: Final = 160
LONGEST_STATEMENT: Final = 240
CERTAIN_VOTES: Final = 3
"""From so many messages of one role on, a message of the other role in that direction is taken for a later part."""

EITHER: Final = "either"
"""`kind` between the two steps: a command, or a reply that looks like one."""
UNSETTLED: Final = schema.MESSAGES.schema | {"kind": pl.Enum([*schema.MESSAGE_KIND.categories, EITHER])}
"""`schema.MESSAGES` between the two steps."""
PARSED: Final = {
    name: UNSETTLED[name] for name in ("protocol", "kind", "verb", "detail", "status", "commands")
}  # fmt: skip

_METHODS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"TRAC", b"CONN", b"PROP", b"REPO")
_REQUEST_LINE: Final = (
    r"^(?P<verb>GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT|PROPFIND|REPORT) "
    r"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*)?(?P<detail>[^?#\s]*)(?P<rest>[^\r\n]*)"
)
_VERB_LETTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_KEY_STEPS: Final = (
    (r"[^:/|{}#,]*@[^:/|{}#,]*", "*"),
    (r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}", "*"),
    (r"[0-9A-Fa-f]{16,}", "*"),
    (r"[^:./|{}#_,*-]*[^A-Za-z0-9:./|{}#_,*-][^:./|{}#_,*-]*", "*"),
    (r"[A-Za-z]*[0-9]+[A-Za-z]+[0-9][A-Za-z0-9]*", "*"),
    (r"[0-9]+", "*"),
    (r"[A-Za-z]{25,}", "*"),
    (r"\*[*-]*\*", "*"),
)
"""What varies in a key becomes `*`: addresses, uuids, hashes, segments with odd characters, digits, long words."""


def parse(payload: npt.NDArray[np.uint8], captured: npt.NDArray[np.integer[npt.NBitBase]]) -> pl.DataFrame:
    """Look at each message alone.

    Args:
        payload: (n, width) first bytes; `captured`: how many of a row are real.

    Returns:
        `PARSED` columns, n rows; `kind` may be `either`.
    """
    parts = [
        _parse_chunk(
            np.ascontiguousarray(payload[at : at + CHUNK_ROWS]), captured[at : at + CHUNK_ROWS].astype(np.int64)
        )
        for at in range(0, len(payload), CHUNK_ROWS)
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema=PARSED)


def _parse_chunk(payload: npt.NDArray[np.uint8], captured: resp.Ints) -> pl.DataFrame:
    n, width = payload.shape
    columns = _Columns(n)
    head = np.where(captured[:, None] > np.arange(12), payload[:, :12], 0).astype(np.uint8)
    words = np.ascontiguousarray(head[:, :4]).view("S4").ravel()
    requests = np.flatnonzero(np.isin(words, _METHODS))
    answers = np.flatnonzero((words == b"HTTP") & (head[:, 4] == ord("/")) & (captured >= 12))
    redis = np.flatnonzero((resp.TOKEN_KINDS[head[:, 0]] != 0) & (captured >= 3))
    text = payload.tobytes()
    _http_requests(columns, requests, text, width, captured)
    _http_answers(columns, answers, head)
    _redis(columns, redis, payload, text, captured)
    _mysql(columns, payload, text, captured)
    return columns.frame()


class _Columns:
    """The result under construction, one entry per message of a chunk."""

    def __init__(self, rows: int) -> None:
        self.protocol = np.full(rows, "unknown", dtype=object)
        self.kind = np.full(rows, "data", dtype=object)
        self.verb = np.full(rows, None, dtype=object)
        self.detail = np.full(rows, None, dtype=object)
        self.status = np.full(rows, -1, dtype=np.int32)
        self.commands = np.zeros(rows, dtype=np.int32)

    def frame(self) -> pl.DataFrame:
        texts = {name: getattr(self, name).tolist() for name in ("protocol", "kind", "verb", "detail")}
        frame = pl.DataFrame({**texts, "status": self.status, "commands": self.commands}, schema=PARSED)
        return frame.with_columns(
            status=pl.when(pl.col("status") >= 0).then("status"),
            commands=pl.when(pl.col("commands") > 0).then("commands"),
        )


def _http_requests(columns: _Columns, rows: resp.Ints, text: bytes, width: int, captured: resp.Ints) -> None:
    if not rows.size:
        return
    lines = [text[row * width : row * width + captured[row]].decode("latin-1") for row in rows.tolist()]
    found = pl.Series("line", lines, dtype=pl.String).str.extract_groups(_REQUEST_LINE).struct.unnest()
    # The line may go on past the captured bytes; if it ends within them, it ends with the version.
    whole = pl.Series("line", lines, dtype=pl.String).str.contains(r"\n")
    good = (found["rest"].str.contains(r" HTTP/1\.[01]$") | ~whole).fill_null(value=False) & found["verb"].is_not_null()
    detail = found["detail"].str.slice(0, LONGEST_DETAIL).str.replace_all(r"[^\x20-\x7e]", "?")
    detail = detail.str.replace(r"^[^/]*@", "").replace("", None)
    chosen = rows[good.to_numpy()]
    columns.protocol[chosen], columns.kind[chosen], columns.commands[chosen] = "http", "request", 1
    columns.verb[chosen] = found["verb"].filter(good).to_list()
    columns.detail[chosen] = detail.filter(good).to_list()


def _http_answers(columns: _Columns, rows: resp.Ints, head: npt.NDArray[np.uint8]) -> None:
    digits = head[rows][:, 9:12].astype(np.int32) - ord("0")
    good = ((digits >= 0) & (digits <= 9)).all(axis=1) & (head[rows, 8] == ord(" "))
    chosen = rows[good]
    columns.protocol[chosen], columns.kind[chosen], columns.commands[chosen] = "http", "response", 1
    columns.status[chosen] = digits[good] @ np.array([100, 10, 1], dtype=np.int32)


def _redis(
    columns: _Columns, rows: resp.Ints, payload: npt.NDArray[np.uint8], text: bytes, captured: resp.Ints
) -> None:
    start = rows * payload.shape[1]
    limit = start + captured[rows]
    found = resp.walk(payload.reshape(-1), start, limit)
    columns.protocol[rows[found.valid]] = "resp"
    columns.kind[rows[found.valid]] = "response"
    columns.commands[rows[found.valid]] = np.maximum(found.items[found.valid], 1)
    columns.status[rows[found.valid]] = np.isin(payload[rows[found.valid], 0], list(b"-!"))
    maybe = np.flatnonzero(found.valid & found.command & (found.verb_bytes > 0) & (found.verb_bytes <= LONGEST_VERB))
    maybe = maybe[found.verb_at[maybe] + found.verb_bytes[maybe] <= limit[maybe]]
    at, size = found.verb_at[maybe].tolist(), found.verb_bytes[maybe].tolist()
    cache: dict[bytes, str | None] = {}
    verbs = [_verb(text[a : a + s], cache) for a, s in zip(at, size, strict=True)]
    is_word = np.array([verb is not None for verb in verbs], dtype=np.bool_)
    chosen = maybe[is_word]
    words = [verb for verb in verbs if verb is not None]
    columns.kind[rows[chosen]] = EITHER
    columns.verb[rows[chosen]] = words
    _keys(columns, rows, chosen, words, found, text, limit)


def _verb(raw: bytes, cache: dict[bytes, str | None]) -> str | None:
    """The command's name in upper case; None if these bytes cannot be one."""
    if raw in cache:
        return cache[raw]
    upper = raw.upper()
    verb = upper.decode("ascii") if upper[:1].isalpha() and _VERB_LETTERS.issuperset(upper) else None
    cache[raw] = verb
    return verb


def _keys(
    columns: _Columns,
    rows: resp.Ints,
    chosen: resp.Ints,
    words: list[str],
    found: resp.Walk,
    text: bytes,
    limit: resp.Ints,
) -> None:
    keyed = [word in KEY_FIRST or word.startswith(KEY_FIRST_PREFIXES) for word in words]
    having = chosen[np.array(keyed, dtype=np.bool_) & (found.key_at[chosen] >= 0)]
    if not having.size:
        return
    start = found.key_at[having]
    end = np.minimum(start + np.minimum(found.key_bytes[having], LONGEST_KEY), limit[having])
    keys = [text[a:b].decode("latin-1") for a, b in zip(start.tolist(), end.tolist(), strict=True)]
    columns.detail[rows[having]] = key_patterns(pl.Series("key", keys, dtype=pl.String)).to_list()


def _mysql(columns: _Columns, payload: npt.NDArray[np.uint8], text: bytes, captured: resp.Ints) -> None:
    width = payload.shape[1]
    rows = mysql.questions(payload, captured)
    if rows.size:
        ends = zip(rows * width + mysql.HEADER + 1, rows * width + captured[rows], strict=True)
        statements = pl.Series("text", [text[a:b].decode("latin-1") for a, b in ends], dtype=pl.String)
        verbs = mysql.verbs(statements)
        good = verbs.is_not_null()
        chosen = rows[good.to_numpy()]
        columns.protocol[chosen], columns.kind[chosen], columns.commands[chosen] = "mysql", "request", 1
        columns.verb[chosen] = verbs.filter(good).to_list()
        columns.detail[chosen] = mysql.digests(statements.filter(good), LONGEST_STATEMENT).to_list()
    for row in mysql.answers(payload, captured).tolist():
        status = mysql.flags(text[row * width : row * width + captured[row]])
        if status is not None:
            columns.protocol[row], columns.kind[row], columns.commands[row] = "mysql", "response", 1
            columns.status[row] = status


def key_patterns(keys: pl.Series) -> pl.Series:
    """Reduce each key to what it has in common with its kind: `uuid:1b9d…` -> `uuid:*`; at most LONGEST_DETAIL."""
    unique = keys.unique()
    pattern = unique
    for expression, replacement in _KEY_STEPS:
        pattern = pattern.str.replace_all(expression, replacement)
    return keys.replace_strict(unique, pattern.str.slice(0, LONGEST_DETAIL), return_dtype=pl.String)


def settle(messages: pl.DataFrame) -> pl.DataFrame:
    """Decide per socket and direction what `either` is, and whose later part an unknown message is.

    Args:
        messages: `PARSED` columns plus `ino` and `direction`, in any order.

    Returns:
        The same rows and columns; `kind` is as in `schema.MESSAGES`.
    """
    redis, asks_now = pl.col("protocol") == "resp", pl.col("kind") == EITHER
    sign = pl.when(pl.col("direction") == "in").then(pl.lit(1, pl.Int64)).otherwise(-1)
    votes, spoken = _votes(messages), _spoken(messages)
    role = pl.col("ino").replace_strict(*votes, default=0, return_dtype=pl.Int64) * sign
    language = pl.col("ino").replace_strict(*spoken, default=None, return_dtype=schema.PROTOCOL)
    judged = messages.with_columns(role=role, spoken=language)
    request = asks_now & ((pl.col("role") > 0) | ((pl.col("role") == 0) & pl.col("verb").is_in(KNOWN)))
    later = redis & (pl.col("kind") == "response") & (pl.col("role") >= CERTAIN_VOTES)
    foreign = (pl.col("protocol") != pl.col("spoken")) & (pl.col("protocol") != "unknown")
    kind = (
        pl.when(later | foreign).then(_kind("data"))
        .when(request).then(_kind("request"))
        .when(asks_now).then(_kind("response"))
        .otherwise(pl.col("kind").cast(schema.MESSAGE_KIND, strict=False))
    )  # fmt: skip
    judged = judged.with_columns(kind=kind, protocol=pl.coalesce("spoken", "protocol"))
    asks, says = pl.col("kind") == "request", pl.col("kind") != "data"
    return judged.with_columns(
        verb=pl.when(asks).then("verb"),
        detail=pl.when(asks).then("detail"),
        status=pl.when(says & ~asks).then("status"),
        commands=pl.when(says).then("commands"),
    ).drop("role", "spoken")


def _votes(messages: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Each socket and how many of its messages say that commands are read there, less those that say the opposite."""
    asks = (pl.col("kind") == EITHER) & pl.col("verb").is_in(KNOWN)
    vote = asks.cast(pl.Int64) - (pl.col("kind") == "response").cast(pl.Int64)
    inwards = pl.when(pl.col("direction") == "in").then(vote).otherwise(-vote)
    found = messages.filter(protocol="resp").group_by("ino").agg(inwards.sum().alias("votes"))
    return found["ino"], found["votes"]


def _spoken(messages: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Each socket and the protocol that most of its messages are of, where any was recognised."""
    counted = messages.group_by("ino", "protocol").len().filter(pl.col("protocol") != "unknown")
    found = counted.sort("ino", -pl.col("len").cast(pl.Int64), "protocol").unique("ino", keep="first")
    return found["ino"], found["protocol"]


def _kind(word: str) -> pl.Expr:
    return pl.lit(word, schema.MESSAGE_KIND)
