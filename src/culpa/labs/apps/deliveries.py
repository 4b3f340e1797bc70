"""Deliveries that are safe on disk one by one: `deliveries.py FOLDER EVERY-MS`. Each is a new file, synced at once; of
the last fifty one after the other is taken away again.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

KEPT = 50


def main() -> None:
    """Deliver until stopped."""
    folder, every_s = Path(sys.argv[1]), int(sys.argv[2]) / 1000
    for number in itertools.count():
        file = folder / f"delivery-{number}"
        with file.open("wb", buffering=0) as out:
            out.write(b"from far away\n")
            os.fsync(out.fileno())
        (folder / f"delivery-{number - KEPT}").unlink(missing_ok=True)
        time.sleep(every_s)


if __name__ == "__main__":
    main()
