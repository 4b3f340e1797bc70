"""Paths of one mount namespace as another sees them, through mountinfo.

A path inside a container is first taken back to its place in the file system that holds it (device, path from that file
system's root), then looked up among the host's own mounts of the same device. See proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from culpa.units import dev_t

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
MAX_MOUNTINFO_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo: which part of which file system stands where."""

    dev: int
    root: str
    point: str


class HostPaths:
    """Translates paths of other mount namespaces; mount tables are read once per process."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """`proc` is where /proc is mounted."""
        self._proc = proc
        self._own = (proc / "self/ns/mnt").stat().st_ino
        self._tables: dict[str, tuple[Mount, ...]] = {}

    def is_own(self, mnt_ns: int) -> bool:
        """Whether `mnt_ns` is the mount namespace culpa itself is in."""
        return mnt_ns == self._own

    def outside(self, pid: int, dev: int, path: str | None) -> str | None:
        """`path` of process `pid` on device `dev`, as culpa sees it; None where it has no such mount."""
        if path is None:
            return None
        inside = max(
            (mount for mount in self._mounts(str(pid)) if mount.dev == dev and _below(path, mount.point) is not None),
            key=lambda mount: len(mount.point),
            default=None,
        )
        if inside is None:
            return None
        return self.of(dev, _join(inside.root, _below(path, inside.point) or ""))

    def of(self, dev: int, place: str | None) -> str | None:
        """What lies at `place` within the file system on `dev`, as culpa sees it; None where that is not mounted."""
        for mount in self._mounts("self"):
            rest = _below(place or "", mount.root)
            if place is not None and mount.dev == dev and rest is not None:
                return _join(mount.point, rest)
        return None

    def _mounts(self, process: str) -> tuple[Mount, ...]:
        if process not in self._tables:
            self._tables[process] = ()
            with suppress(OSError), (self._proc / process / "mountinfo").open("rb") as file:
                self._tables[process] = parse_mountinfo(os.fsdecode(file.read(MAX_MOUNTINFO_BYTES)))
        return self._tables[process]


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """The mounts of a mountinfo file, in its order; lines that are none are left out."""
    mounts = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 6 or not re.fullmatch(r"\d+:\d+", fields[2]):
            continue
        major, minor = fields[2].split(":")
        root, point = (_OCTAL.sub(lambda found: chr(int(found[1], 8)), part) for part in fields[3:5])
        mounts.append(Mount(dev=dev_t(int(major), int(minor)), root=root, point=point))
    return tuple(mounts)


def _below(path: str, folder: str) -> str | None:
    """The rest of `path` under `folder`, without leading slash; None if it is not under it."""
    if folder == "/":
        return path.lstrip("/")
    if path == folder:
        return ""
    return path[len(folder) + 1 :] if path.startswith(folder + "/") else None


def _join(folder: str, rest: str) -> str:
    return f"{folder.rstrip('/')}/{rest}" if rest else folder
