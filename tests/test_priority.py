"""culpa gives way to the programs of the host, and not for ever; what it starts for others does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
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


def test_culpa_gives_way_before_and_after_but_not_while_it_watches(tmp_path: Path) -> None:
    """Seen by a command that it watches: neither has less than usual meanwhile."""
    found = tmp_path / "policies"
    program = (
        "import os, pathlib; pathlib.Path(os.sys.argv[1]).write_text(' '.join(f'{os.sched_getscheduler(pid)} "
        "{os.getpriority(os.PRIO_PROCESS, pid)}' for pid in (0, os.getppid())))"
    )
    argv = [sys.executable, "-m", "culpa", "why", "--no-trace", "-q", "--", sys.executable, "-c", program, str(found)]
    seen = set()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as culpa:
        deadline = time.monotonic() + PATIENCE_S
        while culpa.poll() is None and time.monotonic() < deadline:
            with suppress(ProcessLookupError):
                seen.add((found.exists(), os.sched_getscheduler(culpa.pid)))
            time.sleep(0.01)
    assert culpa.returncode == 0
    usual = f"{os.SCHED_OTHER} {os.getpriority(os.PRIO_PROCESS, 0)}"
    assert found.read_text() == f"{usual} {usual}"
    assert {(False, os.SCHED_IDLE), (False, os.SCHED_OTHER), (True, os.SCHED_IDLE)} <= seen


PARTLY = """
import os, threading
from culpa.priority import PRIORITY
def seen():
    tasks = [int(tid) for tid in os.listdir("/proc/self/task")]
    print(sorted({(os.sched_getscheduler(tid), os.getpriority(os.PRIO_PROCESS, tid)) for tid in tasks}))
stop = threading.Event()
with PRIORITY.taking_part():
    seen()
seen()
PRIORITY.give_way()
threading.Thread(target=stop.wait).start()
with PRIORITY.taking_part():
    seen()
seen()
stop.set()
"""


def test_while_it_takes_part_all_threads_have_what_they_had() -> None:
    """Also those that it started meanwhile; whoever never gave way does not begin to."""
    told = subprocess.check_output([sys.executable, "-c", PARTLY], text=True, timeout=PATIENCE_S).splitlines()
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    usual, behind = (os.SCHED_OTHER, nice), (os.SCHED_IDLE, min(19, nice + 5))
    assert told[:3] == [str([usual])] * 3
    assert told[3] in (str([usual, behind]), str([behind]))  # whoever looks whether it starves does not give way


def test_a_chosen_policy_stays() -> None:
    """Whoever had it run as a batch job knows why."""
    before = f"os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n{BUSY.lstrip()}"
    argv = [sys.executable, "-c", f"import os\n{before}", "0"]
    assert subprocess.check_output(argv, timeout=PATIENCE_S).split() == [b"3", b"3"]


def test_in_a_pid_namespace_whose_proc_is_another_s_nothing_is_touched() -> None:
    """The numbers there are those of other programs."""
    argv = ["unshare", "--pid", "--fork", sys.executable, "-c", BUSY, "0"]
    assert subprocess.check_output(argv, timeout=PATIENCE_S).split() == [b"0", b"0"]
