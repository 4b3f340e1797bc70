"""What culpa set and has yet to put back: one file a fix, on disk before the change is made, and closed after the undo.

    fN.open      in place, or about to be
    fN.closed    taken back, lost with its target, or never made: the history, of which the newest are kept
    fN.backup    of an open one: the former bytes of the configuration file that keeps it
    targets      locked in parts: one culpa at a time per target, as long as it lives

They lie in a directory that only this user can write to, and hold no password, but for what stands in a backup. A file
is believed as far as the catalogue goes: it names a target and its former values, never a command to run. Unlike the
records of `culpa redis` (`collect/undo.py`) these outlive the culpa that made them on purpose.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import structs

from culpa.errors import CulpaError
from culpa.fix.catalogue import GROUP_FILES, names_of
from culpa.fix.hands import Identity
from culpa.fix.lasting import LONGEST, LastingFile, digest, is_fitting
from culpa.fix.parameters import GroupSetting, KernelSetting, Parameters, ProcessSetting, State, check_target
from culpa.fix.values import can_be_noted
from culpa.privatedir import opened
from culpa.units import printable

SCHEMA: Final = "culpa.fix-record/1"
DIRECTORY: Final = "fixes"
LIMIT_BYTES: Final = 1 << 20
"""A record of 4096 threads has some 300 kB."""
MOST_FILES: Final = 2000
KEPT: Final = 200
"""Closed records; older ones are removed when one is closed."""
DRAFT_SECONDS: Final = 3600.0
"""A draft of that age has no living writer."""
_LOCKS: Final = "targets"
_NAME: Final = re.compile(r"f([1-9][0-9]{0,6})\.(open|closed)")
_THREAD: Final = re.compile(r"[1-9][0-9]{0,9}@[1-9][0-9]{0,18}")

Outcome = Literal["undone", "as-before", "gone", "kept", "refused"]
"""How a record ended: put back; found as it was before; lost with its target; kept on purpose; never applied."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fix that was applied, or was about to be. `before` and `during`: what was read, and what was set; `file`: the
    configuration file that keeps it.
    """

    schema: Literal["culpa.fix-record/1"] = SCHEMA
    id: str
    fix: str
    cause: str
    parameters: Parameters
    identity: Identity
    before: State
    during: State
    at_unix: float
    file: LastingFile | None = None
    outcome: Outcome | None = None
    closed_unix: float | None = None
    note: str = ""

    @property
    def key(self) -> str:
        """Of its target: one culpa at a time has it."""
        return key_of(self.parameters, self.identity)

    @property
    def number(self) -> int:
        """The order in which records were written."""
        return int(self.id[1:])


def key_of(parameters: Parameters, identity: Identity) -> str:
    """What is locked: a server, the kernel, a process, a control group."""
    if isinstance(parameters, KernelSetting):
        return "kernel"
    if isinstance(parameters, ProcessSetting):
        return f"process {parameters.pid} {identity.starttime}"
    if isinstance(parameters, GroupSetting):
        return f"group {identity.inode}"
    return f"redis {identity.run_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The records there are, oldest first, and a sentence for each file that is not believed."""

    open: tuple[Record, ...]
    closed: tuple[Record, ...]
    strange: tuple[str, ...]


