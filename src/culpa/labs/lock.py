"""One lab at a time on a host: a lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from culpa.errors import LabError

POLL_S = 0.2


@contextmanager
def held(path: Path, *, wait_s: float, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file at `path`; it is removed again at the end.

    Raises:
        LabError: another lab still held it after `wait_s` seconds, or the file cannot be opened.
    """
    descriptor = _acquire(path, deadline=time.monotonic() + wait_s, progress=progress)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # somebody else's file in a sticky directory stays
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, *, deadline: float, progress: Callable[[str], None]) -> int:
    told = False
    while True:
        descriptor = _open(path)
        if _try_lock(descriptor) and _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)
        if time.monotonic() >= deadline:
            raise LabError("another lab is running on this host", way_out="wait until it ends")
        if not told:
            progress("waiting for another lab on this host to end")
            told = True
        time.sleep(POLL_S)


def _open(path: Path) -> int:
    """Open without following links; first without O_CREAT, which fs.protected_regular refuses on others' files."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            return os.open(path, flags | os.O_CREAT, 0o644)
    except OSError as error:
        way_out = "remove it" if error.errno == errno.ELOOP else "check its owner and mode"
        raise LabError(f"cannot open the lock file {path}: {error.strerror}", way_out=way_out) from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the locked file is the one that bears the name: its last holder may have removed it meanwhile."""
    try:
        named = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))
