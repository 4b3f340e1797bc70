"""Copies of one block, written past the page cache: `copier.py FILE BLOCK-BYTES BLOCKS`. It fills a file, then writes
it anew, again and again.
"""

from __future__ import annotations

import mmap
import os
import sys


def main() -> None:
    """Write until stopped."""
    size, blocks = int(sys.argv[2]), int(sys.argv[3])
    block = mmap.mmap(-1, size)  # aligned to a page, as direct I/O wants it
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    while True:
        for number in range(blocks):
            os.pwrite(descriptor, block, number * size)


if __name__ == "__main__":
    main()
