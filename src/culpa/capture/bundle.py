"""One capture: in memory, and as a file that is written atomically and read as hostile input.

The file is a ZIP, stored and not deflated, of `manifest.json` and one `TABLE.parquet` per table. Everything it claims
is compared with a bound before it is believed: member sizes here, Parquet's own claims in `parquet.py`, the values in
`checks.py`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import polars as pl

from culpa import wholefile
from culpa.capture.archive import MANIFEST_NAME, Refused, begins_as_capture, open_archive, open_regular
from culpa.capture.archive import members as archive_members
from culpa.capture.checks import CheckError, check_column, check_manifest, shortened, sound_rows, spent
from culpa.capture.columns import Column, Table
from culpa.capture.encoding import encode_json
from culpa.capture.manifest import Manifest
from culpa.capture.parquet import ParquetError, measure
from culpa.capture.schema import BY_NAME, SCHEMA
from culpa.errors import CaptureError
from culpa.units import format_count, printable

MAX_ROWS: Final = 8_000_000
"""Rows of one table; the tracer stops at 3 million events by default."""
MAX_DECODED_BYTES: Final = 2 << 30
FREE_DECODED_BYTES: Final = 48 << 20
MAX_EXPANSION: Final = 100
"""A capture may decode to 48 MiB and 100 times its size: real ones reach 20 to 50 times, bombs thousands."""

_FIXED_TIME: Final = (1980, 1, 1, 0, 0, 0)
_SCHEMA_NUMBER: Final = re.compile(r"culpa\.capture/(\d{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A manifest and its tables. A table that was not collected is absent from `tables`; of one that is `used_up` it
    is known only that it was.
    """

    manifest: Manifest
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    used_up: frozenset[str] = frozenset()

    def has(self, table: Table) -> bool:
        """Whether the table was collected at all, even without rows."""
        return table.name in self.tables or table.name in self.used_up

    def frame(self, table: Table) -> pl.DataFrame:
        """The table's rows; no rows where it was not collected.

        Raises:
            LookupError: the table is used up.
        """
        if table.name in self.used_up:
            raise LookupError(f"the rows of {table.name} were given up: take what was made of them")
        found = self.tables.get(table.name)
        return table.empty() if found is None else found

    def without_rows(self, table: Table) -> Capture:
        """The same capture once everything has been made of a table that is to be made of it."""
        if table.name not in self.tables:
            return self
        kept = {name: frame for name, frame in self.tables.items() if name != table.name}
        return replace(self, tables=kept, used_up=self.used_up | {table.name})


class _SchemaOnly(msgspec.Struct):
    schema: str


def save(capture: Capture, path: Path) -> None:
    """Write the capture beside `path` and rename it there: a file with the final name is whole. Mode 0600.

    Raises:
        CaptureError: it cannot be written there, or is too large to be opened again; nothing is left behind.
    """
    final = _writable(path)
    try:
        with wholefile.replacing(final) as file:
            _write(capture, file)
    except CheckError as error:
        raise CaptureError(f"cannot save the capture: {error}", way_out="report this as an error of culpa") from error
    except (OSError, zipfile.LargeZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CaptureError(
            f"cannot save the capture to {printable(str(path))}: {reason}",
            way_out="name another file with -o, on a disk with space that you may write to",
        ) from error


def open_capture(path: Path) -> Capture:
    """Read a capture that may be damaged or made to do harm.

    Columns that an older culpa did not write become null; columns and tables that this one does not know are ignored.
    Rows that cannot be true are left out and become a blind spot.

    Raises:
        CaptureError: it is not a capture, or not a sound one; one sentence.
    """
    shown = printable(str(path))
    try:
        with open_regular(path) as file, open_archive(file) as archive:
            return _read(archive, os.fstat(file.fileno()).st_size)
    except Refused as error:
        raise CaptureError(f"cannot read the capture {shown}: {error}", way_out=error.way_out) from error
    except (ParquetError, CheckError) as error:
        raise _damaged(shown, str(error)) from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, pl.exceptions.PolarsError) as error:
        raise _damaged(shown, "its contents do not fit together") from error
    except pl.exceptions.PanicException as error:
        raise _damaged(shown, "its tables cannot be decoded") from error
    except MemoryError as error:
        raise CaptureError(f"cannot read the capture {shown}: not enough memory") from error
    except OSError as error:
        raise CaptureError(f"cannot read {shown}: {error.strerror or error}") from error


def looks_like_capture(path: Path) -> bool:
    """Whether a regular file begins as captures do; says nothing about the rest of it."""
    try:
        with open_regular(path) as file:
            return begins_as_capture(file)
    except (OSError, Refused):
        return False


def _damaged(shown: str, what: str) -> CaptureError:
    return CaptureError(f"the capture {shown} is damaged: {what}", way_out="record it again, or copy it again")


# --- writing


