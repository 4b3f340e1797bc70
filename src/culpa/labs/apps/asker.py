"""Asks one URL again and again until it is stopped, standalone: `python asker.py URL`."""

from __future__ import annotations

import sys
import time
import urllib.request

PAUSE_S = 0.001

while True:
    with urllib.request.urlopen(sys.argv[1], timeout=60) as reply:  # noqa: S310  # the lab's own URL
        reply.read()
    time.sleep(PAUSE_S)
