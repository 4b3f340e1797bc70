"""How much room is left on the file systems that the target can see: statvfs(3).

File systems that may wait for another host are never asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from culpa.collect.openfiles import REMOTE
from culpa.collect.procfs import namespace_inode, own_pid, parse_mountinfo, read_bounded
from culpa.units import format_dev, printable

MAX_FILE_SYSTEMS = 200
MAX_NAMESPACES = 16
MAX_POINT_CHARS = 4096
STATVFS = "statvfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One file system: where it is mounted, its device as `major:minor`, and what statvfs says of it.

    `available_bytes` is what programs without privileges may still take; `inodes` 0: it makes them as it needs them.
    """

    point: str
    dev: str
    bytes: int
    available_bytes: int
    inodes: int
    free_inodes: int

    @property
    def source(self) -> str:
        """Of its counters."""
        return f"{STATVFS} {self.dev}"

    def fields(self) -> Iterator[tuple[str, float]]:
        """Names and values of its counters."""
        for name in ("bytes", "available_bytes", "inodes", "free_inodes"):
            yield name, float(getattr(self, name))


def room_left(pids: Iterable[int], proc_root: Path) -> Iterator[Room]:
    """Every local file system with a size that culpa, or one of these processes, has mounted; each once."""
    seen: set[int] = set()
    for pid, prefix in _namespaces(pids, proc_root):
        for mount in parse_mountinfo(read_bounded(proc_root / str(pid) / "mountinfo") or b""):
            remote = mount.fs_type in REMOTE or mount.fs_type.startswith("fuse")
            if remote or int(mount.dev) in seen or len(seen) >= MAX_FILE_SYSTEMS:
                continue
            seen.add(int(mount.dev))
            found = _room(prefix, mount.point, format_dev(mount.dev))
            if found is not None:
                yield found


def _namespaces(pids: Iterable[int], proc_root: Path) -> Iterator[tuple[int, str]]:
    """One process for each mount namespace, and where its root is found; culpa's own first."""
    own = own_pid()
    seen = {namespace_inode(proc_root, own, "mnt")}
    yield own, ""
    for pid in sorted(pids):
        namespace = namespace_inode(proc_root, pid, "mnt")
        if namespace is not None and namespace not in seen and len(seen) < MAX_NAMESPACES:
            seen.add(namespace)
            yield pid, f"{proc_root}/{pid}/root"


def _room(prefix: str, point: str, dev: str) -> Room | None:
    """None where it is gone or covered, is read-only, or has no size (proc, sysfs)."""
    try:
        place = os.stat(f"{prefix}{point}", follow_symlinks=False)  # noqa: PTH116 - once for each mount
        said = os.statvfs(f"{prefix}{point}")
    except OSError:
        return None
    if f"{os.major(place.st_dev)}:{os.minor(place.st_dev)}" != dev or not said.f_blocks or said.f_flag & os.ST_RDONLY:
        return None
    return Room(
        point=printable(point, MAX_POINT_CHARS),
        dev=dev,
        bytes=said.f_blocks * said.f_frsize,
        available_bytes=said.f_bavail * said.f_frsize,
        inodes=said.f_files,
        free_inodes=said.f_ffree,
    )
