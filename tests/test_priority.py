"""culpa gives way to the programs of the host, and not for ever; what it starts for others does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 60.0

pytestmark = pytest.mark.root

BUSY = """
import os, sys, time
from culpa.priority import PRIORITY
PRIORITY.give_way()
print(os.sched_getscheduler(0), flush=True)
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until and os.sched_getscheduler(0) == os.SCHED_IDLE:
    sum(range(1000))
print(os.sched_getscheduler(0), flush=True)
"""


@pytest.fixture
def hogs() -> Iterator[None]:
    """Two programs on each CPU that never stop."""
    argv = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(argv) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for hog in running:
            hog.kill()
            hog.wait()


def _busy(for_s: float) -> list[int]:
    """The policies of a program that gives way and computes: at the beginning, and at the end."""
    argv = [sys.executable, "-c", BUSY, str(for_s)]
    return [int(line) for line in subprocess.check_output(argv, timeout=PATIENCE_S).split()]


def test_who_is_starved_insists(hogs: None) -> None:
    """It would never come to a verdict otherwise."""
    assert _busy(PATIENCE_S) == [os.SCHED_IDLE, os.SCHED_OTHER]


def test_culpa_gives_way_and_its_command_does_not(tmp_path: Path) -> None:
    """Seen by the command itself: its own policy is the usual one, that of its parent, culpa, is not."""
    found = tmp_path / "policies"
    program = (
        "import os, pathlib; pathlib.Path(os.sys.argv[1]).write_text("
        "f'{os.sched_getscheduler(0)} {os.sched_getscheduler(os.getppid())}')"
    )
    argv = [sys.executable, "-m", "culpa", "why", "--no-trace", "-q", "--", sys.executable, "-c", program, str(found)]
    # A busy host makes culpa insist before the command runs: then there was nothing to see.
    for _ in range(5):
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
        command, culpa = (int(policy) for policy in found.read_text().split())
        assert command == os.SCHED_OTHER
        if culpa == os.SCHED_IDLE:
            return
        time.sleep(1.0)
    pytest.fail("culpa ran as urgently as others, five times")


def test_a_chosen_policy_stays() -> None:
    """Whoever had it run as a batch job knows why."""
    before = f"os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n{BUSY.lstrip()}"
    argv = [sys.executable, "-c", f"import os\n{before}", "0"]
    assert subprocess.check_output(argv, timeout=PATIENCE_S).split() == [b"3", b"3"]
