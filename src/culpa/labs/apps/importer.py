"""Imports tables side by side: `importer.py DIRECTORY TABLES PAUSE-MS SEED`. Each thread overwrites rows of a table of
its own, syncs after each, and rests.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path

ROW_BYTES = 4096
ROWS = 64


def import_into(table: Path, pause_s: float, seed: int) -> None:
    """Write until stopped; the table has its full size from the beginning, so that a sync needs no journal."""
    chance = random.Random(seed)  # noqa: S311 - an order of rows
    descriptor = os.open(table, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, bytes(ROWS * ROW_BYTES))
    os.fsync(descriptor)
    while True:
        os.pwrite(descriptor, chance.randbytes(ROW_BYTES), chance.randrange(ROWS) * ROW_BYTES)
        os.fdatasync(descriptor)
        time.sleep(pause_s)


def main() -> None:
    """One thread a table."""
    directory, tables, pause_s, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) / 1000, int(sys.argv[4])
    threads = [
        threading.Thread(target=import_into, args=(directory / f"table-{number}", pause_s, seed + number))
        for number in range(tables)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
