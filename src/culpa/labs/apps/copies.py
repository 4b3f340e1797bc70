"""Writes large files into a folder, again and again, as fast as it may: `copies.py FOLDER THREADS MEGABYTES`."""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path
from threading import Thread

MEGABYTE = 1 << 20
FILES = 2


def copy(folder: Path, name: str, megabytes: int) -> None:
    """Write until stopped; one of the threads."""
    piece = bytes(MEGABYTE)
    for number in cycle(range(FILES)):
        with (folder / f"{name}-{number}").open("wb", buffering=0) as out:
            for _ in range(megabytes):
                out.write(piece)


def main() -> None:
    """Start the threads; they never end."""
    folder, threads, megabytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for number in range(threads):
        Thread(target=copy, args=(folder, f"copy-{number}", megabytes)).start()


if __name__ == "__main__":
    main()
