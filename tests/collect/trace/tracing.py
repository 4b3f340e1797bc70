"""A tracer on a child of a test, and what it saw: shared by the tests of the tracer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import polars as pl
from watched_children import Child, run

from culpa.collect.trace.tracer import Tracer, TraceResult

READ, WRITE, PWRITE, FDATASYNC, CLOCK_NANOSLEEP = 0, 1, 18, 75, 230
"""System calls of x86-64 by number."""


def tracer(*pids: int, **settings: object) -> Tracer:
    """A tracer that never watches this test."""
    return Tracer(pids=pids, exclude_pids=[os.getpid()], **settings)  # type: ignore[arg-type]  # options of every type


def traced(child: Child, **settings: object) -> TraceResult:
    """What is seen while the child's code runs."""
    with tracer(child.pid, **settings) as running:
        run(child)
        return running.stop()


def calls_of(result: TraceResult, pid: int, nr: int) -> pl.DataFrame:
    """The finished calls of that number by that process."""
    return result.tables["syscalls"].filter(pl.col("pid") == pid, pl.col("nr") == nr, pl.col("exit_ns").is_not_null())


def least(measure: Callable[[], float], bound: float) -> float:
    """The least of up to ten measurements, no more than are needed to stay within the bound: whoever else shares the
    machine can only make them larger.
    """
    found = math.inf
    for _ in range(10):
        found = min(found, measure())
        if found <= bound:
            break
    return found


FSYNC = """
import os
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
for i in range(23):
    os.pwrite(fd, b'x' * 4096, i * 4096)
    os.fdatasync(fd)
"""

TALK = """
import os, socket
kind, n = sys.argv[1], int(sys.argv[2])
if kind == 'tcp':
    listener = socket.create_server(('127.0.0.1', 0))
    a = socket.create_connection(listener.getsockname()); b, _ = listener.accept()
else:
    a, b = socket.socketpair()
print(os.fstat(a.fileno()).st_ino, os.fstat(b.fileno()).st_ino, flush=True)
cpus = sorted(os.sched_getaffinity(0))
pid = os.fork()
os.sched_setaffinity(0, {cpus[0] if pid else cpus[-1]})  # on one CPU they may take turns without ever sleeping
if pid == 0:
    for _ in range(n):
        b.recv(4096); b.sendall(b'+OK\\r\\n')
    os._exit(0)
print(pid, flush=True)
sys.stdin.readline()
for i in range(n):
    a.sendall(b'*2\\r\\n$3\\r\\nGET\\r\\n$6\\r\\nkey:%02d\\r\\n' % i); a.recv(4096)
"""
