"""Writes files in one of several ways, and says what it wrote: `writer_child.py WAY FOLDER SEED SECONDS`.

Says `ready`, waits for a line, writes for that long with random sizes, never syncs, and says one line of JSON: a list
of [device, inode, bytes], once for each file that it left or deleted.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PAGE: Final = mmap.PAGESIZE
SHARED_BYTES: Final = 64 << 20
MAPPED_BYTES: Final = 16 << 20
PAUSE_SECONDS: Final = 0.003
"""Between two writes, so that eight of them leave the machine room to flush."""

Said = dict[tuple[int, int], int]


def main() -> None:
    """One writer."""
    way, folder, seed, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    draw = random.Random(seed)  # noqa: S311  # the same sizes for the same seed
    said = defaultdict[tuple[int, int], int](int)
    print("ready", flush=True)
    sys.stdin.readline()
    WAYS[way](folder, draw, said, _until(seconds))
    print(json.dumps([[dev, ino, size] for (dev, ino), size in said.items()]), flush=True)
    sys.stdin.readline()


def _until(seconds: float) -> Iterator[int]:
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        yield number
        number += 1
        time.sleep(PAUSE_SECONDS)


def _note(said: Said, fd: int, size: int) -> None:
    stat = os.fstat(fd)
    said[stat.st_dev, stat.st_ino] += size


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    fd = os.open(path, os.O_CREAT | os.O_RDWR | flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def large(folder: Path, draw: random.Random, said: Said, turns: Iterator[int]) -> None:
    """One file, whole pages one after the other."""
    with _opened(folder / f"large-{os.getpid()}") as fd:
        for _ in turns:
            _note(said, fd, os.write(fd, draw.randbytes(PAGE * draw.randint(1, 64))))


def small(folder: Path, draw: random.Random, said: Said, turns: Iterator[int]) -> None:
    """Many files of up to eight pages, the last one not full."""
    for number in turns:
        with _opened(folder / f"small-{os.getpid()}-{number}") as fd:
            size = os.write(fd, draw.randbytes(draw.randint(1, 8 * PAGE)))
            _note(said, fd, -(-size // PAGE) * PAGE)


def deleted(folder: Path, draw: random.Random, said: Said, turns: Iterator[int]) -> None:
    """Files of which each second one is deleted at once, and the others a hundred turns later."""
    for number in turns:
        path = folder / f"deleted-{os.getpid()}-{number}"
        with _opened(path) as fd:
            _note(said, fd, os.write(fd, draw.randbytes(PAGE * draw.randint(1, 32))))
        if number % 2:
            path.unlink()
        elif number >= 100:
            (folder / f"deleted-{os.getpid()}-{number - 100}").unlink()


def shared(folder: Path, draw: random.Random, said: Said, turns: Iterator[int]) -> None:
    """Random places of a file that another process writes as well, each its own half of every 128 pages."""
    half = int(sys.argv[3]) % 2
    with _opened(folder / "shared") as fd:
        for _ in turns:
            block = draw.randrange(SHARED_BYTES // PAGE // 128)
            pages = draw.randint(1, 64)
            _note(said, fd, os.pwrite(fd, draw.randbytes(PAGE * pages), PAGE * (128 * block + 64 * half)))


def mapped(folder: Path, draw: random.Random, said: Said, turns: Iterator[int]) -> None:
    """Pages of a mapped file, without a system call."""
    with _opened(folder / f"mapped-{os.getpid()}") as fd:
        os.posix_fallocate(fd, 0, MAPPED_BYTES)
        with mmap.mmap(fd, MAPPED_BYTES) as memory:
            for _ in turns:
                for page in draw.sample(range(MAPPED_BYTES // PAGE), draw.randint(1, 8)):
                    memory[page * PAGE : page * PAGE + 8] = draw.randbytes(8)
                    _note(said, fd, PAGE)


def appended(folder: Path, draw: random.Random, said: Said, turns: Iterator[int]) -> None:
    """A log: short lines at the end of a file."""
    with _opened(folder / f"log-{os.getpid()}", os.O_APPEND) as fd:
        for _ in turns:
            for _ in range(20):
                _note(said, fd, os.write(fd, draw.randbytes(draw.randint(100, 1500))))


WAYS: Final[dict[str, Callable[[Path, random.Random, Said, Iterator[int]], None]]] = {
    way.__name__: way for way in (large, small, deleted, shared, mapped, appended)
}

if __name__ == "__main__":
    main()
