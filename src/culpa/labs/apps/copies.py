"""Writes large files into a folder, again and again, as fast as it may: `copies.py FOLDER THREADS MEGABYTES`.

It says `ready` once each thread has written its first one.
"""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path
from threading import Barrier, Thread

MEGABYTE = 1 << 20
FILES = 2


def copy(folder: Path, name: str, megabytes: int, under_way: Barrier) -> None:
    """Write until stopped; one of the threads."""
    write(folder / f"{name}-0", megabytes)
    under_way.wait()
    for number in cycle(range(FILES)):
        write(folder / f"{name}-{number}", megabytes)


def write(file: Path, megabytes: int) -> None:
    """One file."""
    piece = bytes(MEGABYTE)
    with file.open("wb", buffering=0) as out:
        for _ in range(megabytes):
            out.write(piece)


def main() -> None:
    """Start the threads; they never end."""
    folder, threads, megabytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    under_way = Barrier(threads + 1)
    for number in range(threads):
        Thread(target=copy, args=(folder, f"copy-{number}", megabytes, under_way)).start()
    under_way.wait()
    print("ready", flush=True)


if __name__ == "__main__":
    main()
