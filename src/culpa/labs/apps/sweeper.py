"""Takes what files in a folder hold out of the page cache, again and again: `python sweeper.py FOLDER EVERY-MS`.

Backup programs do so after each file, so as not to push out what others need, and push out just that.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def sweep(folder: Path) -> None:
    """Once over all of them."""
    for file in sorted(folder.iterdir()):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    """Sweep until stopped."""
    folder, pause = Path(sys.argv[1]), int(sys.argv[2]) / 1000
    print("ready", file=sys.stderr, flush=True)
    while True:
        sweep(folder)
        time.sleep(pause)


if __name__ == "__main__":
    main()
