"""Which CPUs threads may use: set by this test, and read back as the kernel has them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from culpa.collect.affinity import Affinities

CPUS = sorted(os.sched_getaffinity(0))


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps."""
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]) as running:
        yield running
        running.kill()


def test_a_bound_thread_is_seen_until_it_may_use_all_again(child: subprocess.Popen[bytes]) -> None:
    """One CPU, all CPUs."""
    if len(CPUS) < 2:
        pytest.skip("this host has one CPU")
    affinities = Affinities()
    os.sched_setaffinity(child.pid, {CPUS[-1]})
    affinities.look([child.pid])
    (row,) = affinities.rows().rows(named=True)
    os.sched_setaffinity(child.pid, CPUS)
    affinities.look([child.pid])

    assert (child.pid, child.pid, str(CPUS[-1]), None) == (row["tid"], row["pid"], row["cpus"], row["cgroup"])
    assert affinities.rows().is_empty()


def test_what_was_seen_of_a_process_stays_when_it_has_ended(child: subprocess.Popen[bytes]) -> None:
    """A command is gone when the window ends."""
    if len(CPUS) < 2:
        pytest.skip("this host has one CPU")
    affinities = Affinities()
    os.sched_setaffinity(child.pid, {CPUS[0]})
    affinities.look([child.pid])
    child.kill()
    child.wait()
    affinities.look([child.pid])

    assert [str(CPUS[0])] == affinities.rows()["cpus"].to_list()


@pytest.mark.parametrize(
    ("line", "mount", "file"),
    [
        ("4:cpuset:/box\n", "cgroup cgroup rw,cpuset", "cpuset.effective_cpus"),
        ("0::/box\n", "cgroup2 cgroup2 rw", "cpuset.cpus.effective"),
    ],
    ids=["version 1", "version 2"],
)
def test_the_group_that_has_no_more_cpus_is_named(tmp_path: Path, line: str, mount: str, file: str) -> None:
    """The process may use the last CPU, and so may its control group; this process stands for it."""
    if len(CPUS) < 2:
        pytest.skip("this host has one CPU")
    pid, groups = os.getpid(), tmp_path / "groups"
    for directory, cpus in ((groups, f"{CPUS[0]}-{CPUS[-1]}"), (groups / "box", str(CPUS[-1]))):
        directory.mkdir()
        (directory / file).write_text(cpus + "\n")
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / str(pid) / "task" / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "cgroup").write_text(line)
    (proc / "self" / "mountinfo").write_text(f"30 24 0:26 / {groups} rw,nosuid - {mount}\n")
    affinities = Affinities(proc_root=proc)
    os.sched_setaffinity(0, {CPUS[-1]})
    try:
        affinities.look([pid])
    finally:
        os.sched_setaffinity(0, CPUS)

    assert [str(groups / "box")] == affinities.rows()["cgroup"].to_list()
