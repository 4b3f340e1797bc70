"""Which file an fd of another process is: identity, kind and path, without ever waiting for a remote file system.

A link in /proc/PID/fd gives the path as the process's mount namespace has it; its mountinfo against culpa's own gives
the path as the host sees it (fs/proc/fd.c, fs/proc_namespace.c).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import polars as pl

from culpa.capture.schema import FILES
from culpa.collect.procfs import (
    PROC,
    Mount,
    namespace_inode,
    numbers_in,
    own_pid,
    parse_fdinfo,
    parse_mountinfo,
    read_bounded,
    read_link,
)
from culpa.units import DevT, dev_t, printable

MAX_FILES = 50_000
MAX_LOOKED_AT = 4096
"""Fds whose flags are read at the end, a few microseconds each."""
MAX_MEASURED = 4096
"""Files whose length is asked for at the end, a microsecond or two each."""
MAX_PATH_CHARS = 4096
REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "afs", "lustre", "glusterfs", "beegfs", "gpfs", "autofs"}
)
"""stat(2) on these may wait for another host; so may it for fuse file systems, which are named fuse.NAME."""
_DELETED = " (deleted)"
_KINDS = {
    stat.S_IFREG: "reg", stat.S_IFDIR: "dir", stat.S_IFCHR: "chr", stat.S_IFBLK: "blk", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "sock",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """The file behind an fd, as `schema.SAMPLES` has it."""

    dev: DevT
    ino: int
    file_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    path: str | None
    inner_path: str | None
    fs_type: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Device and inode of the files that processes have open in a way that matters: `appended` as a log is, `synced` so
    that each write returns only when it is on the disk.
    """

    appended: frozenset[tuple[int, int]] = frozenset()
    synced: frozenset[tuple[int, int]] = frozenset()


def opened(pids: Iterable[int], proc_root: Path = PROC) -> Opened:
    """How processes have their files open now, by the flags of their fds."""
    files = OpenFiles(proc_root)
    appended: set[tuple[int, int]] = set()
    synced: set[tuple[int, int]] = set()
    for pid, fd in islice(fds(pids, proc_root), MAX_LOOKED_AT):
        flags = parse_fdinfo(read_bounded(f"{proc_root}/{pid}/fdinfo/{fd}") or b"").flags
        file = files.look(pid, fd) if flags & (os.O_APPEND | os.O_DSYNC) else None
        if file is None or file.file_type != "reg":
            continue
        for flag, found in ((os.O_APPEND, appended), (os.O_DSYNC, synced)):
            if flags & flag:
                found.add((int(file.dev), file.ino))
    return Opened(appended=frozenset(appended), synced=frozenset(synced))


def appended_to(pids: Iterable[int], proc_root: Path = PROC) -> frozenset[tuple[int, int]]:
    """Device and inode of the files that processes have open for appending."""
    return opened(pids, proc_root).appended


def lengths(files: pl.DataFrame) -> pl.DataFrame:
    """dev, ino, size of the files that still have their path, but for those whose file system may wait for another
    host.

    Args:
        files: `schema.FILES`.
    """
    local = ~pl.col("fs_type").is_in(list(REMOTE)) & ~pl.col("fs_type").str.starts_with("fuse")
    found = []
    for dev, ino, path in files.filter(local).drop_nulls("path").head(MAX_MEASURED).select("dev", "ino", "path").rows():
        try:
            seen = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - thousands of times
        except OSError:
            continue
        if stat.S_ISREG(seen.st_mode) and (dev_t(os.major(seen.st_dev), os.minor(seen.st_dev)), seen.st_ino) == (
            dev,
            ino,
        ):
            found.append((dev, ino, seen.st_size))
    names = {name: FILES.schema[name] for name in ("dev", "ino", "size")}
    return pl.DataFrame(found, schema=names, orient="row").unique(["dev", "ino"], keep="first", maintain_order=True)


def fds(pids: Iterable[int], proc_root: Path = PROC) -> Iterator[tuple[int, int]]:
    """Processes and the numbers of their open files."""
    for pid in pids:
        for fd in numbers_in(proc_root / str(pid) / "fdinfo"):
            yield pid, fd


