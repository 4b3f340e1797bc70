"""Copies of one block, written past the page cache: `copier.py FILE`. It fills a file, and then writes it anew."""

from __future__ import annotations

import mmap
import os
import sys

BLOCK_BYTES = 1 << 20
BLOCKS = 64


def main() -> None:
    """Write until stopped."""
    block = mmap.mmap(-1, BLOCK_BYTES)  # aligned to a page, as direct I/O wants it
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    while True:
        for number in range(BLOCKS):
            os.pwrite(descriptor, block, number * BLOCK_BYTES)


if __name__ == "__main__":
    main()
