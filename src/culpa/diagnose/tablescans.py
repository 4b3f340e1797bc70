"""Statements that a MySQL or MariaDB server answers by reading through a whole table: by its word, or by its reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import polars as pl

from culpa.capture import schema
from culpa.diagnose.moments import Moments
from culpa.model.kinds import Kind

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

NO_GOOD_INDEX, NO_INDEX = 0x10, 0x20
"""SERVER_QUERY_NO_GOOD_INDEX_USED and SERVER_QUERY_NO_INDEX_USED (include/mysql_com.h), sent with the answer."""
TABLE_FILES = (".ibd", ".MYD", ".MAD")
"""What a table's rows lie in: InnoDB with a file for each table, MyISAM, Aria. The folder is the database."""
MOST_OF_IT = 0.5
"""Of a table's file read for one statement: a look-up by an index reads a few pages of it."""
SMALL_ANSWER = 0.1
"""Of what was read: with more, the rows are wanted, and no index saves their reading."""
SEEN_LETTERS = 240
"""A statement's text is not seen further than that, and not even so far in a message of many literals."""
VERBS = ("SELECT", "UPDATE", "DELETE", "WITH", "INSERT", "REPLACE")
_CHOOSES = re.compile(r"\b(WHERE|ON|USING|LIMIT)\b", re.IGNORECASE)
_TABLE = re.compile(r"\b(?:FROM|UPDATE|JOIN)\s+((?:`[^`]+`|[\w$]+)(?:\s*\.\s*(?:`[^`]+`|[\w$]+))?)", re.IGNORECASE)
_COMPARED = re.compile(
    r"((?:`[^`]+`|[A-Za-z_$][\w$]*)(?:\.(?:`[^`]+`|[\w$]+))?)\s*(?:<=>|<=|>=|<>|!=|=|<|>|\bLIKE\b|\bIN\b|\bBETWEEN\b|\bIS\b)",
    re.IGNORECASE,
)
_OWN_WORK = (Kind.RUNNING, Kind.IO, Kind.FAULT)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scan:
    """Statements of one kind that scan: their exchanges, and when the server's threads worked on them.

    `moments` has their waiting for a CPU as well, which goes with the work; `work_ns` is without it.

    `rows`: rows of `Picture.own_exchanges` with server_pid, server_tid, server_ns. `said`: how many the server itself
    says used no index. `path` and `read_bytes`: the table's file that was read for them, None and 0 where all of it
    lay in the server's memory. `size`: that file's, None where it is not known.
    """

    digest: str
    rows: pl.DataFrame
    said: int
    moments: Moments
    work_ns: int
    path: str | None
    read_bytes: int
    size: int | None

    @property
    def table(self) -> str | None:
        """`database.table` by the file, else the first one that the statement names."""
        if self.path is not None:
            file = PurePosixPath(self.path)
            return f"{file.parent.name}.{file.stem.partition('#')[0]}"
        named = _TABLE.search(self.digest)
        return None if named is None else named[1].replace("`", "")

    @property
    def compared(self) -> list[str]:
        """Columns that the statement compares behind its WHERE or ON, as it names them."""
        found = _CHOOSES.search(self.digest)
        behind = self.digest[found.end() :] if found else ""
        return list(dict.fromkeys(name.replace("`", "") for name in _COMPARED.findall(behind)))


def found(picture: Picture) -> list[Scan]:
    """By statement, the one with the most time first."""
    rows = _asked(picture)
    if rows.is_empty():
        return []
    reads = _reads(picture, rows)
    per_exchange = reads.group_by("row").agg(pl.col("bytes").sum(), pl.col("part").max())
    rows = rows.join(per_exchange, on="row", how="left", maintain_order="left")
    said = (pl.col("flags").fill_null(0).cast(pl.Int64) & (NO_GOOD_INDEX | NO_INDEX)) > 0
    small = pl.col("answer_bytes").fill_null(0) <= SMALL_ANSWER * pl.col("bytes")
    rows = rows.with_columns(said=said).filter(said | ((pl.col("part") >= MOST_OF_IT) & small).fill_null(value=False))
    scans = [
        _scan(picture, digest, mine, reads)
        for (_, digest), mine in rows.group_by("server_pid", "detail", maintain_order=True)
    ]
    return sorted(scans, key=lambda scan: (-scan.moments.ns, scan.digest))