def _writable(path: Path) -> Path:
    """The real file behind `path`; a device, folder or pipe is never replaced by a capture."""
    final = Path(os.path.realpath(path))
    if os.path.lexists(final) and not final.is_file():
        raise CaptureError(
            f"cannot save the capture to {printable(str(path))}: it is not an ordinary file",
            way_out="name a file with -o",
        )
    return final


def _write(capture: Capture, file: BinaryIO) -> None:
    check_manifest(capture.manifest)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        archive.writestr(_member(MANIFEST_NAME), encode_json(capture.manifest, indent=1))
        decoded, text_budget = 0, MAX_DECODED_BYTES
        for name, frame in sorted(capture.tables.items()):
            stored, text_bytes = _stored(BY_NAME[name], frame)
            text_budget = spent(BY_NAME[name], text_budget, text_bytes)
            content = _parquet(stored)
            del stored
            claim = measure(content)
            decoded += claim.decoded_bytes
            if claim.rows > MAX_ROWS or decoded > MAX_DECODED_BYTES:
                raise CaptureError(
                    f"the capture is too large to save ({format_count(claim.rows)} rows of {name})",
                    way_out="watch for a shorter time with --for",
                )
            archive.writestr(_member(f"{name}.parquet"), content)


def _stored(table: Table, frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The declared columns as they stand in a file, overlong texts cut, and nothing that opening would refuse; the
    bytes of the texts.
    """
    columns, text_bytes = [], 0
    for column in table.columns:
        values = frame[column.name].cast(column.stored) if column.name in frame.columns else _nulls(column, len(frame))
        values = shortened(values)
        text_bytes += check_column(table, column, values)
        columns.append(values)
    return pl.DataFrame(columns), text_bytes


def _nulls(column: Column, count: int) -> pl.Series:
    return pl.Series(column.name, [None], dtype=column.stored).new_from_index(0, count)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _FIXED_TIME)
    info.external_attr = 0o600 << 16
    return info


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=3, statistics=False)
    return buffer.getvalue()


# --- reading


def _read(archive: zipfile.ZipFile, file_bytes: int) -> Capture:
    members = archive_members(archive, file_bytes)
    manifest = _manifest(archive.read(members.pop(MANIFEST_NAME)))
    budget = min(MAX_DECODED_BYTES, FREE_DECODED_BYTES + MAX_EXPANSION * file_bytes)
    tables: dict[str, pl.DataFrame] = {}
    spots = manifest.blind_spots
    for name, info in sorted(members.items()):
        table = BY_NAME.get(name)
        if table is None:
            continue
        content = archive.read(info)
        claim = measure(content)
        budget -= claim.decoded_bytes
        if claim.rows > MAX_ROWS or budget < 0:
            raise ParquetError(f"the table {name} would take far more memory than a capture of this size does")
        found, text_bytes = _table(table, content)
        budget = spent(table, budget, text_bytes)
        tables[name], spot = sound_rows(table, found)
        spots += () if spot is None else (spot,)
    return Capture(manifest=msgspec.structs.replace(manifest, blind_spots=spots), tables=tables)


def _manifest(content: bytes) -> Manifest:
    try:
        schema = msgspec.json.decode(content, type=_SchemaOnly).schema
        match = _SCHEMA_NUMBER.fullmatch(schema)
        if match is None:
            raise CheckError("its schema is not one of culpa's")
        if int(match[1]) > int(SCHEMA.rpartition("/")[2]):
            raise Refused(f"it was made by a newer culpa ({schema}, this one reads {SCHEMA})", "upgrade culpa")
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CheckError("its manifest does not hold what it must") from error
    check_manifest(manifest)
    return manifest


def _table(table: Table, content: bytes) -> tuple[pl.DataFrame, int]:
    """The table with the declared columns in the declared order, missing ones null; the bytes of its texts.

    Column by column: as text a word takes many times the memory that it takes afterwards. A word that this culpa does
    not know becomes null.
    """
    with _native_messages_muted():
        found = pl.read_parquet_schema(io.BytesIO(content))
        for column in table.columns:
            if column.name in found and found[column.name] != column.stored:
                raise CheckError(f"the column {table.name}.{column.name} has another type than it must have")
        known = [column for column in table.columns if column.name in found]
        columns, text_bytes = {}, 0
        for column in known:
            values = _decode(content, column.name)
            text_bytes += check_column(table, column, values)
            columns[column.name] = values.cast(column.dtype, strict=False) if column.is_text else values
    height = len(next(iter(columns.values()), ()))
    return pl.DataFrame(
        [columns[c.name] if c.name in columns else _nulls(c, height).cast(c.dtype) for c in table.columns]
    ), text_bytes


def _decode(content: bytes, name: str) -> pl.Series:
    frame = pl.read_parquet(io.BytesIO(content), columns=[name], use_statistics=False, glob=False)
    return frame.get_column(name)


@contextlib.contextmanager
def _native_messages_muted() -> Iterator[None]:
    """Keep stderr still: where a page was forged, polars' threads print a backtrace of their own before they fail."""
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