class Journal:
    """The records of this user, below a state directory."""

    def __init__(self, state: Path) -> None:
        self.directory = state / DIRECTORY

    def found(self) -> Found:
        """Read them all; none where none was ever written.

        Raises:
            CulpaError: the directory is a link, or others can write there.
        """
        try:
            with self._opened() as inside:
                names = sorted(os.listdir(inside))  # noqa: PTH208  # of this descriptor, not of a path
                if len(names) > MOST_FILES:
                    raise CulpaError(
                        f"{self.directory} holds more than {MOST_FILES} files", way_out="see who fills it, and clear it"
                    )
                read = [(name, self._read(inside, name)) for name in names if _NAME.fullmatch(name)]
        except FileNotFoundError:
            return Found(open=(), closed=(), strange=())
        except OSError as error:
            raise self._unusable(error) from error
        closed = {one.id: one for name, one in read if isinstance(one, Record) and name.endswith(".closed")}
        live = [
            one for name, one in read if isinstance(one, Record) and name.endswith(".open") and one.id not in closed
        ]  # fmt: skip
        return Found(
            open=tuple(sorted(live, key=lambda one: one.number)),
            closed=tuple(sorted(closed.values(), key=lambda one: one.number)),
            strange=tuple(one for _, one in read if isinstance(one, str)),
        )

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Have a target alone; the lock ends with the process, however that ends.

        Raises:
            CulpaError: another culpa has it, or the directory cannot be used.
        """
        try:
            self._make()
            with self._opened() as inside:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                descriptor = os.open(_LOCKS, flags, 0o600, dir_fd=inside)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise self._unusable(error) from error
                raise CulpaError("another culpa is at work on it", way_out="wait until that one has ended") from error
            yield
        finally:
            os.close(descriptor)

    def create(self, record: Record) -> Record:
        """Put it on disk as open, under the next free id; when this returns it is there.

        Raises:
            CulpaError: that is not possible. Nothing was changed.
        """
        try:
            with self._opened() as inside:
                taken = [match for name in os.listdir(inside) if (match := _NAME.fullmatch(name))]  # noqa: PTH208
                number = max((int(match[1]) for match in taken), default=0) + 1
                while not self._linked(inside, structs.replace(record, id=f"f{number}")):
                    number += 1
        except OSError as error:
            raise self._unusable(error) from error
        return structs.replace(record, id=f"f{number}")

    def keep(self, record: Record, content: bytes) -> None:
        """Put the former bytes of its file beside the record; when this returns they are there.

        Raises:
            CulpaError: that is not possible.
        """
        try:
            with self._opened() as inside:
                _write(inside, f"{record.id}.backup", content)
                os.fsync(inside)
        except OSError as error:
            raise self._unusable(error) from error

    def kept(self, record: Record) -> bytes:
        """These bytes.

        Raises:
            CulpaError: they are not there, or not those that the record names.
        """
        try:
            with self._opened() as inside:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with os.fdopen(os.open(f"{record.id}.backup", flags, dir_fd=inside), "rb") as file:
                    content = file.read(LONGEST + 1)
        except OSError as error:
            what = f"{self.directory / record.id}.backup cannot be read: {(error.strerror or str(error)).lower()}"
            raise CulpaError(what) from error
        if record.file is None or digest(content) != record.file.before:
            raise CulpaError(f"{self.directory / record.id}.backup is not what was saved")
        return content

    def amend(self, record: Record) -> None:
        """Replace an open record by what is known now.

        Raises:
            CulpaError: that is not possible; the former one stays.
        """
        try:
            with self._opened() as inside:
                os.rename(self._draft(inside, record), f"{record.id}.open", src_dir_fd=inside, dst_dir_fd=inside)
                os.fsync(inside)
        except OSError as error:
            raise self._unusable(error) from error

    def close(self, record: Record, outcome: Outcome, note: str) -> str:
        """Take it from the open ones to the history.

        Returns:
            A sentence if it is gone from the open ones but could not be kept in the history; else nothing.

        Raises:
            CulpaError: it cannot be removed either.
        """
        ended = structs.replace(record, outcome=outcome, closed_unix=time.time(), note=printable(note, 500))
        told = ""
        try:
            with self._opened() as inside:
                try:
                    draft = self._draft(inside, ended)
                    os.rename(draft, f"{record.id}.closed", src_dir_fd=inside, dst_dir_fd=inside)
                    os.fsync(inside)
                except OSError as error:
                    told = f"the history has no room for it: {(error.strerror or str(error)).lower()}"
                for name in (f"{record.id}.open", f"{record.id}.backup"):
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=inside)
                os.fsync(inside)
                _tidy(inside)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            what = f"the record {record.id} stays in {self.directory}, though it is done with: {why}"
            raise CulpaError(what, way_out="run culpa fix --undo again once that directory can be written") from error
        return told

    def _linked(self, inside: int, record: Record) -> bool:
        """Whether the name was free."""
        draft = self._draft(inside, record)
        try:
            os.link(draft, f"{record.id}.open", src_dir_fd=inside, dst_dir_fd=inside, follow_symlinks=False)
            os.fsync(inside)
        except FileExistsError:
            return False
        finally:
            os.unlink(draft, dir_fd=inside)
        return True

    def _draft(self, inside: int, record: Record) -> str:
        """The record in a file that stands for nothing yet."""
        name = f".{record.id}.{os.getpid()}"
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=inside)  # of a process that had this number before
        _write(inside, name, msgspec.json.encode(record))
        return name

    def _read(self, inside: int, name: str) -> Record | str:
        """A record, or why the file is not believed."""
        strange = f"{self.directory / name} is not believed"
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=inside)
        except OSError as error:
            return f"{strange}: {'it is a link' if error.errno == errno.ELOOP else (error.strerror or '').lower()}"
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return f"{strange}: it is no file of this user alone"
            if status.st_size > LIMIT_BYTES:
                return f"{strange}: it is larger than any record"
            text = os.read(descriptor, LIMIT_BYTES)
        finally:
            os.close(descriptor)
        try:
            record = msgspec.json.decode(text, type=Record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return f"{strange}: {printable(str(error), 120)}"
        why = _doubt(record, name)
        return record if why is None else f"{strange}: {why}"

    def _make(self) -> None:
        self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with opened(self.directory.parent) as state, suppress(FileExistsError):
            os.mkdir(DIRECTORY, 0o700, dir_fd=state)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with opened(self.directory.parent) as state, opened(Path(DIRECTORY), within=state) as inside:
            yield inside

    def _unusable(self, error: OSError) -> CulpaError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            way_out = "make room on that disk, or raise the limit"
        else:
            way_out = "make that directory this user's own, no link, and writable by nobody else"
        why = (error.strerror or str(error)).lower()
        return CulpaError(f"fixes cannot be noted in {self.directory}: {why}; nothing was changed", way_out=way_out)


def _write(inside: int, name: str, content: bytes) -> None:
    """A new file of this user alone, on disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=inside)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except BaseException:
        os.unlink(name, dir_fd=inside)
        raise
    finally:
        os.close(descriptor)


