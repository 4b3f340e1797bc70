"""The protocol of MySQL and MariaDB in the first bytes of messages: what is asked, and what the answer says of it.

Client/Server Protocol, "Text Protocol" and "Generic Response Packets" (dev.mysql.com, mariadb.com/kb). A packet is
three bytes of length, one of a sequence number that begins at 0 with a question, and its body. Each message is looked
at by itself; statements lose their literals here, so that none is ever stored.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
HEADER: Final = 4
QUERY: Final = 0x03
"""COM_QUERY: a statement as text. Those that are prepared are not recognised: their text and their runs are apart."""
_OK, _EOF = 0x00, 0xFE
_EOF_BYTES: Final = (5, 7)
"""Of the packet that ends the rows, by the old protocol and with CLIENT_DEPRECATE_EOF."""
MAX_PACKETS: Final = 64
_WORDS: Final = "SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|CALL|SHOW|SET|BEGIN|START|COMMIT|ROLLBACK|USE|DO"
_FIRST_WORD: Final = rf"(?is)^(?:\x00\x01)?\s*(?:/\*.{{0,100}}?\*/\s*)*\(?\s*({_WORDS})\b"
"""The two bytes say that there are no parameters (CLIENT_QUERY_ATTRIBUTES)."""
_LITERALS: Final = (
    (r"""(?s)['"][^'"]*\\['"].*$""", "?"),
    (r"(?s)/\*.*?(?:\*/|$)|(?:--\s|#)[^\n]*", " "),
    (r"""(?s)'(?:[^']|'')*(?:'|$)|"(?:[^"]|"")*(?:"|$)""", "?"),
    (r"(^|[^\w$`])[0-9][\w.]*", "${1}?"),
    (r"[^\x21-\x7e]+", " "),
    (r"\( ?\?(?: ?, ?\?)*(?: ?,? ?$| ?\))", "(?)"),
    (r"\(\?\)(?: ?, ?\(\?\))+", "(?)"),
)
"""Comments go; strings (also one that ends beyond what was seen), numbers and lists of them become `?`. What follows a
quote behind a backslash goes as well: it depends on the server's mode where that string ends."""


def questions(payload: Bytes, captured: Ints) -> Ints:
    """Which messages can be one packet with a statement.

    Args:
        payload: (n, width) first bytes; `captured`: how many of a row are real.

    Returns:
        Rows of `payload`.
    """
    rows = np.flatnonzero((payload[:, 3] == 0) & (payload[:, HEADER] == QUERY) & (captured > HEADER + 1))
    there, seen = _length(payload[rows]) + HEADER, captured[rows]
    found: Ints = rows[np.where(seen == payload.shape[1], there >= seen, there == seen)]
    return found


def verbs(statements: pl.Series) -> pl.Series:
    """The word that each statement begins with, in upper case; null where no statement begins so."""
    return statements.str.extract(_FIRST_WORD, 1).str.to_uppercase()


def digests(statements: pl.Series, longest: int) -> pl.Series:
    """Each statement without its literals and comments, in one line of at most `longest` letters."""
    for expression, replacement in _LITERALS:
        statements = statements.str.replace_all(expression, replacement)
    return statements.str.strip_chars().str.slice(0, longest)


def answers(payload: Bytes, captured: Ints) -> Ints:
    """Which messages can begin an answer: a whole packet with the number after that of a question."""
    rows = np.flatnonzero((payload[:, 3] == 1) & (captured > HEADER))
    length = _length(payload[rows])
    found: Ints = rows[(length > 0) & (length + HEADER <= captured[rows])]
    return found


def flags(message: bytes) -> int | None:
    """The server's status flags in what was seen of an answer (SERVER_STATUS_flags_enum); None where there are none.

    Args:
        message: as from `answers`.
    """
    at = 0
    for number in range(1, MAX_PACKETS):
        length = int.from_bytes(message[at : at + 3], "little")
        body = message[at + HEADER : at + HEADER + length]
        if len(message) <= at + HEADER or message[at + 3] != number or len(body) < length or not body:
            return None
        at += HEADER + length
        if number == 1 and body[0] == _OK:
            return _of_ok(body) if at == len(message) else None
        if number > 1 and body[0] == _EOF and length in _EOF_BYTES:
            return int.from_bytes(body[3:5], "little")
    return None


def _of_ok(body: bytes) -> int | None:
    """The flags of an OK packet: behind how many rows were changed, and the last number that was given."""
    at = 1
    for _ in range(2):
        if at >= len(body):
            return None
        at += {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(body[at], 1)
    return int.from_bytes(body[at : at + 2], "little") if at + 4 <= len(body) else None


def _length(payload: Bytes) -> Ints:
    """The length of each message's first packet."""
    length: Ints = payload[:, :3].astype(np.int64) @ np.array([1, 1 << 8, 1 << 16], dtype=np.int64)
    return length
