"""What culpa changed outside of itself and has yet to put back: one file a change, on disk before the change is made.

A file is locked as long as the culpa that made it lives, so one that is not is what a killed run left. It lies where
only root can write, or else in the user's own state directory, and holds no password. A file can name a setting of a
server and its former value, never a command to run.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from culpa.errors import CulpaError
from culpa.privatedir import opened
from culpa.units import printable

ROOTS_STATE: Final = Path("/var/lib/culpa")
LIMIT_BYTES: Final = 1 << 16
MOST_RECORDS: Final = 64
_RUN_ID: Final = re.compile(r"[0-9a-f]{40}")
_SUFFIX: Final = ".undo"


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A setting of a Redis server that culpa changed for a while, and the server's own name for its process."""

    run_id: str
    setting: Literal["latency-monitor-threshold"]
    before: str
    during: str
    at_unix: float
    host: str = ""
    port: int = 0
    path: str | None = None
    tls: bool = False

    @property
    def server(self) -> str:
        """Its address, as it may be printed."""
        return printable(f"unix:{self.path}" if self.path else f"{self.host}:{self.port}")

    @property
    def sentence(self) -> str:
        """What is still to be put back."""
        return f"{self.setting} of {self.server} is to be {printable(self.before, 40)} again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A change that stands on disk, held by this process until `discard` or `leave`."""

    change: Change
    directory: Path
    name: str
    descriptor: int

    @property
    def path(self) -> Path:
        """Its file."""
        return self.directory / self.name

    def discard(self) -> None:
        """The change was undone, or never made."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        os.close(self.descriptor)

    def leave(self) -> None:
        """The change stands; the next run may try."""
        os.close(self.descriptor)


def state_directory() -> Path:
    """Where this user's records are."""
    if os.geteuid() == 0:
        return ROOTS_STATE
    state, home = (Path(os.environ.get(name, "")) for name in ("XDG_STATE_HOME", "HOME"))
    if state.is_absolute():
        return state / "culpa"
    if home.is_absolute():
        return home / ".local" / "state" / "culpa"
    return Path(f"/var/tmp/culpa-{os.geteuid()}")  # noqa: S108  # whose it is, is looked at before it is used


def write(change: Change, directory: Path) -> Record:
    """Put a change on disk, before it is made.

    Raises:
        CulpaError: that is not possible, or another culpa that lives has changed the same server.
    """
    if not _RUN_ID.fullmatch(change.run_id):
        raise CulpaError("the server has no run id", way_out="ask the server itself, not a proxy of it")
    name = f"redis-{change.run_id}{_SUFFIX}"
    draft = f".{name}.{os.getpid()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with opened(directory) as inside:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(draft, flags, 0o600, dir_fd=inside)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                os.write(descriptor, msgspec.json.encode(change))
                os.fsync(descriptor)
                os.link(draft, name, src_dir_fd=inside, dst_dir_fd=inside, follow_symlinks=False)
                os.fsync(inside)
            except FileExistsError as error:
                os.close(descriptor)
                raise CulpaError("another culpa has changed it", way_out="wait until that one has ended") from error
            except BaseException:
                os.close(descriptor)
                raise
            finally:
                os.unlink(draft, dir_fd=inside)
    except OSError as error:
        what = f"what is to be undone cannot be noted in {directory}: {(error.strerror or str(error)).lower()}"
        raise CulpaError(what, way_out="make that directory this user's own, and writable") from error
    return Record(change=change, directory=directory, name=name, descriptor=descriptor)


def left(directory: Path) -> Iterator[Record]:
    """Records of runs that are dead, each held by this process until it is discarded or left.

    None where the directory is not this user's own. Drafts stand for no change: they are removed.
    """
    try:
        with opened(directory) as inside:
            names = sorted(os.listdir(inside))[:MOST_RECORDS]  # noqa: PTH208  # of this descriptor, not of a path
    except OSError:
        return
    for name in names:
        record = _taken(directory, name) if _SUFFIX in name else None
        if record is not None:
            yield record


def _taken(directory: Path, name: str) -> Record | None:
    """A record whose maker is dead, locked; None where it lives, or there is none."""
    try:
        with opened(directory) as inside:
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=inside)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink
        text = os.read(descriptor, LIMIT_BYTES) if ours else b""
    except OSError:
        os.close(descriptor)
        return None
    if not ours:
        os.close(descriptor)
        return None
    change = None
    if name.startswith("."):  # its maker was killed before anything was changed
        with suppress(FileNotFoundError):
            (directory / name).unlink()
    else:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # of another version: not for this one to judge
            change = msgspec.json.decode(text, type=Change)
    if change is None:
        os.close(descriptor)
        return None
    return Record(change=change, directory=directory, name=name, descriptor=descriptor)
