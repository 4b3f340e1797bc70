"""Pages that leave the page cache and space that is given back, on this kernel: exactly who did it, of which file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import polars as pl
import pytest
from test_memory import dev_of
from watched_children import Spawn, run

from culpa.collect.trace.tracer import Tracer, TraceResult

pytestmark = [pytest.mark.root, pytest.mark.trace]

MIB = 1 << 20


def written(path: Path, size: int) -> int:
    """A file that is on the disk; its inode."""
    path.write_bytes(os.urandom(size))
    subprocess.run(["sync", "--file-system", str(path.parent)], check=True)
    return path.stat().st_ino


def seen(spawn: Spawn, reader: str, other: str, *arguments: str) -> tuple[TraceResult, int, int]:
    """What is seen of a watched child and of another one after it, and the pids of both."""
    first, second = spawn(reader, *arguments), spawn(other, *arguments)
    with Tracer(pids=(first.pid,), exclude_pids=(os.getpid(),)) as tracer:
        run(first)
        run(second)
        return tracer.stop(), first.pid, second.pid


READ = "open(sys.argv[1], 'rb').read()"
DROP = """
import os
for path in sys.argv[1:]:
    os.posix_fadvise(os.open(path, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
"""


def test_pages_are_told_by_who_took_them_out_of_files_that_were_used(spawn: Spawn, disk: Path) -> None:
    """Two files leave the cache by an unwatched program's doing: the one that the watched program read is told."""
    used, other = disk / "used", disk / "other"
    ino, _ = written(used, 3 * MIB + 100), written(other, MIB)
    result, _, dropper = seen(spawn, READ, DROP, str(used), str(other))
    rows = result.tables["uncached"].filter(dev=dev_of(disk))
    assert {(ino, dropper)} == set(rows.select("ino", "pid").iter_rows())
    assert 3 * MIB + 4096 == rows["bytes"].sum()
    assert (rows["to_ns"] >= rows["from_ns"]).all()
    assert dropper in result.tables["tasks"]["pid"].to_list()


DELETE = "import os; os.unlink(sys.argv[1])"


def test_pages_of_a_deleted_file_left_for_good(spawn: Spawn, disk: Path) -> None:
    """They are not told: nobody can read them again. The space of the file is, with its name."""
    path = disk / "to be deleted"
    ino = written(path, 5 * MIB)
    result, _, deleter = seen(spawn, READ, DELETE, str(path))
    assert result.tables["uncached"].filter(ino=ino, dev=dev_of(disk)).is_empty()
    freed = result.tables["freed"].filter(dev=dev_of(disk))
    assert [(ino, deleter, 5 * MIB)] == freed.select("ino", "pid", "bytes").rows()
    files = result.tables["files"].filter(dev=dev_of(disk), ino=ino)
    assert [str(path)] == files["path"].to_list()


WAYS = """
import os
path = sys.argv[1]
def new(name, size=4 << 20):
    descriptor = os.open(f'{path}/{name}', os.O_RDWR | os.O_CREAT)
    os.write(descriptor, bytes(size)); os.fsync(descriptor)
    return descriptor
open(f'{path}/inodes', 'w').write(' '.join(str(os.fstat(new(name)).st_ino) for name in 'abcdef'))
new('small', 4096)
os.closerange(3, 20)
held = os.open(f'{path}/a', os.O_RDWR)
os.unlink(f'{path}/small')
os.rename(f'{path}/c', f'{path}/b')
os.link(f'{path}/d', f'{path}/second'); os.unlink(f'{path}/d')
os.truncate(f'{path}/e', 1 << 20)
os.close(os.open(f'{path}/f', os.O_WRONLY | os.O_TRUNC))
os.unlink(f'{path}/a'); os.close(held)
"""


def test_each_way_to_let_go_of_a_file_is_told_and_none_that_keeps_it(spawn: Spawn, disk: Path) -> None:
    """Replaced, cut, emptied, closed last; not with another name left, and nothing small."""
    folder = disk / "ways"
    folder.mkdir()
    child = spawn(WAYS, str(folder))
    with Tracer(pids=(child.pid,), exclude_pids=(os.getpid(),)) as tracer:
        run(child)
        result = tracer.stop()
    a, b, _, _, e, f = map(int, (folder / "inodes").read_text().split())
    freed = result.tables["freed"].filter(pl.col("dev") == dev_of(disk)).sort("from_ns")
    assert [(b, 4 * MIB), (e, 3 * MIB), (f, 4 * MIB), (a, 4 * MIB)] == freed.select("ino", "bytes").rows()
    calls = result.tables["syscalls"].filter(pid=child.pid)
    names = {87: "unlink", 82: "rename", 76: "truncate", 257: "openat", 3: "close"}
    within = [
        names.get(int(calls.filter((pl.col("enter_ns") <= ns) & (pl.col("exit_ns") >= ns))["nr"][0]))
        for ns in freed["from_ns"].to_list()
    ]
    assert ["rename", "truncate", "openat", "close"] == within