class OpenFiles:
    """Looks at fds, and remembers every named file it saw for the FILES table."""

    def __init__(self, proc_root: Path = PROC) -> None:
        self._root = proc_root
        self._named: dict[tuple[int, int], _Named] = {}
        self._mounts: dict[int | None, dict[int, Mount]] = {}
        self._mount_of: dict[tuple[int, int, str], Mount | None] = {}
        self._own = namespace_inode(proc_root, own_pid(), "mnt")

    def look(self, pid: int, fd: int) -> OpenFile | None:
        """What an fd is now; None where it is closed, gone or refused."""
        place = f"{self._root}/{pid}/fd/{fd}"
        link = read_link(place)
        if link is None:
            return None
        mount = self._mount(pid, fd, link) if link.startswith("/") else None
        if mount is not None and (mount.fs_type in REMOTE or mount.fs_type.startswith("fuse")):
            return self._remote(pid, fd, link, mount)
        return self._local(pid, place, link, mount)

    def rows(self) -> pl.DataFrame:
        """Every named file seen so far, as `schema.FILES`."""
        return FILES.frame(
            {
                "dev": [dev for dev, _ in self._named],
                "ino": [ino for _, ino in self._named],
                "path": [named.path for named in self._named.values()],
                "inner_path": [named.inner_path for named in self._named.values()],
                "fs_type": [named.fs_type for named in self._named.values()],
            }
        )

    def _local(self, pid: int, place: str, link: str, mount: Mount | None) -> OpenFile | None:
        try:
            found = os.stat(place)  # noqa: PTH116 - in the sampler's inner loop
        except OSError:
            return None
        anonymous = link.startswith("anon_inode:")
        kind = "anon" if anonymous else _KINDS.get(stat.S_IFMT(found.st_mode), "anon")
        file = OpenFile(dev=dev_t(os.major(found.st_dev), os.minor(found.st_dev)), ino=found.st_ino, file_type=kind)
        if link.startswith("/"):
            self._remember(pid, file, link.removesuffix(_DELETED) if found.st_nlink == 0 else link, mount)
        return file

    def _remote(self, pid: int, fd: int, link: str, mount: Mount) -> OpenFile | None:
        """Without stat: the inode from fdinfo (Linux 5.14), the kind from the open flags."""
        info = parse_fdinfo(read_bounded(f"{self._root}/{pid}/fdinfo/{fd}") or b"")
        if info.ino is None:
            return None
        file = OpenFile(dev=mount.dev, ino=info.ino, file_type="dir" if info.flags & os.O_DIRECTORY else "reg")
        self._remember(pid, file, link, mount)
        return file

    def _remember(self, pid: int, file: OpenFile, link: str, mount: Mount | None) -> None:
        key = (file.dev, file.ino)
        if key in self._named or len(self._named) >= MAX_FILES:
            return
        inside = namespace_inode(self._root, pid, "mnt") != self._own
        path = self._host_path(link, mount) if inside else link
        self._named[key] = _Named(
            path=None if path is None else printable(path, MAX_PATH_CHARS),
            inner_path=printable(link, MAX_PATH_CHARS) if inside and path != link else None,
            fs_type=None if mount is None else mount.fs_type,
        )

    def _host_path(self, link: str, mount: Mount | None) -> str | None:
        """Where the host mounted the same part of the same file system; None where it did not."""
        if mount is None or not PurePosixPath(link).is_relative_to(mount.point):
            return None
        in_fs = PurePosixPath(mount.root, PurePosixPath(link).relative_to(mount.point))
        for seen in self._mounts_of(own_pid(), self._own).values():
            if seen.dev == mount.dev and in_fs.is_relative_to(seen.root):
                return str(PurePosixPath(seen.point, in_fs.relative_to(seen.root)))
        return None

    def _mount(self, pid: int, fd: int, link: str) -> Mount | None:
        key = (pid, fd, link)
        if key not in self._mount_of:
            if len(self._mount_of) >= MAX_FILES:
                self._mount_of.clear()
            self._mount_of[key] = self._find_mount(pid, fd)
        return self._mount_of[key]

    def _find_mount(self, pid: int, fd: int) -> Mount | None:
        info = parse_fdinfo(read_bounded(f"{self._root}/{pid}/fdinfo/{fd}") or b"")
        namespace = namespace_inode(self._root, pid, "mnt")
        if info.mount_id is None:
            return None
        if info.mount_id not in self._mounts_of(pid, namespace):
            self._mounts.pop(namespace, None)
        return self._mounts_of(pid, namespace).get(info.mount_id)

    def _mounts_of(self, pid: int, namespace: int | None) -> dict[int, Mount]:
        if namespace not in self._mounts:
            raw = read_bounded(self._root / str(pid) / "mountinfo") or b""
            self._mounts[namespace] = {mount.mount_id: mount for mount in parse_mountinfo(raw)}
        return self._mounts[namespace]
