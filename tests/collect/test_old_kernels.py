"""All that reads /proc and /sys, on trees of Linux 3.10 and 4.15: kernels of hosts where nothing can be traced."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from living import wait_until

from culpa.collect.devices import device_rows
from culpa.collect.groups import find_group
from culpa.collect.host import HostCounters, host_facts
from culpa.collect.processes import process_rows, task_rows, thread_state_rows
from culpa.collect.resolve import resolve
from culpa.collect.sampler import Sampler
from culpa.target import parse_target
from culpa.units import dev_t

FIXTURES = Path(__file__).parents[1] / "fixtures"
PID, SYNCING, HELPER = 4711, 4711, 4712
KERNELS = ["linux-3.10", "linux-4.15"]
FDATASYNC, FUTEX = 75, 202
"""Numbers of x86-64, whose kernel the trees are of."""


@pytest.fixture(params=KERNELS)
def proc(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with what git cannot keep: links to namespaces and to an open file."""
    root = tmp_path / "proc"
    shutil.copytree(FIXTURES / "proc" / request.param, root)
    data = tmp_path / "appendonly.aof"
    data.write_bytes(b"x")
    for process in (str(PID), "self"):
        mounts = root / process / "mountinfo"
        mounts.write_text(mounts.read_text().replace(" /sys/fs/cgroup", f" {tmp_path}/cgroup"))
        (root / process / "ns").mkdir()
        for kind, number in (("net", 4026531956), ("mnt", 4026531840), ("pid", 4026531836)):
            (root / process / "ns" / kind).symlink_to(f"{kind}:[{number}]")
    (root / str(PID) / "fd").mkdir()
    (root / str(PID) / "fd" / "7").symlink_to("socket:[26011]")
    (root / str(PID) / "fd" / "8").symlink_to(data)
    (root / str(os.getpid())).symlink_to("self")  # whose namespaces are compared with
    name = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*name[:4], "x86_64")))
    return root


def is_new(proc: Path) -> bool:
    """The tree is the younger one."""
    return (proc / str(PID) / "schedstat").exists()


def test_a_running_sampler(proc: Path) -> None:
    """Both threads, their calls, and the file of the call that has one."""
    data = (proc.parent / "appendonly.aof").stat()
    sampler = Sampler([PID], proc_root=proc, budget_percent=50)
    sampler.start()
    wait_until(lambda: sampler.snapshot().sweeps >= 5)
    tables = sampler.stop().tables
    looks = tables["samples"].select("tid", "state", "nr", "wchan", "ino", "dev").unique().sort("tid").rows()
    assert [
        (SYNCING, "D", FDATASYNC, "jbd2_log_wait_commit", data.st_ino,
         dev_t(os.major(data.st_dev), os.minor(data.st_dev))),
        (HELPER, "S", FUTEX, "futex_wait_queue_me", None, None),
    ] == looks  # fmt: skip
    assert [str(proc.parent / "appendonly.aof")] == tables["files"]["path"].to_list()
    assert ["redis) (x)\\x0a7", "bio_aof_fsync"] == tables["tasks"].sort("tid")["comm"].to_list()


def test_rows_of_a_process(proc: Path) -> None:
    """Identity, unit, threads and what they wait in; times where the kernel counts them."""
    (row,) = process_rows({PID: "target"}, proc).to_dicts()
    assert (PID, 1, 987654, "redis.service", 4026531956) == (
        row["pid"], row["ppid"], row["starttime"], row["unit"], row["netns"],
    )  # fmt: skip
    states = thread_state_rows([PID], proc).sort("tid")
    assert [FDATASYNC, FUTEX] == states["nr"].to_list()
    assert [None, None] == states["run_delay_ns"].to_list() if not is_new(proc) else [555, 10]
    assert [SYNCING, HELPER] == task_rows([PID], proc)["tid"].to_list()


def test_targets(proc: Path) -> None:
    """By number, port, name and unit."""
    for text in (str(PID), ":6379", "redis-server", "unit:redis"):
        assert (PID,) == resolve(parse_target(text), proc).pids
    group = find_group(parse_target(f"cgroup:{proc.parent}/cgroup/blkio/system.slice/redis.service"), proc)  # type: ignore[arg-type]
    assert frozenset({PID}) == group.members(proc)


def test_counters_and_devices(proc: Path) -> None:
    """What the host counts; what it does not count yields no row."""
    sys_root = FIXTURES / "sys" / "linux-3.10"
    counters = HostCounters([PID], proc_root=proc, sys_root=sys_root)
    counters.start()
    rows = counters.stop()
    fields = set(rows["field"])
    assert {"iowait", "Dirty", "io_ms", "RetransSegs", "pgmajfault"} <= fields
    assert is_new(proc) == ("MemAvailable" in fields)
    assert is_new(proc) == ("oom_kill" in fields)
    assert not {"flushes", "discards"} & fields
    assert not [source for source in rows["source"] if "pressure" in source]
    assert 8010408 * 1024 == host_facts(proc).memory_bytes
    disk, part = device_rows(sys_root).rows(named=True)
    assert ("sda", "cfq", 128, True) == (disk["name"], disk["scheduler"], disk["queue_depth"], disk["rotational"])
    assert ("sda1", disk["dev"]) == (part["name"], part["parent"])
