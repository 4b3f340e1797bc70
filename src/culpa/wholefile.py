"""Files that are there whole or not at all: written beside their place, and renamed into it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LONGEST_NAME = 100


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, of mode 0600, that takes the place of `path` once the block has ended.

    It and the folder's entry are on the disk then; where the block raises, all is as it was.

    Raises:
        OSError: it cannot be written, or not be put there.
    """
    draft = path.with_name(f".{path.name[:LONGEST_NAME]}.{secrets.token_hex(6)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
