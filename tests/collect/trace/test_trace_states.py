"""The kernel's list of tasks on this kernel: children sit in exactly known calls since known moments."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import polars as pl
import pytest
from watched_children import Spawn, go, line_of, sleeps_in, wait_until

from culpa.collect.trace import kernel, states
from culpa.collect.trace.tracer import Tracer

pytestmark = [pytest.mark.root, pytest.mark.trace]

READ, CLOCK_NANOSLEEP = 0, 230
SLEEPER = """
import os, threading, time
r, w = os.pipe()
print(os.fstat(r).st_ino, os.fstat(r).st_dev, r, flush=True)
reader = threading.Thread(target=lambda: os.read(r, 1), daemon=True)
reader.start()
while 'pipe' not in open(f'/proc/self/task/{reader.native_id}/wchan').read():
    time.sleep(0.001)
time.sleep(0.05)
print(time.monotonic_ns(), flush=True)
time.sleep(3600)
"""


def test_threads_are_found_in_their_calls_since_they_slept(spawn: Spawn) -> None:
    """Call, argument, file and moment agree with what the child says; a process that is not watched is not there."""
    child, bystander = spawn(SLEEPER), spawn("pass")
    go(child)
    ino, dev, fd = map(int, line_of(child).split())
    slept_ns = int(line_of(child))
    wait_until(lambda: sleeps_in(child.pid, "nanosleep"))
    time.sleep(0.5)
    with Tracer(pids=[child.pid], exclude_pids=[os.getpid()]) as running:
        found = running.thread_states()
    assert states.SCHEMA == dict(found.schema)
    assert bystander.pid not in found["tid"]
    assert os.getpid() not in found["tid"]
    (main,) = found.filter(tid=child.pid).to_dicts()
    assert CLOCK_NANOSLEEP == main["nr"]
    assert main["since_ns"] == pytest.approx(slept_ns, abs=100_000_000)
    assert main["stack_id"] is None
    (reader,) = found.filter(pl.col("tid") != child.pid).to_dicts()
    assert (READ, fd, ino, "fifo") == (reader["nr"], reader["arg0"], reader["ino"], reader["file_type"])
    assert os.major(dev) << 20 | os.minor(dev) == reader["dev"]
    assert reader["since_ns"] < main["since_ns"]


def test_two_looks_agree_on_when_a_wait_began(spawn: Spawn) -> None:
    """The scheduler's clock is laid onto CLOCK_MONOTONIC anew each time, to a few milliseconds."""
    child = spawn("import time\ntime.sleep(3600)")
    go(child)
    wait_until(lambda: sleeps_in(child.pid, "nanosleep"))
    with Tracer(pids=[child.pid], exclude_pids=[os.getpid()]) as running:
        looks = []
        for _ in range(5):
            looks.append(running.thread_states()["since_ns"][0])
            time.sleep(0.05)
    assert max(looks) - min(looks) < 20_000_000


def test_without_it_there_is_a_blind_spot_and_no_more(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that lets no program go through its tasks is traced all the same."""
    types = kernel.kernel_types
    monkeypatch.setattr(kernel, "kernel_types", lambda *given: replace(types(*given), iterates=False))
    child = spawn("import time\ntime.sleep(0.1)")
    with Tracer(pids=[child.pid], exclude_pids=[os.getpid()]) as running:
        assert running.thread_states().is_empty()
        go(child)
        assert "done" == line_of(child)
        result = running.stop()
    assert ["since when threads have been waiting that wait all the time"] == [s.what for s in result.blind_spots]
    assert CLOCK_NANOSLEEP in result.tables["syscalls"]["nr"]
