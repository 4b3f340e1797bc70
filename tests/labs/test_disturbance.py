"""What is said to disturb a run from outside, and what is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from culpa.labs import disturbance, stand

BURN = str(Path(disturbance.APPS) / "burn.py")
SECONDS = 1.0
NAMED = r"""
open("/proc/self/comm", "wb").write(b"\xff(")
print(flush=True)
__import__("sys").stdin.read()
"""
URGENT = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
until = time.monotonic() + 0.1
while time.monotonic() < until: pass
"""


def said_while(seconds: float = SECONDS) -> str:
    """What is said of a second that starts now."""
    with disturbance.watched() as watch:
        time.sleep(seconds)
        return " ".join(watch.end())


def busy_seconds() -> float:
    """Of all CPUs, by whomever."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0]
    return sum(int(field) for field in first.split()[1:4]) / disturbance.TICKS


def not_of_others(kernel: dict[int, int]) -> tuple[float, float]:
    """CPU time (s) that is not counted as that of others, at least and at most: the count takes a moment.

    Args:
        kernel: as `disturbance` takes it; without it a thread of the kernel that ends would count backwards.
    """
    before, others = busy_seconds(), disturbance._seconds_of_others(kernel)
    return before - others, busy_seconds() - others


def test_what_a_run_itself_takes_is_no_disturbance() -> None:
    """Neither while its program runs nor once it has ended within the run, whatever others do meanwhile."""
    kernel = disturbance._of_kernel_threads(list(disturbance._stats()))
    before, _ = not_of_others(kernel)
    with subprocess.Popen([sys.executable, BURN, "1"], stdout=subprocess.DEVNULL) as burning:
        time.sleep(SECONDS)
        _, taken = not_of_others(kernel)
        fields = Path(f"/proc/{burning.pid}/stat").read_text().rpartition(")")[2].split()
        burned = (int(fields[11]) + int(fields[12])) / disturbance.TICKS
        burning.kill()
    assert burned > SECONDS / 10
    assert taken - before >= burned - 0.05
    assert not_of_others(kernel)[1] - before >= burned - 0.05


def test_a_program_of_somebody_else_is_a_disturbance() -> None:
    """One that is not below this process takes a CPU."""
    orphan = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" "{BURN}" 1 >/dev/null 2>&1 & echo $!'],
        capture_output=True,
        check=True,
        text=True,
    )
    pid = int(orphan.stdout)
    try:
        said = said_while()
    finally:
        os.kill(pid, signal.SIGKILL)
    assert "programs of others took" in said


def test_a_thread_of_the_kernel_that_ends_takes_nothing_with_it() -> None:
    """What it had before the run is no other's time in the run."""
    hour = 3600 * disturbance.TICKS
    before = disturbance._seconds_of_others({})
    assert abs(disturbance._seconds_of_others({1 << 30: hour}) - (before - 3600)) < SECONDS


def test_a_program_may_call_itself_anything() -> None:
    """Its name is no text: the others are counted all the same, and it can be named."""
    argv = [sys.executable, "-c", NAMED]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()
        assert odd.pid in [pid for pid, _, _ in disturbance._stats()]
        assert "\ufffd(" == stand.who("cpu.busy", odd.pid).comm


@pytest.mark.root
def test_a_cpu_that_is_away_is_a_disturbance() -> None:
    """Taken from everything less urgent for 100 ms, as by a hypervisor."""
    with disturbance.watched() as watch, subprocess.Popen([sys.executable, "-c", URGENT]) as urgent:
        urgent.wait()
        time.sleep(0.2)
        said = " ".join(watch.end())
    assert "the host was away from a CPU" in said


@pytest.mark.root
def test_nothing_is_left_of_the_watch() -> None:
    """However it ends."""
    with disturbance.watched() as watch:
        metronome = watch._metronome
    assert metronome is not None
    assert metronome.returncode == 0
