"""An fd of another process is the file that stat sees there, under the path the host sees."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
from living import line_of, running

from culpa.capture.schema import FILES
from culpa.collect.openfiles import OpenFiles, appended_to, lengths, opened
from culpa.units import dev_t


def identity(path: Path) -> tuple[int, int]:
    """Device in the kernel's encoding, and inode."""
    found = path.stat()
    return dev_t(os.major(found.st_dev), os.minor(found.st_dev)), found.st_ino


def test_regular_file(tmp_path: Path) -> None:
    """Identity, kind and path; also after it was deleted, without the kernel's suffix."""
    path = tmp_path / "a b.aof"
    files = OpenFiles()
    with path.open("w") as file:
        wanted = identity(path)
        path.unlink()
        found = files.look(os.getpid(), file.fileno())
    assert found is not None
    assert (*wanted, "reg") == (found.dev, found.ino, found.file_type)
    (row,) = files.rows().to_dicts()
    assert (wanted[0], wanted[1], str(path), None) == (row["dev"], row["ino"], row["path"], row["inner_path"])
    assert row["fs_type"]


def test_files_open_for_appending(tmp_path: Path) -> None:
    """Of the files of a process, those opened with O_APPEND; a pid that is gone has none."""
    log, other = tmp_path / "log", tmp_path / "other"
    with log.open("a"), other.open("w"):
        found = appended_to([os.getpid(), 2**22 + 1])
        assert identity(log) in found
        assert identity(other) not in found
    assert identity(log) not in appended_to([os.getpid()])


def test_files_open_so_that_writes_are_synced(tmp_path: Path) -> None:
    """O_DSYNC and O_SYNC, which includes it; how a file is open for appending is told beside it."""
    ways = {"data": os.O_DSYNC, "all": os.O_SYNC | os.O_APPEND, "none": os.O_APPEND}
    fds = [os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT | flags) for name, flags in ways.items()]
    try:
        found = opened([os.getpid()])
    finally:
        for fd in fds:
            os.close(fd)
    names = {identity(tmp_path / name): name for name in ways}

    assert {"data", "all"} == {names[one] for one in found.synced if one in names}
    assert {"all", "none"} == {names[one] for one in found.appended if one in names}


def test_files_are_measured_where_they_still_have_their_path(tmp_path: Path) -> None:
    """Not one that is gone, whose path another has, or whose file system may wait for another host."""
    names = ("here", "gone", "replaced", "remote")
    for name in names:
        (tmp_path / name).write_text("12345")
    known = [identity(tmp_path / name) for name in names]
    (tmp_path / "gone").unlink()
    (tmp_path / "new").write_text("1234567")
    (tmp_path / "new").rename(tmp_path / "replaced")
    files = FILES.frame(
        {
            "dev": [dev for dev, _ in known], "ino": [ino for _, ino in known],
            "path": [str(tmp_path / name) for name in names], "fs_type": ["ext4"] * 3 + ["nfs4"],
        }
    )  # fmt: skip
    assert [(*known[0], 5)] == lengths(files).rows()


def test_a_name_that_ends_like_a_deleted_file(tmp_path: Path) -> None:
    """` (deleted)` may be a part of the name."""
    path = tmp_path / "x (deleted)"
    files = OpenFiles()
    with path.open("w") as file:
        files.look(os.getpid(), file.fileno())
    assert [str(path)] == files.rows()["path"].to_list()


def test_other_kinds(tmp_path: Path) -> None:
    """Socket, pipe, directory, device, epoll; and a closed fd is nothing."""
    import select

    files, me = OpenFiles(), os.getpid()
    reading, writing = os.pipe()
    folder = os.open(tmp_path, os.O_RDONLY)
    null = os.open("/dev/null", os.O_RDONLY)
    one, two = socket.socketpair()
    poll = select.epoll()
    kinds = {fd: files.look(me, fd) for fd in (reading, folder, null, one.fileno(), poll.fileno())}
    assert ["fifo", "dir", "chr", "sock", "anon"] == [found.file_type if found else None for found in kinds.values()]
    assert os.fstat(one.fileno()).st_ino == getattr(kinds[one.fileno()], "ino", None)
    for fd in (reading, writing, folder, null):
        os.close(fd)
    one.close()
    two.close()
    poll.close()
    assert files.look(me, reading) is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a mount namespace needs root and unshare")
def test_file_in_another_mount_namespace(tmp_path: Path) -> None:
    """A bind mount that only the process has: `path` is the host's, `inner_path` its own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "inner").mkdir()
    code = "import sys; f=open(sys.argv[1],'w'); print(f.fileno()); sys.stdin.read()"
    script = 'mount --bind "$0/data" "$0/inner" && exec "$@"'
    prefix = ("unshare", "-m", "sh", "-c", script, str(tmp_path))
    with running(code, str(tmp_path / "inner" / "f"), prefix=prefix) as child:
        files = OpenFiles()
        found = files.look(child.pid, int(line_of(child)))
        assert found is not None
        assert identity(tmp_path / "data" / "f") == (found.dev, found.ino)
        (row,) = files.rows().to_dicts()
        assert (str(tmp_path / "data" / "f"), str(tmp_path / "inner" / "f")) == (row["path"], row["inner_path"])
