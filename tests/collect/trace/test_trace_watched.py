"""Who is watched: the named, those who wake them and their children; never the excluded."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import polars as pl
import pytest
from tracing import TALK, calls_of, traced, tracer
from watched_children import Spawn, go, line_of, run

from culpa.collect.trace.tracer import Tracer

pytestmark = [pytest.mark.root, pytest.mark.trace]


def test_without_follow_only_the_named_are_watched(spawn: Spawn) -> None:
    """`follow=False` leaves the peer alone."""
    child = spawn(TALK, "unix", "50")
    go(child)
    line_of(child)
    peer = int(line_of(child))
    result = traced(child, follow=False)
    assert {child.pid} == set(result.tables["syscalls"]["pid"])
    assert peer in set(result.tables["offcpu"]["waker_pid"].drop_nulls())


def test_children_and_programs_are_watched(spawn: Spawn) -> None:
    """A forked child and the program it becomes are watched from their birth to their end."""
    child = spawn("import os\npid = os.spawnv(os.P_WAIT, '/bin/true', ['true'])")
    result = traced(child)
    born = result.tables["tasks"].filter(pl.col("comm") == "true")
    assert 1 == len(born)
    pid = born["pid"][0]
    assert born["watched_ns"][0] < born["exit_ns"][0]
    assert len(result.tables["syscalls"].filter(pid=pid)) > 10
    assert 0 == len(result.tables["syscalls"].filter(pl.col("pid") == pid, pl.col("exit_ns").is_null()))


def test_excluded_processes_are_never_watched(spawn: Spawn) -> None:
    """Exclusion wins over being named."""
    child = spawn("import os; [os.getppid() for _ in range(10)]")
    with Tracer(pids=[child.pid], exclude_pids=[os.getpid(), child.pid]) as running:
        run(child)
        assert child.pid not in running.watched()
        assert 0 == len(running.stop().tables["syscalls"].filter(pid=child.pid))


CHATTER = "for i in 1 2 3 4 5 6 7 8 9 10; do printf x; sleep 0.01; done"


@pytest.mark.parametrize("named", [False, True])
def test_what_an_excluded_process_starts_is_excluded(named: bool) -> None:
    """A program that this test starts meanwhile wakes the watched one, and is left alone unless it is named."""
    left, right = socket.socketpair()
    with left, right:
        child = subprocess.Popen([sys.executable, "-S", "-c", "import os\nwhile os.read(0, 10): pass"], stdin=right)
        try:
            with tracer(child.pid) as running:
                talker = subprocess.Popen(["sh", "-c", CHATTER], stdout=left)
                running.watch([talker.pid] if named else [])
                assert 0 == talker.wait()
                seen, result = running.watched(), running.stop()
        finally:
            child.kill()
            child.wait()
    assert talker.pid in set(result.tables["offcpu"].filter(pid=child.pid)["waker_pid"])
    assert named == (talker.pid in seen)
    assert named == (talker.pid in set(result.tables["syscalls"]["pid"]))


def test_watch_adds_a_running_process(spawn: Spawn) -> None:
    """A process added later is seen from then on, with a name even if it stays asleep."""
    first, second = spawn("pass"), spawn("import os; os.getppid()")
    with tracer(first.pid) as running:
        running.watch([second.pid])
        assert {first.pid, second.pid} <= running.watched()
        run(second)
        result = running.stop()
    assert 1 == len(calls_of(result, second.pid, 110))
    assert 2 == len(
        result.tables["tasks"].filter(pl.col("tid").is_in([first.pid, second.pid]), pl.col("watched_ns") > 0)
    )
