"""What a Parquet file claims about itself, summed up without reading its data.

A reader that believes a footer can be made to take any amount of memory: run lengths, dictionaries and page headers all
multiply. `measure` walks the footer and every page header first, so that `bundle.py` can refuse a file before a byte of
it is decompressed. It accepts what culpa's own writer makes, a small part of the format. Mirrors parquet.thrift
(apache/parquet-format).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from culpa.capture.thrift import Reader, Struct, ThriftError, Value

MAGIC: Final = b"PAR1"
MAX_FOOTER_BYTES: Final = 1 << 20
MAX_COLUMNS: Final = 64
MAX_ROW_GROUPS: Final = 64
MAX_PAGES: Final = 4096
MAX_PAGE_HEADER_BYTES: Final = 512
MAX_PAGE_BYTES: Final = 256 << 20

_CODECS: Final = frozenset({0, 6})
"""UNCOMPRESSED and ZSTD."""
_ENCODINGS: Final = frozenset({0, 2, 3, 8})
"""PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY. The delta encodings share prefixes: a page could grow without bound."""
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_ROW_BYTES: Final = {0: 1, 1: 4, 2: 8, 5: 8, 6: 16}
"""Decoded bytes of one value by physical type: BOOLEAN, INT32, INT64, DOUBLE, BYTE_ARRAY (a view)."""
_FLAT_BYTES, _NESTED_BYTES = 1, 9
"""Decoded bytes a value may need besides: validity, and the offsets of a list."""


class ParquetError(ValueError):
    """The file is not one that culpa wrote; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What reading the file would take: rows, and bytes once decompressed and decoded."""

    rows: int
    decoded_bytes: int


def measure(data: bytes) -> Claim:
    """Sum up footer and page headers of a whole Parquet file.

    Raises:
        ParquetError: it is damaged, contradicts itself, or uses a part of the format that culpa does not write.
    """
    try:
        footer = Reader(_footer(data)).struct()
        rows, decoded = _row_groups(data, footer)
    except ThriftError as error:
        raise ParquetError(f"its metadata is damaged ({error})") from error
    _require(_integer(footer, 3) == rows, "its row counts contradict each other")
    return Claim(rows=rows, decoded_bytes=decoded)


def _footer(data: bytes) -> bytes:
    _require(len(data) >= 12 and data[:4] == MAGIC and data[-4:] == MAGIC, "it is not a Parquet file")
    size = int.from_bytes(data[-8:-4], "little")
    _require(size <= min(len(data) - 12, MAX_FOOTER_BYTES), "its footer is too large")
    return data[-8 - size : -8]


def _row_groups(data: bytes, footer: Struct) -> tuple[int, int]:
    _require(_bounded(footer, 2, 4 * MAX_COLUMNS), "it has too many columns")
    _require(_bounded(footer, 4, MAX_ROW_GROUPS), "it has too many row groups")
    rows = decoded = pages = 0
    for group in _structs(footer, 4):
        group_rows = _integer(group, 3)
        _require(_bounded(group, 1, MAX_COLUMNS), "it has too many columns")
        for chunk in _structs(group, 1):
            column_bytes, column_pages = _chunk(data, _struct(chunk, 3), group_rows)
            decoded, pages = decoded + column_bytes, pages + column_pages
            _require(pages <= MAX_PAGES, "it has too many pages")
        rows += group_rows
    return rows, decoded


def _chunk(data: bytes, column: Struct, rows: int) -> tuple[int, int]:
    """Decoded bytes and pages of one column chunk, from its page headers."""
    values, nested = _integer(column, 5), len(_list(column, 3)) > 1
    _require(values >= rows if nested else values == rows, "its value counts contradict each other")
    _require(_integer(column, 4) in _CODECS, "it is compressed in a way culpa does not use")
    width = _ROW_BYTES.get(_integer(column, 1))
    if width is None:
        raise ParquetError("it holds a type that culpa does not use")
    seen = pages = decoded = 0
    for header, size in _page_headers(data, column):
        seen += _page_values(header, size)
        pages, decoded = pages + 1, decoded + size
        _require(pages <= MAX_PAGES and seen <= values, "its page counts contradict each other")
    _require(seen == values, "its page counts contradict each other")
    return decoded + values * (width + (_NESTED_BYTES if nested else _FLAT_BYTES)), pages


def _page_headers(data: bytes, column: Struct) -> Iterator[tuple[Struct, int]]:
    """Each page header of a column chunk with the page's uncompressed size."""
    start = _integer(column, 9)
    if 11 in column:
        start = min(start, _integer(column, 11))
    end = start + _integer(column, 7)
    _require(4 <= start <= end <= len(data), "a column lies outside the file")
    while start < end:
        reader = Reader(data[start : min(end, start + MAX_PAGE_HEADER_BYTES)])
        header = reader.struct()
        size, packed = _integer(header, 2), _integer(header, 3)
        _require(size <= MAX_PAGE_BYTES, "a page is too large")
        _require(_integer(column, 4) != 0 or size == packed, "its page sizes contradict each other")
        start += reader.position + packed
        _require(start <= end, "a page lies outside its column")
        yield header, size


def _page_values(header: Struct, size: int) -> int:
    """Values of a data page; 0 for a dictionary, whose entries are bounded by its size."""
    kind = _integer(header, 1)
    if kind == _DICTIONARY_PAGE:
        page = _struct(header, 7)
        _require(_integer(page, 1) <= size, "a dictionary holds more entries than bytes")
        _require(_integer(page, 2) in _ENCODINGS, "it is encoded in a way culpa does not use")
        return 0
    _require(kind == _DATA_PAGE, "it has a kind of page that culpa does not write")
    page = _struct(header, 5)
    _require(
        all(_integer(page, field) in _ENCODINGS for field in (2, 3, 4)), "it is encoded in a way culpa does not use"
    )
    return _integer(page, 1)


def _integer(struct: Struct, field: int) -> int:
    value = struct.get(field)
    if not isinstance(value, int) or value < 0:
        raise ParquetError("its metadata is damaged (a number is missing or negative)")
    return value


def _list(struct: Struct, field: int) -> list[Value]:
    value = struct.get(field)
    if not isinstance(value, list):
        raise ParquetError("its metadata is damaged (a list is missing)")
    return value


def _struct(struct: Struct, field: int) -> Struct:
    value = struct.get(field)
    if not isinstance(value, dict):
        raise ParquetError("its metadata is damaged (a structure is missing)")
    return value


def _structs(struct: Struct, field: int) -> Iterator[Struct]:
    for value in _list(struct, field):
        if not isinstance(value, dict):
            raise ParquetError("its metadata is damaged (a structure is missing)")
        yield value


def _bounded(struct: Struct, field: int, limit: int) -> bool:
    return len(_list(struct, field)) <= limit


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise ParquetError(complaint)
