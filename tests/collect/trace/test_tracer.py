"""The tracer on this kernel: children do exactly known things, and exactly these calls, waits and files are seen."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from tracing import CLOCK_NANOSLEEP, FDATASYNC, FSYNC, PWRITE, READ, WRITE, calls_of, traced, tracer
from watched_children import Spawn, go, line_of, run, sleeps_in, wait_until

from culpa.capture import schema
from culpa.collect.trace import kernel
from culpa.collect.trace.tracer import TraceResult

pytestmark = [pytest.mark.root, pytest.mark.trace]


@pytest.fixture(scope="module")
def fsynced(tmp_path_factory: pytest.TempPathFactory) -> tuple[TraceResult, int, Path]:
    """23 pwrites and fdatasyncs of one file, as seen; the child's pid and the file."""
    path = tmp_path_factory.mktemp("fsync") / "log"
    # Where much is dirty, the kernel writes out everybody's pages by itself.
    subprocess.run(["sync"], check=True)
    code = "import sys; sys.stdin.readline()\n" + FSYNC + "\nprint('done', flush=True); sys.stdin.readline()"
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        return traced(child), child.pid, path
    finally:
        child.kill()
        child.communicate()


def test_every_call_is_seen_once(fsynced: tuple[TraceResult, int, Path]) -> None:
    """23 made, 23 seen, with results, arguments and times in order."""
    result, pid, _ = fsynced
    writes, syncs = calls_of(result, pid, PWRITE), calls_of(result, pid, FDATASYNC)
    assert (23, 23) == (len(writes), len(syncs))
    assert writes["ret"].to_list() == [4096] * 23
    assert writes["arg2"].to_list() == [4096] * 23
    assert (syncs["exit_ns"] > syncs["enter_ns"]).all()
    assert 0 == result.lost_events


def test_the_file_behind_the_fd_is_known(fsynced: tuple[TraceResult, int, Path]) -> None:
    """Device, inode, type and path agree with stat."""
    result, pid, path = fsynced
    stat = path.stat()
    dev = os.major(stat.st_dev) << 20 | os.minor(stat.st_dev)
    syncs = calls_of(result, pid, FDATASYNC)
    assert syncs.select("dev", "ino", "file_type").unique().rows() == [(dev, stat.st_ino, "reg")]
    files = result.tables["files"].filter(dev=dev, ino=stat.st_ino)
    assert files.select("path", "inner_path").rows() == [(str(path), None)]


def test_waits_for_the_disk_have_stacks(fsynced: tuple[TraceResult, int, Path]) -> None:
    """Uninterruptible waits within the fdatasyncs carry a kernel stack that names the call."""
    result, pid, _ = fsynced
    waits = result.tables["offcpu"].filter(pl.col("pid") == pid, pl.col("state") == 2)
    assert len(waits) >= 23
    assert 0 == waits["stack_id"].null_count()
    frames = waits.join(result.tables["stacks"], on="stack_id", how="left", validate="m:1")["frames"]
    assert frames.list.join(" ").str.contains("do_fsync|__x64_sys_fdatasync|__arm64_sys_fdatasync").sum() >= 23
    assert not frames.list.join(" ").str.contains("bpf_").any()


def test_stretches_are_in_order_and_apart(fsynced: tuple[TraceResult, int, Path]) -> None:
    """Off, woken, on; and no stretch of a thread begins before the last one ended."""
    offcpu = fsynced[0].tables["offcpu"].filter(pl.col("off_ns").is_not_null() & pl.col("on_ns").is_not_null())
    assert (offcpu["on_ns"] > offcpu["off_ns"]).all()
    woken = offcpu.drop_nulls("wake_ns")
    assert ((woken["wake_ns"] >= woken["off_ns"]) & (woken["wake_ns"] <= woken["on_ns"])).all()
    assert offcpu.filter(state=0)["wake_ns"].null_count() == len(offcpu.filter(state=0))
    gaps = offcpu.sort("tid", "off_ns").select((pl.col("off_ns") - pl.col("on_ns").shift()).over("tid")).to_series()
    assert (gaps.drop_nulls() > 0).all()


