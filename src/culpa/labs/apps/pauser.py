"""Stops a process and lets it go on, over and over, standalone: `python pauser.py PID STOPPED-MS GOING-MS`."""

from __future__ import annotations

import os
import signal
import sys
import time

pid, stopped_s, going_s = int(sys.argv[1]), int(sys.argv[2]) / 1000, int(sys.argv[3]) / 1000


def end(*_: object) -> None:
    """Leave the process running."""
    os.kill(pid, signal.SIGCONT)
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(stopped_s)
    os.kill(pid, signal.SIGCONT)
    time.sleep(going_s)
