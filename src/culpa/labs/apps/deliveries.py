"""Deliveries that are safe on disk: `deliveries.py FOLDER BOXES EVERY-MS`. Each puts a new file into every box, syncs
the last one, and takes away those of the delivery before.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Deliver until stopped."""
    boxes = [Path(sys.argv[1]) / f"box-{number}" for number in range(int(sys.argv[2]))]
    for box in boxes:
        box.mkdir()
    for number in itertools.count():
        for box in boxes:
            with (box / f"delivery-{number}").open("wb", buffering=0) as out:
                out.write(b"from far away\n")
                if box is boxes[-1]:
                    os.fsync(out.fileno())
            (box / f"delivery-{number - 1}").unlink(missing_ok=True)
        time.sleep(int(sys.argv[3]) / 1000)


if __name__ == "__main__":
    main()
