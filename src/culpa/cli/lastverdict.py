"""The last verdict on something of this host, kept for `culpa fix`.

It can always be made anew, so it lies where caches are: of root in /var/cache/culpa, else in the user's own. Where it
cannot be kept, nobody is told before somebody asks for it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from culpa.errors import CulpaError
from culpa.privatedir import opened

ROOTS_CACHE: Final = Path("/var/cache/culpa")
NAME: Final = "last-verdict.json"
LIMIT_BYTES: Final = 16 << 20
_NONE: Final = "there is no verdict to take a fix from"
_WAY_OUT: Final = "run culpa why or culpa redis first, or name a verdict or capture with --from FILE"


def cache_directory() -> Path | None:
    """Where this user's is; None where the environment names no place."""
    if os.geteuid() == 0:
        return ROOTS_CACHE
    cache, home = (Path(os.environ.get(name, "")) for name in ("XDG_CACHE_HOME", "HOME"))
    if cache.is_absolute():
        return cache / "culpa"
    return home / ".cache" / "culpa" if home.is_absolute() else None


def keep(text: str) -> None:
    """Put it in the place of the one before, whole or not at all."""
    directory = cache_directory()
    if directory is None or len(text) > LIMIT_BYTES:
        return
    draft = f".{NAME}.{os.getpid()}"
    with suppress(OSError):  # a verdict is worth more than its copy
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with opened(directory) as inside:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(draft, flags, 0o600, dir_fd=inside), "w", encoding="utf-8") as file:
                    file.write(text)
                os.rename(draft, NAME, src_dir_fd=inside, dst_dir_fd=inside)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=inside)
                raise


def last() -> bytes:
    """What was kept.

    Raises:
        CulpaError: nothing was, or others can write there.
    """
    directory = cache_directory()
    if directory is None:
        raise CulpaError(_NONE, way_out=_WAY_OUT)
    try:
        with opened(directory) as inside:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(NAME, flags, dir_fd=inside), "rb") as file:
                return read_bounded(file)
    except FileNotFoundError as error:
        raise CulpaError(_NONE, way_out=_WAY_OUT) from error
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise CulpaError(f"the last verdict in {directory} cannot be used: {why}", way_out=_WAY_OUT) from error


def read_bounded(file: BinaryIO) -> bytes:
    """A regular file of bounded size.

    Raises:
        OSError: it is another kind of file, or too large.
    """
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size > LIMIT_BYTES:
        raise OSError(0, f"it is no file of at most {LIMIT_BYTES >> 20} MiB")
    return file.read(LIMIT_BYTES)
