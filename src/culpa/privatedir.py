"""A directory that only this user can write to, opened as itself and not through a link.

What culpa keeps for later (what is to be undone, which fixes are in place) lies in one: whoever can write there could
make culpa change something.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened(directory: Path, *, within: int | None = None) -> Iterator[int]:
    """The directory itself, no link to one, and one that only this user can write to.

    Args:
        directory: its path, or with `within` its name there.
        within: the open directory it lies in.

    Raises:
        OSError: it is not that.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(directory, flags, dir_fd=within)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(1, "others can write there")
        yield descriptor
    finally:
        os.close(descriptor)
