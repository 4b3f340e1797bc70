"""One ELF file: segments, sections, symbols and build id, read piecewise from an open descriptor (elf(5)).

64-bit little-endian files only, which is what culpa's wheels exist for.
"""

from __future__ import annotations

import errno
import lzma
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_SECTIONS: Final = 4096
MAX_SYMBOLS: Final = 3_000_000
MAX_NAME_BYTES: Final = 1024
MAX_DEBUGDATA_BYTES: Final = 64 << 20
_PT_LOAD, _PT_INTERP, _PF_X = 1, 3, 1
_SHT_NOBITS: Final = 8
_SHF_COMPRESSED: Final = 1 << 11
_FUNCTION_TYPES: Final = (2, 10)
"""STT_FUNC, STT_GNU_IFUNC."""
_SYMBOL: Final = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")


class NotElf(Exception):
    """The bytes are no 64-bit little-endian ELF file, or a broken one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Where a section lies: its address when loaded, its place in the file, its length in bytes."""

    address: int
    offset: int
    size: int
    kind: int
    compressed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """A function: its start, its length in bytes (0: not told), its name as it stands in the file."""

    start: int
    size: int
    name: str


class Source:
    """Bytes to read by place: a descriptor that it owns, or bytes in memory."""

    def __init__(self, content: int | bytes) -> None:
        self._content = content

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end or where the file cannot be read."""
        if isinstance(self._content, bytes):
            return self._content[offset : offset + size]
        with suppress(OSError, OverflowError, ValueError):  # offsets are whatever the file claims
            return os.pread(self._content, size, offset)
        return b""

    def duplicate(self) -> int | None:
        """Another descriptor of the file, to be closed by the caller; None where there is no file."""
        return os.dup(self._content) if isinstance(self._content, int) else None

    def close(self) -> None:
        """Give the descriptor up."""
        if isinstance(self._content, int):
            os.close(self._content)


def open_regular(path: str) -> Source | None:
    """A regular file, opened without waiting for anything; None where it is gone, refused or something else."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as problem:
        if getattr(problem, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return Source(descriptor)


class Elf:
    """An ELF file; what is read of it is kept."""

    def __init__(self, source: Source) -> None:
        """Read the headers.

        Raises:
            NotElf: it is something else.
        """
        self.source = source
        head = source.read(0, 64)
        if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
            raise NotElf("no 64-bit little-endian ELF file")
        segments, sections = struct.unpack_from("<QQ", head, 32)
        segment_size, segment_count, section_size, section_count, names = struct.unpack_from("<HHHHH", head, 54)
        self.machine: int = struct.unpack_from("<H", head, 18)[0]
        self._segments = list(self._read_segments(segments, segment_size, segment_count))
        self.sections = dict(self._read_sections(sections, section_size, section_count, names))
        self.has_interpreter = any(kind == _PT_INTERP for kind, *_ in self._segments)
        self._symbols: _Symbols | None = None

    def address_of(self, offset: int) -> int | None:
        """The address, as the file counts them, of the executable byte at `offset` of the file."""
        for kind, flags, at, address, size in self._segments:
            if kind == _PT_LOAD and flags & _PF_X and at <= offset < at + size:
                return address + offset - at
        return None

    def bytes_of(self, name: str, limit: int) -> bytes:
        """The content of a section; empty where there is none, or more than `limit` bytes of it."""
        section = self.sections.get(name)
        if section is None or section.kind == _SHT_NOBITS or section.size > limit:
            return b""
        return self.source.read(section.offset, section.size)

    def build_id(self) -> str | None:
        """The GNU build id in hexadecimal (a note of three words, a name and the id)."""
        note = self.bytes_of(".note.gnu.build-id", 1024)
        if len(note) < 16:
            return None
        name_size, size, _ = struct.unpack_from("<III", note)
        start = 12 + (name_size + 3) // 4 * 4
        return note[start : start + size].hex() or None if size <= 64 else None

    def symbol(self, address: int) -> Symbol | None:
        """The function that holds an address, by its own size; where that is not told, up to the next symbol."""
        if self._symbols is None:
            self._symbols = _Symbols(self)
        return self._symbols.at(address)

    def names(self) -> frozenset[str]:
        """The names of all its functions."""
        if self._symbols is None:
            self._symbols = _Symbols(self)
        return self._symbols.names()

    def embedded(self) -> Elf | None:
        """The symbols that some distributions pack into the file (`.gnu_debugdata`, xz)."""
        packed = self.bytes_of(".gnu_debugdata", MAX_DEBUGDATA_BYTES)
        if not packed:
            return None
        try:
            content = lzma.LZMADecompressor(memlimit=MAX_DEBUGDATA_BYTES).decompress(packed, MAX_DEBUGDATA_BYTES)
            return Elf(Source(content))
        except (lzma.LZMAError, NotElf, EOFError):
            return None

    def _read_segments(self, offset: int, size: int, count: int) -> Iterator[tuple[int, int, int, int, int]]:
        if size != _SEGMENT.size:
            return
        table = self.source.read(offset, size * count)
        for place in range(0, len(table) - size + 1, size):
            kind, flags, at, address, _, in_file, _, _ = _SEGMENT.unpack_from(table, place)
            yield kind, flags, at, address, in_file

    def _read_sections(self, offset: int, size: int, count: int, names: int) -> Iterator[tuple[str, Section]]:
        if size != _SECTION.size or not 0 < count <= MAX_SECTIONS:
            return
        table = self.source.read(offset, size * count)
        rows = [_SECTION.unpack_from(table, place) for place in range(0, len(table) - size + 1, size)]
        if names >= len(rows):
            return
        texts = self.source.read(rows[names][4], min(rows[names][5], 1 << 20))
        for row in rows:
            end = texts.find(b"\0", row[0])
            name = texts[row[0] : end if end >= 0 else row[0]].decode("ascii", "replace")
            yield (
                name,
                Section(
                    kind=row[1], compressed=bool(row[2] & _SHF_COMPRESSED), address=row[3], offset=row[4], size=row[5]
                ),
            )


class _Symbols:
    """The functions of one file, sorted by address; of several names of one address the plainest is given."""

    def __init__(self, elf: Elf) -> None:
        parts = [part for table, names in _TABLES if (part := _functions(elf, table, names)) is not None]
        found = np.concatenate(parts) if parts else np.zeros(0, _FOUND)
        order = np.lexsort((found["size"], found["value"]))
        self._found = found[order]
        self._values: npt.NDArray[np.uint64] = np.ascontiguousarray(self._found["value"])
        self._source = elf.source

    def at(self, address: int) -> Symbol | None:
        last = int(np.searchsorted(self._values, np.uint64(address), side="right")) - 1
        if last < 0:
            return None
        for place in range(last, max(-1, last - _LOOK_BACK), -1):
            start, size = int(self._values[place]), int(self._found["size"][place])
            if address < start + size or (size == 0 and start == int(self._values[last])):
                return Symbol(start=start, size=size, name=self._plainest(start))
        return None

    def names(self) -> frozenset[str]:
        return frozenset(self._name(row) for row in self._found)

    def _plainest(self, start: int) -> str:
        first, end = (int(np.searchsorted(self._values, np.uint64(start), side=side)) for side in ("left", "right"))
        names = {self._name(row) for row in self._found[first:end][:16]} - {""}
        return min(names, key=lambda name: (len(name) - len(name.lstrip("_")), len(name), name), default="")

    def _name(self, row: np.void) -> str:
        text = self._source.read(int(row["name_at"]), MAX_NAME_BYTES)
        return text.partition(b"\0")[0].partition(b"@")[0].decode("utf-8", "replace")


_LOOK_BACK: Final = 4
_FOUND: Final = np.dtype([("value", "<u8"), ("size", "<u8"), ("name_at", "<u8")])
_TABLES: Final = ((".symtab", ".strtab"), (".dynsym", ".dynstr"))


def _functions(elf: Elf, table: str, names: str) -> npt.NDArray[np.void] | None:
    texts = elf.sections.get(names)
    raw = elf.bytes_of(table, MAX_SYMBOLS * _SYMBOL.itemsize)
    if texts is None or not raw:
        return None
    rows = np.frombuffer(raw[: len(raw) // _SYMBOL.itemsize * _SYMBOL.itemsize], dtype=_SYMBOL)
    rows = rows[np.isin(rows["info"] & 0xF, _FUNCTION_TYPES) & (rows["shndx"] != 0) & (rows["name"] < texts.size)]
    found = np.zeros(len(rows), _FOUND)
    found["value"], found["size"] = rows["value"], np.minimum(rows["size"], 1 << 32)
    found["name_at"] = rows["name"].astype(np.uint64) + np.uint64(texts.offset)
    return found
