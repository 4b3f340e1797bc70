"""Makes system calls at a steady rate, and counts them: `storm_child.py PER_SECOND SECONDS`.

Says `ready`, waits for a line, calls getppid(2) in portions of a few milliseconds, says how often it did.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Final

PORTION_SECONDS: Final = 0.002


def main() -> None:
    """One storm."""
    portion, portions = int(float(sys.argv[1]) * PORTION_SECONDS), int(float(sys.argv[2]) / PORTION_SECONDS)
    call = os.getppid
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.monotonic()
    for number in range(1, portions + 1):
        for _ in range(portion):
            call()
        time.sleep(max(0.0, start + number * PORTION_SECONDS - time.monotonic()))
    print(portion * portions, time.monotonic() - start, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
