"""The outside of a capture file: an ordinary file that is a small ZIP of stored parts, or it is refused.

`zipfile` reads a directory of any size into memory and inflates whatever a member says; so what the end record and the
directory claim is compared with what the file can hold first. Mirrors APPNOTE.TXT of the ZIP format, sections 4.3.7 to
4.3.16.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO, Final

from culpa.capture.checks import CheckError
from culpa.units import format_bytes

MANIFEST_NAME: Final = "manifest.json"
MAX_FILE_BYTES: Final = 1 << 30
MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_MEMBERS: Final = 64
MAX_DIRECTORY_BYTES: Final = 16 << 10

_MEMBER: Final = re.compile(r"([a-z][a-z0-9_]{0,40})\.parquet")
_END_RECORD: Final = b"PK\x05\x06"
_END_RECORD_BYTES: Final = 22
_FIRST_MEMBER: Final = re.compile(rb"PK\x03\x04.{22}\x0d\x00..manifest\.json", re.DOTALL)
_FIRST_MEMBER_BYTES: Final = 64
_ENCRYPTED_OR_STREAMED: Final = 0x1 | 0x8


class Refused(Exception):
    """The file is not opened; carries the way out."""

    def __init__(self, what: str, way_out: str = "") -> None:
        super().__init__(what)
        self.way_out = way_out


def open_regular(path: Path) -> BinaryIO:
    """Open without waiting for a writer of a pipe, and refuse everything that is not an ordinary file."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    file = os.fdopen(handle, "rb") if stat.S_ISREG(os.fstat(handle).st_mode) else None
    if file is None:
        os.close(handle)
        raise Refused("it is not an ordinary file", "name a file made by culpa record")
    return file


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """The ZIP, after its end record was checked: `zipfile` itself reads a directory of any size into memory."""
    size = os.fstat(file.fileno()).st_size
    if not begins_as_capture(file):
        raise Refused("it is not a culpa capture", "captures are made by culpa record -o FILE.culpa")
    if size > MAX_FILE_BYTES:
        raise Refused(f"it is larger than {format_bytes(MAX_FILE_BYTES)}")
    file.seek(max(size - _END_RECORD_BYTES, 0))
    end = file.read(_END_RECORD_BYTES)
    if len(end) < _END_RECORD_BYTES or end[:4] != _END_RECORD or end[-2:] != b"\0\0":
        raise Refused("it is cut off or damaged at its end", "copy it again, or record it again")
    entries, directory = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if entries > MAX_MEMBERS or directory > MAX_DIRECTORY_BYTES:
        raise Refused("it has more parts than a capture has")
    return zipfile.ZipFile(file)


def begins_as_capture(file: BinaryIO) -> bool:
    """Whether the file's first member is a capture's manifest."""
    return _FIRST_MEMBER.match(file.read(_FIRST_MEMBER_BYTES)) is not None


def members(archive: zipfile.ZipFile, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Members by table name, and the manifest; no size is believed that the file cannot hold."""
    found: dict[str, zipfile.ZipInfo] = {}
    left = file_bytes
    for info in archive.infolist():
        match = _MEMBER.fullmatch(info.filename)
        name = match[1] if match else info.filename
        if match is None and name != MANIFEST_NAME:
            raise CheckError("it holds a part that does not belong into a capture")
        if name in found:
            raise CheckError("it holds the same part twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED_OR_STREAMED:
            raise CheckError("a part of it is compressed or encrypted")
        left -= info.file_size
        if info.compress_size != info.file_size or left < 0:
            raise CheckError("the sizes of its parts contradict each other")
        found[name] = info
    if MANIFEST_NAME not in found or found[MANIFEST_NAME].file_size > MAX_MANIFEST_BYTES:
        raise CheckError("its manifest is missing or too large")
    return found
