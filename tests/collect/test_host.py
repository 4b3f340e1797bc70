"""Host counters read every kernel's form and agree with what the system calls say."""

from __future__ import annotations

import os
import time
from pathlib import Path

import polars as pl
import pytest
from living import wait_until

from culpa.capture.schema import COUNTERS, DEVICES
from culpa.collect.devices import device_rows
from culpa.collect.host import (
    Counter,
    HostCounters,
    group_counters,
    host_facts,
    parse_diskstats,
    parse_limits,
    parse_pressure,
    parse_swaps,
    parse_uptime,
)
from culpa.collect.memoryusers import memory_users
from culpa.units import dev_t

OLD = Path(__file__).parents[1] / "fixtures" / "proc" / "linux-3.10"


def test_a_recorded_kernel_3_10(tmp_path: Path) -> None:
    """Every file it has, none that it has not; partitions and unused devices are left out."""
    for name in ("sda", "loop0"):
        (tmp_path / "block" / name).mkdir(parents=True)
    counters = HostCounters(proc_root=OLD, sys_root=tmp_path)
    counters.start()
    rows = counters.stop().select("source", "object", "field", "value").unique().rows()
    for row in (
        ("/proc/stat", "", "iowait", 300.0),
        ("/proc/stat", "cpu1", "steal", 4.0),
        ("/proc/stat", "", "procs_blocked", 1.0),
        ("/proc/meminfo", "", "Dirty", 512.0),
        ("/proc/vmstat", "", "allocstall", 3.0),
        ("/proc/diskstats", "sda", "io_ms", 140.0),
        ("/proc/net/snmp", "", "RetransSegs", 6.0),
        ("/proc/net/netstat", "", "ListenOverflows", 11.0),
    ):
        assert row in rows
    assert {"sda"} == {row[1] for row in rows if row[0] == "/proc/diskstats"}
    assert not any(row[0].startswith("/proc/pressure") for row in rows)


def test_new_disk_fields() -> None:
    """Flushes since Linux 5.5."""
    line = " 254 0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n"
    found = {counter.field: counter.value for counter in parse_diskstats(line, frozenset({"vda"}))}
    assert (16.0, 17.0, 12.0) == (found["flushes"], found["flush_ms"], found["discards"])


def test_pressure_and_limits() -> None:
    """Totals and averages; limits of both versions; what is not limited gives no row."""
    pressure = {c.field: c.value for c in parse_pressure("some avg10=1.50 total=30\nfull avg10=0.00 total=2\n", "s")}
    assert {"some.avg10": 1.5, "some.total": 30.0, "full.avg10": 0.0, "full.total": 2.0} == pressure
    assert [] == list(parse_limits("max 100000\n", "s", "g", "cpu.max"))
    assert [] == list(parse_limits("-1\n", "s", "g", "cpu.cfs_quota_us"))
    assert [] == list(parse_limits("9223372036854771712\n", "s", "g", "memory.limit_in_bytes"))
    assert [("cpu.max", 50000.0), ("period", 100000.0)] == [
        (c.field, c.value) for c in parse_limits("50000 100000\n", "s", "g", "cpu.max")
    ]
    assert [("rbps 8:0", 5.0), ("wiops 8:0", 7.0)] == [
        (c.field, c.value) for c in parse_limits("8:0 rbps=5 wbps=max riops=max wiops=7\n", "s", "g", "io.max")
    ]
    (v1,) = parse_limits("7:1 800\n", "s", "g", "blkio.throttle.write_iops_device")
    assert ("blkio.throttle.write_iops_device 7:1", 800.0) == (v1.field, v1.value)


