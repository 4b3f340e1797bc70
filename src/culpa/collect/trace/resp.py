"""The Redis protocol in the first bytes of many messages at once: what each begins with and how many items it holds.

Specification: redis.io/docs/reference/protocol-spec (RESP2 and RESP3). One cursor per message walks token by token; all
messages take each step together as numpy arrays, so the cost per message is that of a few array elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CR, LF = 13, 10
_SIMPLE, _NUMBER, _BULK, _GROUP = 1, 2, 3, 4
_LARGEST = 1 << 40
"""Above every length a server accepts (512 MB), far below an overflow."""


def _token_kinds() -> npt.NDArray[np.uint8]:
    table = np.zeros(256, dtype=np.uint8)
    for letters, kind in ((b"+-,(", _SIMPLE), (b":_#", _NUMBER), (b"$!=", _BULK), (b"*~>%|", _GROUP)):
        table[list(letters)] = kind
    return table


TOKEN_KINDS: Final = _token_kinds()


@dataclass(slots=True, kw_only=True)
class Walk:
    """What was found, one entry per message; positions are offsets into the flat bytes, -1 where there is none."""

    valid: Bools
    """It begins with one whole token of the protocol."""
    items: Ints
    """Whole commands or replies within the captured bytes."""
    command: Bools
    """Its first item has the shape of a command: an array of bulk strings."""
    verb_at: Ints
    verb_bytes: Ints
    key_at: Ints
    key_bytes: Ints


def walk(flat: Bytes, start: Ints, limit: Ints) -> Walk:
    """Walk each message from `start` to `limit`, both offsets into `flat` (start < limit <= len(flat)).

    Any bytes are fine: a message stops being walked where it stops being the protocol.
    """
    n = len(start)
    none = np.full(n, -1, dtype=np.int64)
    found = Walk(
        valid=np.zeros(n, dtype=np.bool_),
        items=np.zeros(n, dtype=np.int64),
        command=flat[start] == ord("*"),
        verb_at=none.copy(),
        verb_bytes=none.copy(),
        key_at=none.copy(),
        key_bytes=none.copy(),
    )
    position, pending, token = start.copy(), np.ones(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    rows = np.arange(n, dtype=np.int64)
    while rows.size:
        rows = _step(flat, limit, found, rows, position, pending, token)
    return found


def _step(flat: Bytes, limit: Ints, found: Walk, rows: Ints, position: Ints, pending: Ints, token: Ints) -> Ints:
    """Take one token of every row; returns the rows that go on."""
    kind = TOKEN_KINDS[flat[position[rows]]]
    end, value, numeric = read_lines(flat, position[rows] + 1, limit[rows])
    good = (kind != 0) & (end >= 0) & (numeric | (kind == _SIMPLE) | (kind == _NUMBER))
    rows, kind, end, value = rows[good], kind[good], end[good], value[good]
    found.valid[rows] = True
    body = end + 2
    follows = np.where((kind == _BULK) & (value >= 0), body + value + 2, body)
    _note_command(found, rows, kind, value, body, token)
    members = np.where(flat[position[rows]] == ord("%"), value * 2, value)
    pending[rows] += np.where(kind == _GROUP, np.maximum(members, 0) - 1, -1)
    whole = follows <= limit[rows]
    ended = whole & (flat[np.minimum(follows, len(flat)) - 1] != LF)
    found.valid[rows[ended & (token[rows] < 1)]] = False
    complete = whole & ~ended & (pending[rows] == 0)
    found.items[rows[complete]] += 1
    pending[rows[complete]] = 1
    token[rows] += 1
    position[rows] = follows
    going: Ints = rows[whole & ~ended & (follows < limit[rows])]
    return going


def _note_command(found: Walk, rows: Ints, kind: Bytes, value: Ints, body: Ints, token: Ints) -> None:
    """Of the first item: is it a command, where are its verb and its first argument."""
    first = found.items[rows] == 0
    order = token[rows]
    found.command[rows[first & np.where(order == 0, value < 1, (kind != _BULK) | (value < 0))]] = False
    for number, at, size in ((1, found.verb_at, found.verb_bytes), (2, found.key_at, found.key_bytes)):
        here = first & (order == number) & (kind == _BULK)
        at[rows[here]], size[rows[here]] = body[here], value[here]


def read_lines(flat: Bytes, start: Ints, limit: Ints) -> tuple[Ints, Ints, Bools]:
    """Read up to the next CR from each start.

    Returns:
        The offset of the CR (-1: none before the limit), the line as an integer, and whether it is one.
    """
    n = len(start)
    end, value = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.int64)
    numeric, negative = np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    rows, at = np.arange(n, dtype=np.int64), start
    step = 0
    while rows.size:
        inside = at < limit[rows]
        if not inside.all():
            rows, at = rows[inside], at[inside]
        letter = flat[at]
        stop = letter == CR
        end[rows[stop]] = at[stop]
        going = ~stop
        rows, at, letter = rows[going], at[going] + 1, letter[going]
        digit = letter - np.uint8(48)
        bad = digit > 9
        if step == 0:
            minus = letter == ord("-")
            negative[rows[minus]] = True
            numeric[rows[bad & ~minus]] = False
        elif bad.any():
            numeric[rows[bad]] = False
        value[rows] = np.minimum(np.where(bad, value[rows], value[rows] * 10 + digit), _LARGEST)
        step += 1
    numeric &= end > start
    return end, np.where(negative, -value, value), numeric
