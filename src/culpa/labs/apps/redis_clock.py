"""How long a Redis server keeps a client waiting: `redis_clock.py PORT`, until stopped.

It asks PING every 10 ms, or at once where the answer was later than that. Of each question that waited 5 ms or longer
it prints when it was sent and answered, in ns of CLOCK_MONOTONIC. Where it may, it runs at real-time priority: what it
measures is then the server's lateness and not its own. It says `ready` once it goes round. It must not import culpa:
labs copy it out of the package and run it as anybody's program.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time

LOOPBACK = "127.0.0.1"
ASK_EVERY_NS = 10_000_000
"""More often it would be a good part of all that culpa records, and use up what that may cost."""
LONG_NS = 5_000_000
PING = b"*1\r\n$4\r\nPING\r\n"


def main() -> None:
    """Go on until stopped."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    link = socket.create_connection((LOOPBACK, int(sys.argv[1])))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("ready", flush=True)
    due = time.monotonic_ns()
    while True:
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
        sent = time.monotonic_ns()
        link.sendall(PING)
        answer = b""
        while not answer.endswith(b"\r\n"):
            chunk = link.recv(4096)
            if not chunk:
                raise ConnectionError("the server hung up")
            answer += chunk
        answered = time.monotonic_ns()
        if answered - sent >= LONG_NS:
            print(sent, answered, flush=True)
        due = max(due + ASK_EVERY_NS, answered)


if __name__ == "__main__":
    main()
