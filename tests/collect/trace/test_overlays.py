"""Files of an overlay on this kernel: what a program syncs and what is written to the disk are one file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from watched_children import Spawn, run

from culpa.capture import schema
from culpa.collect.trace.tracer import Tracer, TraceResult
from culpa.labs import loopdev

pytestmark = [pytest.mark.root, pytest.mark.trace]

SYNC = """
import os
for name, kept in (('kept', True), ('brief', False), ('lower', True)):
    path = sys.argv[1] + '/' + name
    with open(path, 'ab', buffering=0) as file:
        file.write(b'x' * 100_000)
        os.fsync(file.fileno())
    if not kept:
        os.unlink(path)
"""
APART = """
import subprocess
root, options, program, rest = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
enter = 'mount -t overlay -o "$2" overlay "$1"; mount --bind "$1" /mnt; exec "$3" -S -c "$4" /mnt'
inner = 'import sys\\n' + program + "\\nprint('done', flush=True); sys.stdin.readline()"
box = subprocess.Popen(['unshare', '--mount', '--pid', '--net', '--fork', '--kill-child', 'sh', '-ec', enter, 'sh',
    root, options, sys.executable, inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
box.stdout.readline()
"""


@pytest.fixture
def layers(disk: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with `upper`, `work`, a `lower` that holds one file, and the empty `root`."""
    folder = disk / request.node.name.partition("[")[0]
    for name in ("upper", "work", "lower", "root"):
        (folder / name).mkdir(parents=True)
    (folder / "lower" / "lower").write_bytes(b"there before")
    return folder


@pytest.fixture
def merged(layers: Path) -> Iterator[Path]:
    """The overlay of `layers`, mounted here."""
    root = layers / "root"
    loopdev.run_tool("mount", "-t", "overlay", "-o", options(layers), "overlay", str(root))
    yield root
    loopdev.unmount(str(root))


def options(layers: Path) -> str:
    return ",".join(f"{name}dir={layers / name}" for name in ("lower", "upper", "work"))


def identity(path: Path) -> tuple[int, int]:
    """The kernel's number of the file system's device, and the inode."""
    found = path.stat()
    return os.major(found.st_dev) << 20 | os.minor(found.st_dev), found.st_ino


def of_overlays(result: TraceResult) -> dict[str, dict[str, object]]:
    """Rows of files of overlays by their last name."""
    rows = result.tables["files"].filter(pl.col("fs_type") == "overlay").drop_nulls("inner_path")
    return {str(row["inner_path"]).rpartition("/")[2]: row for row in rows.iter_rows(named=True)}


def assert_one_file(result: TraceResult, row: dict[str, object], disk: Path) -> None:
    """What became dirty, and what was written, is the file behind the one that was synced."""
    dev, ino = row["backing_dev"], row["backing_ino"]
    assert result.tables["dirtied"].filter(dev=dev, ino=ino)["bytes"].sum() >= 100_000, row
    assert result.tables["blocks"].filter(ino_dev=dev, ino=ino, op="write").height > 0, row
    assert result.tables["syscalls"].filter(dev=row["dev"], ino=row["ino"]).height > 0, row
    assert dev == identity(disk)[0]


def test_a_file_of_an_overlay_is_told_with_the_one_behind_it(spawn: Spawn, disk: Path, merged: Path) -> None:
    """Kept, deleted at once, and copied up from below: each has its file in the upper layer."""
    child, upper = spawn(SYNC, str(merged)), merged.parent / "upper"
    with Tracer(pids=(child.pid,), exclude_pids=(os.getpid(),)) as tracer:
        run(child)
        result = tracer.stop()
    rows = of_overlays(result)
    assert {"kept", "brief", "lower"} <= rows.keys()
    for name in ("kept", "brief", "lower"):
        assert_one_file(result, rows[name], disk)
        assert str(upper / name) == rows[name]["path"]
        assert str(merged / name) == rows[name]["inner_path"]
    for name in ("kept", "lower"):
        assert identity(upper / name) == (rows[name]["backing_dev"], rows[name]["backing_ino"])


def test_an_overlay_that_only_the_container_sees(spawn: Spawn, disk: Path, layers: Path) -> None:
    """Mounted in a mount namespace of its own: the host's path lies in the upper layer, the inner one in the
    container."""
    child = spawn(APART, str(layers / "root"), options(layers), SYNC)
    with Tracer(pids=(child.pid,), exclude_pids=(os.getpid(),)) as tracer:
        run(child)
        result = tracer.stop()
    rows = of_overlays(result)
    for name in ("kept", "brief", "lower"):
        assert_one_file(result, rows[name], disk)
        assert (str(layers / "upper" / name), f"/mnt/{name}") == (rows[name]["path"], rows[name]["inner_path"])


def test_a_file_elsewhere_has_nothing_behind_it(spawn: Spawn, disk: Path) -> None:
    """An ordinary file is its own."""
    (disk / "plain").mkdir()
    child = spawn(SYNC, str(disk / "plain"))
    with Tracer(pids=(child.pid,), exclude_pids=(os.getpid(),)) as tracer:
        run(child)
        files = tracer.stop().tables["files"]
    assert schema.FILES.schema == files.schema
    assert 0 == files.filter(pl.col("path").str.starts_with(str(disk))).drop_nulls("backing_ino").height
