"""How long this host keeps even the most urgent program from running: `python metronome.py`, until its input closes.

On each CPU a process of real-time priority wakes every 5 ms. What it is late by cannot be the doing of other programs:
it was the hypervisor's, or the kernel's own. For each CPU it prints `ready`, and at the end by how many ms in all.
It must not import culpa.
"""

from __future__ import annotations

import os
import select
import sys
import time

BEAT_S = 0.005
LATE_S = 0.003
"""Less is what a kernel and an interpreter need."""


def beat(cpu: int, until_closed: int, tell: int) -> None:
    """Wake up again and again, until there is an end of file to read."""
    os.sched_setaffinity(0, {cpu})
    os.write(tell, b"ready\n")
    late = 0.0
    due = time.monotonic()
    while True:
        due += BEAT_S
        ready, _, _ = select.select([until_closed], [], [], max(0.0, due - time.monotonic()))
        if ready:
            break
        behind = time.monotonic() - due
        if behind > LATE_S:
            late += behind
            due += behind
    os.write(tell, f"{late * 1000:.1f}\n".encode())


def main() -> None:
    """One process a CPU; none where urgency is not to be had, as in many containers."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return
    cpus = sorted(os.sched_getaffinity(0))
    children = []
    for cpu in cpus:
        child = os.fork()
        if child == 0:
            beat(cpu, sys.stdin.fileno(), sys.stdout.fileno())
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
