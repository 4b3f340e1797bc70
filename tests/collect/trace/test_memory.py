"""Dirty pages on this kernel: children write exactly known things, and exactly their writers are told."""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

import polars as pl
import pytest
from watched_children import Spawn, run

from culpa.collect.trace.tracer import Tracer, TraceResult

pytestmark = [pytest.mark.root, pytest.mark.trace]

PAGE = mmap.PAGESIZE
BOUND_BYTES = 8 << 20


def dev_of(path: Path) -> int:
    """The kernel's number of the file system's device."""
    number = path.stat().st_dev
    return os.major(number) << 20 | os.minor(number)


def seen(spawn: Spawn, code: str, *arguments: str, flushed: Path | None = None) -> tuple[TraceResult, int]:
    """What is seen of a child that nobody watches, and its pid; `flushed` is written out before the trace ends."""
    child = spawn(code, *arguments)
    with Tracer(pids=(), exclude_pids=(os.getpid(),)) as tracer:
        run(child)
        if flushed is not None:
            subprocess.run(["sync", "--file-system", str(flushed)], check=True)
        return tracer.stop(), child.pid


def by_process(result: TraceResult, dev: int, ino: int) -> dict[int, int]:
    """Bytes that each process dirtied in one inode."""
    rows = result.tables["dirtied"].filter(dev=dev, ino=ino)
    return dict(rows.group_by("pid").agg(pl.col("bytes").sum()).iter_rows())


WRITE = """
import os
with open(sys.argv[1], 'wb', buffering=0) as file:
    for size in (100, 4096 * 7, 5, 70000):
        file.write(b'x' * size)
print(os.fstat(os.open(sys.argv[1], os.O_RDONLY)).st_ino, file=open(sys.argv[2], 'w'))
os.rename(sys.argv[1], sys.argv[1] + ' renamed')
"""


