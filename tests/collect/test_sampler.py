"""The sampler sees the states that ps sees, on files that stat knows, inside its budget, and leaves nothing open."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import polars as pl
import pytest
from living import descriptors, line_of, running, uninterruptible, wait_until

from culpa.capture.schema import SAMPLES
from culpa.collect.openfiles import OpenFiles
from culpa.collect.procfs import PROC
from culpa.collect.sampler import Sampler, SamplerResult
from culpa.collect.watched import ThreadGone, WatchedThread
from culpa.syscalls import Numbers

NANOSLEEP = {"x86_64": {35, 230}, "aarch64": {101, 115}}
READ = {"x86_64": 0, "aarch64": 63}
SLEEPING = "import time; print('up'); time.sleep(60)"
BUSY = "print('up')\nwhile True: pass"
READING = "import os; r, w = os.pipe(); print(os.fstat(r).st_ino, r); os.read(r, 1)"
FORKING = """
import os, sys, time
print("up")
sys.stdin.readline()
if os.fork() == 0:
    while True: pass
time.sleep(60)
"""


def swept(sampler: Sampler, times: int = 20) -> SamplerResult:
    """A fixed number of sweeps, one after the other."""
    for _ in range(times):
        sampler.sweep()
        time.sleep(0.002)
    return sampler.stop()


def test_a_sleeping_and_a_busy_target() -> None:
    """The sleeper sits in nanosleep at every sweep; the busy one is running and in no call."""
    with running(SLEEPING) as sleeper, running(BUSY) as busy:
        line_of(sleeper)
        line_of(busy)
        wait_until(lambda: b"nanosleep" in Path(f"/proc/{sleeper.pid}/wchan").read_bytes())
        found = swept(Sampler([sleeper.pid, busy.pid]))
        samples = found.tables["samples"]
        asleep = samples.filter(tid=sleeper.pid)
        assert (20, {"S"}) == (asleep.height, set(asleep["state"]))
        assert set(asleep["nr"]) <= NANOSLEEP[platform.machine()]
        runs = samples.filter(tid=busy.pid)
        assert (20, {"R"}, {None}) == (runs.height, set(runs["state"]), set(runs["nr"]))
        assert [2] * 20 == found.tables["sweeps"]["threads"].to_list()
        assert [1] * 20 == found.tables["sweeps"]["active"].to_list()
        assert SAMPLES.schema == samples.schema


def test_uninterruptible_sleep(tmp_path: Path) -> None:
    """State D at every sweep, also of a peer, whose idle threads are not recorded."""
    with uninterruptible(tmp_path) as pid, running(SLEEPING) as idle:
        line_of(idle)
        wait_until(lambda: b"nanosleep" in Path(f"/proc/{idle.pid}/wchan").read_bytes())
        samples = swept(Sampler([], peers=[pid, idle.pid])).tables["samples"]
        mine = samples.filter(tid=pid)
        assert (20, {"D"}) == (mine.height, set(mine["state"]))
        assert 0 == samples.filter(tid=idle.pid).height


def test_blocked_read_names_its_fd_and_inode() -> None:
    """Call, first argument, and the pipe's inode as the process itself saw it."""
    with running(READING) as child:
        ino, fd = map(int, line_of(child).split())
        wait_until(lambda: b"pipe" in Path(f"/proc/{child.pid}/wchan").read_bytes())
        samples = swept(Sampler([child.pid]), 3).tables["samples"]
        assert [(READ[platform.machine()], fd, ino, "fifo")] * 3 == samples.select(
            "nr", "arg0", "ino", "file_type"
        ).rows()


def test_a_thread_that_cannot_have_moved_is_not_read_again() -> None:
    """The same object comes back, so long watches of sleepers cost two small reads a sweep."""
    with running(SLEEPING) as child:
        line_of(child)
        wait_until(lambda: b"nanosleep" in Path(f"/proc/{child.pid}/wchan").read_bytes())
        thread = WatchedThread(
            PROC, child.pid, child.pid, numbers=Numbers(platform.machine()), files=OpenFiles(), keep_open=True
        )
        first = thread.look()
        assert first is thread.look()
        child.kill()
        child.wait()
        with pytest.raises(ThreadGone):
            thread.look()
        thread.close()


def test_forked_children_are_followed() -> None:
    """A child made after the start is found by its parent."""
    with running(FORKING) as child:
        line_of(child)
        sampler = Sampler([child.pid])
        sampler.start()
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()

        def others() -> list[int]:
            return sampler.snapshot().tables["tasks"].filter(pl.col("pid") != child.pid)["pid"].to_list()

        wait_until(lambda: bool(others()))
        (forked,) = others()
        found = sampler.stop()
        os.kill(forked, 9)
        assert "R" in set(found.tables["samples"].filter(pid=forked)["state"])


def test_budget_is_kept_and_nothing_stays_open() -> None:
    """A small budget spreads the sweeps; the own CPU time is told; no descriptor or thread is left."""
    before = descriptors()
    with running(SLEEPING) as child:
        line_of(child)
        sampler = Sampler([child.pid], budget_percent=0.5)
        began = time.monotonic_ns()
        sampler.start()
        wait_until(lambda: sampler.snapshot().sweeps >= 5)
        # The pause after a sweep is sized by that sweep: what is counted by now has been paid for when another begins.
        so_far = sampler.snapshot()
        wait_until(lambda: sampler.snapshot().sweeps > so_far.sweeps)
        taken = time.monotonic_ns() - began
        found = sampler.stop()
    assert 0 < so_far.cpu_ns <= found.cpu_ns
    assert so_far.cpu_ns / taken < 0.02
    assert before == set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert sampler.stop().sweeps == found.sweeps


def test_a_target_that_ends_is_noted() -> None:
    """Its tasks carry the moment, and sweeping goes on."""
    with running(SLEEPING) as child:
        line_of(child)
        sampler = Sampler([child.pid])
        sampler.sweep()
        child.kill()
        child.wait()
        sampler.sweep()
        found = sampler.stop()
    assert [1, 0] == found.tables["sweeps"]["threads"].to_list()
    assert found.tables["tasks"]["exit_ns"].null_count() == 0


def test_without_descriptors_to_spare_it_reads_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit of open files each look opens and closes."""
    monkeypatch.setattr("culpa.collect.sampler.SPARE_DESCRIPTORS", 1 << 30)
    before = len(descriptors())
    with running(SLEEPING) as child:
        line_of(child)
        sampler = Sampler([child.pid])
        sampler.sweep()
        assert before + 2 == len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the child's two pipes
        assert 1 == sampler.stop().tables["samples"].height


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_refused_files_are_a_blind_spot() -> None:
    """An ordinary user sees states of others, not their calls: said, with the way out."""
    looking = (
        "import os,sys\n"
        "from culpa.collect.sampler import Sampler\n"
        "Sampler([]).stop()\n"  # imports what is imported late, while it still may
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = Sampler([int(sys.argv[1])]); s.sweep(); r = s.stop()\n"
        "print([b.way_out for b in r.blind_spots], r.tables['samples']['state'].to_list())"
    )
    with running(SLEEPING) as child:
        line_of(child)
        wait_until(lambda: b"nanosleep" in Path(f"/proc/{child.pid}/wchan").read_bytes())
        with running(looking, str(child.pid)) as seer:
            said = line_of(seer)
        assert "run culpa as root" in said
        assert said.endswith("['S']")