def test_block_requests_name_their_writer(fsynced: tuple[TraceResult, int, Path]) -> None:
    """The data of the file goes to the device in requests that carry its inode and, sent from fdatasync, its pid."""
    result, pid, path = fsynced
    if not Path(f"/sys/dev/block/{os.major(path.stat().st_dev)}:{os.minor(path.stat().st_dev)}").exists():
        pytest.skip("the temporary folder is on no block device")
    blocks = result.tables["blocks"].filter(pl.col("ino") == path.stat().st_ino, pl.col("op") == "write")
    assert blocks["bytes"].sum() >= 23 * 4096
    assert blocks["pid"].to_list() == [pid] * len(blocks)
    assert (blocks["complete_ns"] >= blocks["issue_ns"]).all()
    assert (blocks["issue_ns"] >= blocks["queued_ns"]).all()


def test_tables_have_the_declared_columns(fsynced: tuple[TraceResult, int, Path]) -> None:
    """Every table is as capture/schema.py declares it, and every thread of the events is in tasks."""
    tables = fsynced[0].tables
    assert set(tables) == {
        "offcpu", "syscalls", "messages", "sockets", "blocks", "block_parts", "dirtied", "uncached", "freed",
        "throttles", "async_io", "retransmits", "tasks", "files", "stacks", "sums",
    }  # fmt: skip
    for name, frame in tables.items():
        assert schema.BY_NAME[name].schema == dict(frame.schema)
    tids = set(tables["tasks"]["tid"])
    for table, column in (("offcpu", "tid"), ("offcpu", "waker_tid"), ("offcpu", "prev_tid"), ("syscalls", "tid")):
        assert set(tables[table][column].drop_nulls()) <= tids
    assert tables["files"].select(pl.struct("dev", "ino").is_duplicated().any()).item() is False


def with_a_wrong_license(path: Path) -> bytes:
    """An object that opens and does not load: its license is none that the helper functions accept."""
    return path.read_bytes().replace(b"Dual BSD/GPL", b"Proprietary\0")


@pytest.mark.parametrize("first", [kernel.OBJECT_NAME, kernel.PLAIN_OBJECT_NAME], ids=["before 6.2", "before 5.12"])
def test_the_probes_for_older_kernels_see_the_same(
    spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Without typed pointers, and without fetching atomics, other probes are loaded that see all the same things."""
    types, path_of = kernel.kernel_types, kernel.object_path
    monkeypatch.setattr(kernel, "kernel_types", lambda *given: replace(types(*given), direct=False))
    if first == kernel.PLAIN_OBJECT_NAME:
        broken = tmp_path / "refused.bpf.o"
        broken.write_bytes(with_a_wrong_license(path_of()))
        objects = {kernel.OBJECT_NAME: broken, kernel.PLAIN_OBJECT_NAME: path_of(kernel.PLAIN_OBJECT_NAME)}
        monkeypatch.setattr(kernel, "object_path", lambda name=kernel.OBJECT_NAME: objects[name])
    path = tmp_path / "log"
    child = spawn(FSYNC, str(path))
    with tracer(child.pid) as running:
        assert running._probes is not None
        assert not any(name.endswith(b"_direct") for name in running._probes.loaded())
        run(child)
        result = running.stop()
    syncs = calls_of(result, child.pid, FDATASYNC)
    assert [(path.stat().st_ino, "reg", 23)] == syncs.group_by("ino", "file_type").len().rows()
    assert [4096] * 23 == calls_of(result, child.pid, PWRITE)["arg2"].to_list()
    assert len(result.tables["offcpu"].filter(pl.col("pid") == child.pid, pl.col("state") == 2)) >= 23


def test_sleeps_have_their_length(spawn: Spawn) -> None:
    """Five sleeps of 20 ms are five interruptible waits of at least that, ended by no thread's doing."""
    child = spawn("import time\nfor _ in range(5): time.sleep(0.02)")
    result = traced(child)
    sleeps = calls_of(result, child.pid, CLOCK_NANOSLEEP)
    assert 5 == len(sleeps)
    waits = result.tables["offcpu"].filter(pl.col("tid") == child.pid, pl.col("state") == 1)
    long = waits.filter(pl.col("on_ns") - pl.col("off_ns") >= 19_000_000, pl.col("off_ns") >= sleeps["enter_ns"].min())
    assert 5 == len(long.filter(pl.col("on_ns") <= sleeps["exit_ns"].max()))


def test_short_lived_files_keep_their_paths(spawn: Spawn, tmp_path: Path) -> None:
    """A file that is deleted at once is named; of several with one inode number it is the last."""
    child = spawn(
        """
import os
for i in range(5):
    path = f'{sys.argv[1]}/temp{i}'
    with open(path, 'wb') as file:
        file.write(b'x'); print(os.fstat(file.fileno()).st_ino, file=sys.stderr, flush=True)
    os.unlink(path)
""",
        str(tmp_path),
    )
    result = traced(child)
    inodes = set(calls_of(result, child.pid, WRITE).filter(file_type="reg")["ino"])
    seen = result.tables["files"].filter(
        pl.col("ino").is_in(list(inodes)), pl.col("path").str.starts_with(str(tmp_path))
    )
    names = {Path(path).name for path in seen["path"]}
    assert "temp4" in names
    assert names <= {f"temp{i}" for i in range(5)}
    assert len(names) == len(seen)


def test_open_calls_are_told_at_the_end(spawn: Spawn) -> None:
    """A read that has not returned has no end, a known file, and a wait that has not ended."""
    left, right = socket.socketpair()
    with left, right:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", "import os\nwhile os.read(0, 10): pass"],
            stdin=right,
            stdout=subprocess.DEVNULL,
        )
        try:
            with tracer(child.pid) as running:
                left.send(b"x")
                wait_until(lambda: sleeps_in(child.pid, "unix"))
                wait_until(lambda: len(open_reads(running.snapshot(), child.pid)) == 1)
                result = running.stop()
        finally:
            child.kill()
            child.wait()
        row = open_reads(result, child.pid).row(0, named=True)
        assert (None, os.fstat(right.fileno()).st_ino, "sock") == (row["ret"], row["ino"], row["file_type"])
        waits = result.tables["offcpu"].filter(pl.col("tid") == child.pid, pl.col("on_ns").is_null())
        assert [(1, None)] == waits.select("state", "wake_ns").rows()


