"""A diary that is safe on disk line by line: `diary.py FILE EVERY-MS`. It writes a line, syncs it, and rests."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Write until stopped."""
    with Path(sys.argv[1]).open("a", encoding="utf-8") as diary:
        while True:
            diary.write(f"{time.time():.3f} all is well\n")
            diary.flush()
            os.fsync(diary.fileno())
            time.sleep(int(sys.argv[2]) / 1000)


if __name__ == "__main__":
    main()