def _doubt(record: Record, name: str) -> str | None:
    """Why a record cannot be one of culpa's; None: it can."""
    if f"{record.id}.{'open' if record.outcome is None else 'closed'}" != name:
        return "its name is another one's"
    if not record.before or not all(can_be_noted(text) for text in (*record.before.values(), *record.during.values())):
        return "it names values that culpa does not note"
    try:
        check_target(record.parameters)
    except CulpaError as error:
        return error.what
    if record.file is not None and not is_fitting(record.file, record.parameters):
        return "it names a file that culpa does not write"
    if isinstance(record.parameters, ProcessSetting):
        known = names_of("cpus") | names_of("io") | names_of("nice")
        fitting = all(_THREAD.fullmatch(name) for name in (*record.before, *record.during))
    elif isinstance(record.parameters, GroupSetting):
        known = names_of("group")
        fitting = {*record.before, *record.during} <= GROUP_FILES
    else:
        known = names_of("kernel" if isinstance(record.parameters, KernelSetting) else "redis")
        fitting = {*record.before, *record.during} <= known
    return None if fitting and record.parameters.setting in known else "it names settings that culpa does not change"


def _tidy(inside: int) -> None:
    """Remove drafts of the dead, open records that a killed culpa had closed already, and the oldest of the history."""
    names = os.listdir(inside)  # of this descriptor, not of a path
    closed = sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)) and match[2] == "closed")
    unwanted = [f"f{number}.closed" for number in closed[:-KEPT]] + [f"f{number}.open" for number in closed]
    old = time.time() - DRAFT_SECONDS
    unwanted += [
        name for name in names
        if name.startswith(".f") and os.stat(name, dir_fd=inside, follow_symlinks=False).st_mtime < old
    ]  # fmt: skip
    for name in set(unwanted) & set(names):
        os.unlink(name, dir_fd=inside)
