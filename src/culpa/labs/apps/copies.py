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
    """Write until stopped; one of the threads. Files are written over: what is emptied need not be written any more."""
    files = [folder / f"{name}-{number}" for number in range(FILES)]
    for file in files:
        file.touch()
    write(files[0], megabytes)
    under_way.wait()
    for file in cycle(files):
        write(file, megabytes)


def write(file: Path, megabytes: int) -> None:
    """One file."""
    piece = bytes(MEGABYTE)
    with file.open("r+b", buffering=0) as out:
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