def open_reads(result: TraceResult, pid: int) -> pl.DataFrame:
    """Reads of that process that began in the window and have not returned."""
    return result.tables["syscalls"].filter(
        pl.col("pid") == pid, pl.col("nr") == READ, pl.col("exit_ns").is_null(), pl.col("enter_ns").is_not_null()
    )


def test_a_killed_thread_ends_its_call(spawn: Spawn) -> None:
    """A call its thread did not survive has an end all the same."""
    child = spawn("import time; time.sleep(60)")
    with tracer(child.pid) as running:
        go(child)
        wait_until(lambda: len(running.snapshot().tables["syscalls"].filter(pid=child.pid, nr=CLOCK_NANOSLEEP)) == 1)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        result = running.stop()
    slept = result.tables["syscalls"].filter(pid=child.pid, nr=CLOCK_NANOSLEEP)
    assert slept["exit_ns"].null_count() == 0
    assert result.tables["tasks"].filter(tid=child.pid)["exit_ns"].null_count() == 0


def test_a_burst_is_seen_whole(spawn: Spawn) -> None:
    """400,000 calls in four bursts, each of which is read before the next, twice what the ring holds: none is lost,
    across the wrap.
    """
    burst = "[os.getppid() for _ in range(100_000)]; print(1, flush=True); sys.stdin.readline()"
    child = spawn(f"import os\nfor _ in range(4): {burst}")
    with tracer(child.pid) as running:
        for number in range(1, 5):
            go(child)
            assert "1" == line_of(child)
            wait_until(lambda: running.events() >= 100_000 * number, seconds=20)  # noqa: B023  # asked at once
        go(child)
        assert "done" == line_of(child)
        result = running.stop()
    assert 0 == result.lost_events
    assert 400_000 == len(result.tables["syscalls"].filter(pid=child.pid, nr=110))


IN_NAMESPACE = 'mount --bind "$1" "$2"; echo ready; read x; echo hello > "$2/log"; echo done; read x'


def test_paths_inside_another_mount_namespace(spawn: Spawn, tmp_path: Path) -> None:
    """A file behind a bind mount of another namespace has the path the process uses, and the host's."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    child = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", IN_NAMESPACE, "sh", outside, inside],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )  # fmt: skip
    try:
        assert line_of(child) == "ready"
        files = traced(child).tables["files"].filter(ino=(outside / "log").stat().st_ino)
    finally:
        child.kill()
        child.communicate()
    assert [(str(outside / "log"), str(inside / "log"))] == files.select("path", "inner_path").rows()