def test_group_files(tmp_path: Path) -> None:
    """Throttled periods of both versions."""
    (tmp_path / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 123456\n")
    found = list(group_counters(tmp_path, "cpu"))
    assert Counter(source=f"{tmp_path}/cpu.stat", object=str(tmp_path), field="nr_throttled", value=4.0) in found


def test_swap_areas() -> None:
    """A device, and a file with a space in its name."""
    text = (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/vdb2                               partition\t8388604\t\t1024\t\t-2\n"
        "/srv/swap\\040file                       file\t\t1048572\t\t0\t\t5\n"
    )
    found = [(one.object, one.field, one.value) for one in parse_swaps(text)]
    assert ("/dev/vdb2", "Size", 8388604.0) in found
    assert ("/dev/vdb2", "Used", 1024.0) in found
    assert ("/srv/swap\\040file", "Priority", 5.0) in found


def test_memory_users(tmp_path: Path) -> None:
    """The target always, the five largest where memory is short, kernel threads never."""
    for pid, pages in ((2, 0), (10, 40), (11, 900), (12, 800), (13, 700), (14, 600), (15, 500)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "statm").write_text(f"{pages * 2} {pages} 0 0 0 0 0\n")
        status = f"Name:\tx\nVmRSS:\t{pages * 4} kB\nVmSwap:\t8 kB\n" if pages else "Name:\tkthreadd\n"
        (tmp_path / str(pid) / "status").write_text(status)
    (calm,) = memory_users({10}, is_short=False, proc_root=tmp_path)
    assert (10, 160.0, 8.0) == (calm.pid, calm.resident_kb, calm.swapped_kb)
    pressed = memory_users({2, 10, 999}, is_short=True, proc_root=tmp_path)
    assert [10, 11, 12, 13, 14, 15] == [user.pid for user in pressed]


def busy_ticks() -> int:
    """What all programs have had of the CPUs, in ticks: what the kernel counts, which is not told what a host takes."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return int(user) + int(nice) + int(system)


@pytest.mark.parametrize(("at_first", "told"), [(150, [250, 2250]), (900, [2250])])
def test_who_grew_is_told_where_memory_may_run_short(tmp_path: Path, at_first: int, told: list[int]) -> None:
    """What the largest held when the window began, although it was small then; not where there was plenty."""
    page_kb = os.sysconf("SC_PAGE_SIZE") // 1024
    for pid in (10, 11):
        (tmp_path / str(pid)).mkdir()

    def host_has(available: int, pages: int) -> None:
        (tmp_path / "meminfo").write_text(f"MemTotal: 1000 kB\nMemAvailable: {available} kB\n")
        for pid in (10, 11):
            kb = pages * page_kb
            (tmp_path / str(pid) / "statm").write_text(f"9 {pages} 0 0 0 0 0\n")
            (tmp_path / str(pid) / "status").write_text(f"VmRSS:\t{kb} kB\nVmSwap:\t0 kB\n")

    counters = HostCounters([10], proc_root=tmp_path, sys_root=tmp_path)
    host_has(at_first, pages=250)
    counters.start()
    host_has(50, pages=2250)
    rows = counters.stop().filter(pl.col("field") == "VmRSS").sort("ts_ns", "value")
    for pid in ("10", "11"):
        assert [pages * page_kb for pages in told] == rows.filter(object=pid)["value"].to_list()
    assert {10, 11} == counters.users


def test_living_host() -> None:
    """The counters rise with the work done here, and memory is what sysconf says."""
    counters = HostCounters([os.getpid()])
    counters.start()
    counters.poll()
    before = busy_ticks()
    wait_until(lambda: busy_ticks() - before >= 0.1 * os.sysconf("SC_CLK_TCK"), pause_seconds=0.0)
    done = busy_ticks() - before
    rows = counters.stop()
    assert COUNTERS.schema == rows.schema
    *polled, _ = rows["ts_ns"].unique().sort().diff().drop_nulls().to_list()
    assert all(gap >= 1_000_000_000 for gap in polled)  # the one that was asked for at once is not there
    cpu = rows.filter(pl.col("field").is_in(["user", "system", "nice"]), source="/proc/stat", object="")
    first, *_, last = cpu.group_by("ts_ns", maintain_order=True).agg(pl.col("value").sum())["value"].to_list()
    assert last - first >= done
    facts = host_facts()
    assert os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") == pytest.approx(facts.memory_bytes, rel=0.01)
    assert (os.uname().release, os.sysconf("SC_PAGE_SIZE")) == (facts.kernel, facts.page_bytes)


def test_uptime() -> None:
    """Seconds since boot, against the clock of that name."""
    assert time.clock_gettime(time.CLOCK_BOOTTIME) == pytest.approx(
        parse_uptime(Path("/proc/uptime").read_text()), abs=5
    )


def make_device(folder: Path, number: str, **queue: str) -> None:
    """A directory as /sys/block has it."""
    (folder / "queue").mkdir(parents=True)
    (folder / "dev").write_text(f"{number}\n")
    for name, value in queue.items():
        (folder / "queue" / name).write_text(f"{value}\n")


def test_devices_of_a_recorded_tree(tmp_path: Path) -> None:
    """Partition, stacked device, RAID of two, and the active scheduler."""
    block = tmp_path / "block"
    make_device(block / "sda", "8:0", scheduler="none [mq-deadline]", rotational="1", nr_requests="256")
    (block / "sda" / "sda1").mkdir()
    (block / "sda" / "sda1" / "partition").write_text("1\n")
    (block / "sda" / "sda1" / "dev").write_text("8:1\n")
    make_device(block / "sdb", "8:16")
    make_device(block / "dm-0", "253:0", scheduler="none")
    (block / "dm-0" / "slaves").mkdir()
    (block / "dm-0" / "slaves" / "sda1").symlink_to(block / "sda" / "sda1")
    make_device(block / "md0", "9:0")
    (block / "md0" / "slaves").mkdir()
    for name in ("sda", "sdb"):
        (block / "md0" / "slaves" / name).symlink_to(block / name)
    found = {row["name"]: row for row in device_rows(tmp_path).to_dicts()}
    assert ("mq-deadline", True, 256, None) == tuple(
        found["sda"][key] for key in ("scheduler", "rotational", "queue_depth", "parent")
    )
    assert dev_t(8, 0) == found["sda1"]["parent"]
    assert dev_t(8, 1) == found["dm-0"]["parent"]
    assert found["md0"]["parent"] is None
    assert found["sdb"]["rotational"] is None


def test_devices_of_this_host() -> None:
    """Each whole device of /proc/diskstats has its row, with the same number."""
    before = listed_devices()
    rows = device_rows()
    assert DEVICES.schema == rows.schema
    found = set(rows.select("name", "dev").rows())
    stayed = before & listed_devices()
    assert stayed
    assert stayed <= found


def listed_devices() -> set[tuple[str, int]]:
    """Name and number of each line of /proc/diskstats."""
    lines = (line.split()[:3] for line in Path("/proc/diskstats").read_text().splitlines())
    return {(name, dev_t(int(major), int(minor))) for major, minor, name in lines}
