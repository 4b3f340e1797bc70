"""The ledger of a run: what it is about to make, written before it is made, so that the next run can undo it.

One JSON object a line. A killed writer leaves at most a torn last line, which is ignored.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from culpa.errors import LabError

LIMIT_BYTES = 1 << 20


class Run(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """First line: the run's name, which is also the value of its marker and the name of its directory."""

    name: str


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="process"):
    """A program; `starttime` is field 22 of /proc/PID/stat."""

    pid: int
    starttime: int


class Loop(msgspec.Struct, frozen=True, kw_only=True, tag="loop"):
    """A loop device over `backing`, an image of the run or another of its loop devices."""

    backing: str


class Mount(msgspec.Struct, frozen=True, kw_only=True, tag="mount"):
    """A mount point inside the run's directory."""

    path: str


class Throttle(msgspec.Struct, frozen=True, kw_only=True, tag="throttle"):
    """A limit on a device (`major:minor`) in the control file of a cgroup."""

    control: str
    device: str


class DirtyBound(msgspec.Struct, frozen=True, kw_only=True, tag="dirty-bound"):
    """A bound on the dirty pages of a device (`major:minor`), a loop device of the run."""

    device: str


class Cgroup(msgspec.Struct, frozen=True, kw_only=True, tag="cgroup"):
    """A control group (v2) made by the run."""

    path: str


class Controllers(msgspec.Struct, frozen=True, kw_only=True, tag="controllers"):
    """Controllers that the run switched on for the children of a cgroup (v2)."""

    path: str
    names: tuple[str, ...]


class Interface(msgspec.Struct, frozen=True, kw_only=True, tag="interface"):
    """A virtual network interface of the namespace that labs run in."""

    name: str


class Fix(msgspec.Struct, frozen=True, kw_only=True, tag="fix"):
    """A fix that `culpa fix` is about to apply to something of the run, not before `at_unix`."""

    fix: str
    target: str
    at_unix: float


Entry = Run | Started | Loop | Mount | Throttle | DirtyBound | Cgroup | Controllers | Interface | Fix
_LINE = msgspec.json.Decoder(Entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """An open ledger; `note` appends one line and is seen by any later reader, also after SIGKILL."""

    path: Path
    descriptor: int

    def note(self, entry: Entry) -> None:
        """Append one entry."""
        os.write(self.descriptor, msgspec.json.encode(entry) + b"\n")

    def close(self) -> None:
        """End writing; the file stays until whoever has undone everything removes it."""
        os.close(self.descriptor)


def create(path: Path) -> Ledger:
    """Begin a new ledger; the caller holds the lab lock and has removed the last one.

    Raises:
        LabError: the file cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return Ledger(path=path, descriptor=os.open(path, flags, 0o600))
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror}", way_out="remove it or free space") from error


def read(path: Path) -> tuple[Entry, ...]:
    """The entries of the ledger a killed run left; none if there is no such file or it is not this user's own."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ()
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_uid != os.geteuid():
            return ()
        return tuple(entry for line in file.read(LIMIT_BYTES).splitlines() if (entry := _entry(line)) is not None)


def discard(path: Path) -> None:
    """Remove the ledger: everything in it is undone. Somebody else's file in a sticky directory stays."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        path.unlink()


def _entry(line: bytes) -> Entry | None:
    try:
        entry: Entry = _LINE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return entry
