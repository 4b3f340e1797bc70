"""What is recognised of the protocol of MySQL and MariaDB, and that no literal survives it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from culpa.collect.trace import messages, mysql

WIDTH = 256
NO_INDEX = 0x22


def packet(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number]) + body


def query(text: str) -> bytes:
    return packet(0, b"\x03" + text.encode())


def parsed(*texts: bytes, width: int = WIDTH) -> list[dict[str, object]]:
    payload = np.zeros((len(texts), width), np.uint8)
    captured = np.array([min(width, len(text)) for text in texts])
    for row, text in enumerate(texts):
        payload[row, : captured[row]] = np.frombuffer(text[:width], np.uint8)
    return messages.parse(payload, captured).to_dicts()


def digest(statement: str) -> str:
    return str(mysql.digests(pl.Series("s", [statement]), messages.LONGEST_STATEMENT)[0])


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT * FROM t WHERE a = 'x' AND b=12", "SELECT * FROM t WHERE a = ? AND b=?"),
        ("select  a\n from t1 where n in (1, 2,3)", "select a from t1 where n in (?)"),
        ("INSERT INTO t VALUES (1,'it''s'),(2,\"b\")", "INSERT INTO t VALUES (?)"),
        ("SELECT /* user 7 */ a FROM `9t` -- 5\n WHERE b = 0xff", "SELECT a FROM `9t` WHERE b = ?"),
        ("SELECT a FROM t WHERE b = 'never closed and 1", "SELECT a FROM t WHERE b = ?"),
        ("SELECT a FROM t WHERE b = 'ends with \\' AND c = 'hidden'", "SELECT a FROM t WHERE b = ?"),
        ("SELECT a FROM t WHERE b IN ('x', 'y', 'z", "SELECT a FROM t WHERE b IN (?)"),
        ("SELECT -1.5e3, t1.c2 FROM t1", "SELECT -?, t1.c2 FROM t1"),
    ],
)
def test_a_statement_loses_its_literals_and_nothing_else(statement: str, expected: str) -> None:
    """Numbers, strings also where they end beyond what was seen, comments; names keep their digits."""
    assert expected == digest(statement)


@given(st.text(max_size=30), st.sampled_from("'\""), st.integers(0, 120))
def test_no_part_of_a_string_survives(text: str, quote: str, cut: int) -> None:
    """However it is quoted, and wherever the first bytes end."""
    secret = f"Secret{text}Secret"
    quoted = secret.replace("\\", "\\\\").replace(quote, quote * 2)
    assert "Secret" not in digest(f"SELECT a FROM t WHERE b = {quote}{quoted}{quote} AND c = 1"[: 27 + cut])


@pytest.mark.parametrize("width", [48, WIDTH])
def test_a_query_is_recognised_by_its_length_its_number_and_its_first_word(width: int) -> None:
    """Also one that is longer than what was seen of it."""
    short, long = query("UPDATE t SET a = 1"), query("SELECT a FROM t WHERE b IN (" + "1," * 300 + "1)")
    found = parsed(short, long, width=width)
    assert [("mysql", "request", "UPDATE"), ("mysql", "request", "SELECT")] == [
        (row["protocol"], row["kind"], row["verb"]) for row in found
    ]
    assert "UPDATE t SET a = ?" == found[0]["detail"]


@pytest.mark.parametrize(
    "other",
    [
        query("SELECT 1")[:-1],  # a piece of it
        packet(1, b"\x03SELECT 1"),  # within an exchange
        packet(0, b"\x04SELECT 1"),  # another command
        query("nothing that is SQL"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"",
    ],
)
def test_what_only_looks_like_a_query_is_none(other: bytes) -> None:
    """All of it has to fit."""
    assert "mysql" != parsed(other)[0]["protocol"]


def rows(*, old: bool) -> bytes:
    """An answer of one column and one row, with its end by the old protocol or by the new one."""
    end = b"\xfe\0\0" + NO_INDEX.to_bytes(2, "little")
    column, row = packet(2, b"\x03def" + bytes(20)), b"\x02ab"
    if old:
        return packet(1, b"\1") + column + packet(3, end) + packet(4, row) + packet(5, end)
    return packet(1, b"\1") + column + packet(3, row) + packet(4, end + b"\0\0")


@pytest.mark.parametrize(
    "answer",
    [rows(old=True), rows(old=False), packet(1, b"\0\xfc\x10\x27\0" + NO_INDEX.to_bytes(2, "little") + b"\0\0")],
    ids=["old", "new", "update"],
)
def test_an_answer_tells_the_servers_flags(answer: bytes) -> None:
    """At the end of columns, at the end of rows, and behind how many rows were changed."""
    row = parsed(answer)[0]
    assert ("mysql", "response", NO_INDEX) == (row["protocol"], row["kind"], row["status"])


@given(st.binary(max_size=300))
def test_any_bytes_are_fine(raw: bytes) -> None:
    """Foreign bytes are looked at and left alone."""
    parsed(raw or b"\0", b"\1\0\0\1" + raw, b"\5\0\0\0\3" + raw)