def _asked(picture: Picture) -> pl.DataFrame:
    """The target's statements that choose rows, with the thread that served each and the flags of its answer."""
    rows = picture.own_exchanges.filter((pl.col("protocol") == "mysql") & pl.col("verb").is_in(list(VERBS)))
    server = picture.requests.server_of[rows["row"].to_numpy()]
    rows = rows.with_columns(server=pl.Series(server, dtype=pl.Int64)).filter(pl.col("server") >= 0)
    theirs = picture.requests.exchanges[rows["server"].to_numpy()]
    rows = rows.with_columns(
        server_pid=theirs["pid"],
        server_tid=theirs["answer_tid"].fill_null(theirs["tid"]),
        server_ns=theirs["ask_end_ns"],
        flags=theirs["status"],
    )
    cut = pl.col("detail").str.len_chars() >= SEEN_LETTERS
    return rows.filter(cut | pl.col("detail").str.contains(f"(?i){_CHOOSES.pattern}"))


def _reads(picture: Picture, rows: pl.DataFrame) -> pl.DataFrame:
    """row, path, size, bytes, part: what the serving thread read of table files for each exchange, and of each how much
    of the whole.
    """
    calls = picture.file_calls.rows if picture.file_calls is not None else pl.DataFrame()
    empty = {
        "row": rows.schema["row"],
        "path": pl.String(),
        "size": pl.Int64(),
        "bytes": pl.Int64(),
        "part": pl.Float64(),
    }
    if calls.is_empty():
        return pl.DataFrame(schema=empty)
    ends = pl.any_horizontal(pl.col("path").str.ends_with(suffix) for suffix in TABLE_FILES)
    calls = calls.filter((pl.col("operation") == "read") & (pl.col("bytes") > 0) & ends).sort("enter_ns")
    spans = rows.select("row", "stop_ns", server_tid=pl.col("server_tid").cast(calls.schema["tid"]), at="server_ns")
    joined = calls.select("tid", "enter_ns", "dev", "ino", "path", "bytes").join_asof(
        spans.drop_nulls().sort("at"), left_on="enter_ns", right_on="at", by_left="tid", by_right="server_tid",
        check_sortedness=False,
    )  # fmt: skip
    inside = joined.filter(pl.col("enter_ns") <= pl.col("stop_ns"))
    sizes = picture.capture.frame(schema.FILES).select("dev", "ino", "size").unique(["dev", "ino"], keep="last")
    each = (
        inside.group_by("row", "dev", "ino", "path")
        .agg(pl.col("bytes").sum())
        .join(sizes, on=["dev", "ino"], how="left")
    )
    return each.with_columns(part=pl.col("bytes") / pl.col("size")).select(list(empty))


def _scan(picture: Picture, digest: object, rows: pl.DataFrame, reads: pl.DataFrame) -> Scan:
    mine = reads.join(rows.select("row"), on="row", how="semi")
    files = (
        mine.group_by("path").agg(pl.col("bytes").sum(), pl.col("size").max()).sort("bytes", "path", descending=True)
    )
    path, read_bytes, size = files.row(0) if len(files) else (None, 0, None)
    work, waits = (_within(picture, rows, kinds) for kinds in (_OWN_WORK, (Kind.RUNNABLE,)))
    return Scan(
        digest=str(digest), rows=rows, said=int(rows["said"].sum()), moments=work.plus(waits), work_ns=work.ns,
        path=path, read_bytes=int(read_bytes), size=size,
    )  # fmt: skip


def _within(picture: Picture, rows: pl.DataFrame, kinds: tuple[Kind, ...]) -> Moments:
    """When the threads that served these exchanges did such things meanwhile."""
    threads = set(rows["server_tid"].to_list())
    nodes = [node for node in picture.nodes(*kinds) if picture.blame.nodes[node].who in threads]
    spans = list(zip(rows["server_ns"].to_list(), rows["stop_ns"].to_list(), strict=True))
    return picture.moments(*nodes).within(spans) if nodes else Moments.of_rows([], [], [])
