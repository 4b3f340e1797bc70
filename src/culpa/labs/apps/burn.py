"""A neighbour that wants CPUs: `python burn.py THREADS [CPU]`, until stopped; bound to that CPU, if any.

Its threads hash large buffers, which leaves the interpreter's lock, so that one process occupies several CPUs.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading

BUFFER = bytes(8 << 20)


def burn() -> None:
    """Hash for ever."""
    while True:
        hashlib.sha256(BUFFER).digest()


def main() -> None:
    """One thread burns here, the others beside it."""
    if len(sys.argv) > 2:
        os.sched_setaffinity(0, {int(sys.argv[2])})
    for _ in range(int(sys.argv[1]) - 1):
        threading.Thread(target=burn, daemon=True).start()
    print("ready", flush=True)
    burn()


if __name__ == "__main__":
    main()