def test_pages_are_counted_once_for_who_dirtied_them(spawn: Spawn, disk: Path, tmp_path: Path) -> None:
    """Writes that fill pages bit by bit: the file's pages, by the child, on that disk, under its first name."""
    path = disk / "some file"
    result, pid = seen(spawn, WRITE, str(path), str(tmp_path / "ino"))
    ino, size = int((tmp_path / "ino").read_text()), 100 + 4096 * 7 + 5 + 70000
    assert {pid: -(-size // PAGE) * PAGE} == by_process(result, dev_of(disk), ino)
    rows = result.tables["dirtied"].filter(dev=dev_of(disk), ino=ino)
    assert {dev_of(disk)} == set(rows["disk"])
    assert (rows["to_ns"] >= rows["from_ns"]).all()
    assert [str(path)] == result.tables["files"].filter(dev=dev_of(disk), ino=ino)["path"].to_list()


MAP = """
import mmap, os
fd = os.open(sys.argv[1], os.O_RDWR)
with mmap.mmap(fd, 64 * 4096) as memory:
    for page in range(0, 64, 3):
        memory[page * 4096] = 1
"""


def test_a_mapped_file_belongs_to_who_touches_it(spawn: Spawn, disk: Path) -> None:
    """22 pages touched, no system call: 22 pages dirtied, if the file system keeps to single pages."""
    path = disk / "mapped"
    path.write_bytes(bytes(64 * PAGE))
    subprocess.run(["sync", "--file-system", str(disk)], check=True)
    result, pid = seen(spawn, MAP, str(path))
    found = by_process(result, dev_of(disk), path.stat().st_ino)
    assert {pid} == found.keys()
    assert 22 * PAGE <= found[pid] <= 64 * PAGE


CHURN = """
import os
for i in range(40):
    path = f'{sys.argv[1]}/gone-{i}'
    with open(path, 'wb') as file:
        file.write(b'x' * 4096 * (i % 3 + 1))
    os.unlink(path)
"""


def test_deleted_files_keep_their_names(spawn: Spawn, disk: Path) -> None:
    """Forty files, each deleted before the next is made: a name and a generation each, although numbers are reused."""
    result, pid = seen(spawn, CHURN, str(disk))
    rows = result.tables["dirtied"].filter((pl.col("pid") == pid) & (pl.col("dev") == dev_of(disk)))
    rows = rows.filter(pl.col("ino") > 0)
    files = rows.group_by("ino", "generation").agg(pl.col("bytes").sum())
    assert sorted(PAGE * (i % 3 + 1) for i in range(40)) == sorted(files["bytes"])
    paths = result.tables["files"].join(rows.select("dev", "ino").unique(), on=("dev", "ino"))["path"].to_list()
    assert paths
    assert all(str(path).startswith(f"{disk}/gone-") for path in paths)


SMALL = """
for i in range(60):
    with open(f'{sys.argv[1]}/small-{i}', 'wb') as file:
        file.write(b'x' * 9000)
"""


def test_a_merged_request_is_told_in_its_parts(spawn: Spawn, disk: Path) -> None:
    """Small files lie side by side, so requests carry several: the parts add up to each request, and to each file."""
    result, _ = seen(spawn, SMALL, str(disk), flushed=disk)
    dev, key = dev_of(disk), ["issue_ns", "dev", "sector"]
    blocks = result.tables["blocks"].filter((pl.col("dev") == dev) & (pl.col("op") == "write"))
    parts = result.tables["block_parts"].filter(dev=dev)
    sums = parts.group_by(key).agg(pl.col("bytes").sum().alias("parts"), pl.len().alias("count"))
    merged = blocks.join(sums, on=key, how="inner", validate="1:1")
    assert len(merged) == len(sums) > 0
    assert merged["bytes"].to_list() == merged["parts"].to_list()
    assert sums["count"].min() >= 2  # type: ignore[operator]
    whole = blocks.join(sums, on=key, how="anti").select("ino", "bytes")
    carried = pl.concat([whole, parts.select("ino", "bytes")]).group_by("ino").agg(pl.col("bytes").sum())
    sizes = dict(carried.iter_rows())
    for stat in ((disk / f"small-{i}").stat() for i in range(60)):
        assert stat.st_blocks * 512 == sizes[stat.st_ino]


FLOOD = """
import os
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
for i in range(64):
    os.pwrite(fd, b'x' * (1 << 20), i << 20)
"""


def test_pauses_of_writers_are_seen_with_what_was_dirty(spawn: Spawn, disk: Path) -> None:
    """A device whose dirty pages are bounded: the child that writes eight times as much is made to pause."""
    bounds = Path(f"/sys/class/bdi/{os.major(disk.stat().st_dev)}:{os.minor(disk.stat().st_dev)}")
    (bounds / "strict_limit").write_text("1")
    (bounds / "max_bytes").write_text(str(BOUND_BYTES))
    try:
        result, pid = seen(spawn, FLOOD, str(disk / "flood"))
    finally:  # a loop device keeps them after it is detached, and slows down whoever gets it next
        for name, unbound in (("strict_limit", "0"), ("max_bytes", "0"), ("max_ratio", "100")):
            (bounds / name).write_text(unbound)
    pauses = result.tables["throttles"].filter(pid=pid)
    assert len(pauses) > 0
    assert {dev_of(disk)} == set(pauses["disk"])
    assert (pauses["pause_ns"] > 0).all()
    assert (pauses["pause_ns"] <= 200_000_000).all()  # MAX_PAUSE, mm/page-writeback.c
    assert (pauses["disk_threshold"] <= 2 * BOUND_BYTES).all()
    assert (pauses["disk_dirty"] > 0).all()
    assert (pauses["disk_dirty"] <= pauses["dirty"] + BOUND_BYTES).all()
    assert (pauses["background"] < pauses["threshold"]).all()
    dirtied = by_process(result, dev_of(disk), (disk / "flood").stat().st_ino)
    assert {pid: 64 << 20} == dirtied
