"""What a check-up reads of the host beside its counters: NUMA nodes and the clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from culpa.collect import clocksource, numa
from culpa.collect.checkup_host import HostView

NUMA_MAPS = """\
7f0000000000 default anon=3000 dirty=3000 active=0 N0=1000 N1=2000 kernelpagesize_kB=4
7f1000000000 default anon=10 dirty=10 N1=10 kernelpagesize_kB=2048
7f2000000000 prefer:0 file=/lib/libc.so.6 mapped=5 N0=5 kernelpagesize_kB=4
7f3000000000 default
"""


def _host(root: Path, *, nodes: int, allowed: str) -> None:
    for node in range(nodes):
        directory = root / f"sys/devices/system/node/node{node}"
        directory.mkdir(parents=True)
        (directory / "cpulist").write_text(f"{4 * node}-{4 * node + 3}\n")
    task = root / "proc/7/task/7"
    task.mkdir(parents=True)
    (task / "status").write_text(f"Name:\tkv\nCpus_allowed_list:\t{allowed}\n")
    (root / "proc/7/numa_maps").write_text(NUMA_MAPS)


def _read(root: Path) -> dict[tuple[str, str], float]:
    view = HostView(7, proc_root=root / "proc", sys_root=root / "sys")
    view.start()
    rows = view.stop().select("object", "field", "value").iter_rows()
    return {(who, field): value for who, field, value in rows}


def test_memory_and_cpus_of_each_node_are_read(tmp_path: Path) -> None:
    """Pages of either size, and of the four CPUs of each node those that the main thread may use."""
    _host(tmp_path, nodes=2, allowed="0-2,5")
    found = _read(tmp_path)
    assert 2 == found["", "nodes"]
    assert 1005 * 4 == found["node0", "held_kb"]
    assert 2000 * 4 + 10 * 2048 == found["node1", "held_kb"]
    assert (3, 1) == (found["node0", "allowed_cpus"], found["node1", "allowed_cpus"])


def test_on_one_node_the_memory_map_is_not_read(tmp_path: Path) -> None:
    """To read it holds up the process, and all of it is near."""
    _host(tmp_path, nodes=1, allowed="0-3")
    assert not [field for _, field in _read(tmp_path) if field in ("held_kb", "allowed_cpus")]


def _of_processes(root: Path, *pids: int) -> list[tuple[str, str, str, float]]:
    return list(numa.of_processes(pids, proc_root=root / "proc", sys_root=root / "sys"))


def test_of_other_processes_the_memory_of_each_node_and_the_nodes_of_the_cpus_are_read(tmp_path: Path) -> None:
    """As long as they are there."""
    _host(tmp_path, nodes=2, allowed="0-7")
    (tmp_path / "proc/7/statm").write_text("9000 8000 0 0 0 0 0\n")
    found = _of_processes(tmp_path, 7, 8)
    assert ("/proc/7/numa_maps", "node0", "held_kb", 1005 * 4) in found
    assert ("/sys/devices/system/node", "cpu5", "node", 1.0) in found
    assert {"/proc/7/numa_maps", "/sys/devices/system/node"} == {source for source, *_ in found}


@pytest.mark.parametrize(("nodes", "pages"), [(1, 8000), (2, numa.MAX_RESIDENT_KB), (2, 0)])
def test_a_memory_map_that_is_of_no_use_or_too_large_is_left_alone(nodes: int, pages: int, tmp_path: Path) -> None:
    """On one node; of a process of more than 8 GiB; of a kernel thread."""
    _host(tmp_path, nodes=nodes, allowed="0-3")
    (tmp_path / "proc/7/statm").write_text(f"9000 {pages} 0 0 0 0 0\n")
    assert not [field for _, _, field, _ in _of_processes(tmp_path, 7) if field == "held_kb"]


@pytest.mark.parametrize("text", ["", "garbage N=3 Nx=2", "7f00 default N9=4", "N0=1 N0=2"])
def test_odd_lines_of_the_memory_map_are_left_out(text: str) -> None:
    """A node that the kernel did not name counts for nothing."""
    assert sum(kilobytes for _, kilobytes in numa.held_kb(text, (0, 1))) in (0, 12)


def test_a_clock_that_is_a_system_call_is_measured_to_be_slow() -> None:
    """The CPU time of a process is one on every host; the coarse clock is none on any."""
    coarse, called = (clocksource.cost_ns(clock) for clock in (clocksource.COARSE, time.CLOCK_PROCESS_CPUTIME_ID))
    assert called - coarse > 50


def test_the_clock_of_this_host_is_the_one_that_the_kernel_names() -> None:
    """Where it names one; and it is among those that it has."""
    file = Path("/sys") / clocksource.DIRECTORY / "current_clocksource"
    if not file.exists():
        pytest.skip("this kernel shows no clocksource: NOT TESTED")
    found = list(clocksource.readings(Path("/sys")))
    named = [(who, field) for source, who, field, _ in found if source.endswith("_clocksource")]
    assert (file.read_text().strip(), "current") in named
    assert (file.read_text().strip(), "available") in named
    assert {"clock_ns", "coarse_clock_ns"} <= {field for _, _, field, _ in found}


def test_a_kernel_that_names_no_clock_gives_nothing(tmp_path: Path) -> None:
    """As in a container without /sys."""
    assert not list(clocksource.readings(tmp_path))
