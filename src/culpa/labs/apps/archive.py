"""A program that files pieces away: `archive.py FOLDER KILOBYTES EVERY-MS`.

Each piece is written, and synced before the next one is begun; of the last few each takes the place of the oldest. It
says `ready` once the first is on its way. It must not import culpa: labs copy it out of the package and run it as
anybody's program.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

KEPT = 4


def main() -> None:
    """Go on until stopped."""
    folder, size, every_s = Path(sys.argv[1]), int(sys.argv[2]) * 1024, int(sys.argv[3]) / 1000
    piece = os.urandom(size)
    for number in itertools.count():
        due = time.monotonic() + every_s
        with (folder / f"piece-{number % KEPT}").open("wb") as file:
            file.write(piece)
            file.flush()
            if number == 0:
                print("ready", flush=True)
            os.fsync(file.fileno())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
