"""Paths of one mount namespace as another sees them, through mountinfo.

A path inside a container is first taken back to its place in the file system that holds it (device, path from that file
system's root), then looked up among the host's own mounts of the same device. See proc_pid_mountinfo(5). An overlay
names the folders it is made of among its options (Documentation/filesystems/overlayfs.rst).
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
_COLON: Final = re.compile(r"(?<!\\):")
_LOWER: Final = ("lowerdir", "lowerdir+", "datadir+")
MAX_MOUNTINFO_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo: which part of which file system stands where."""

    dev: int
    root: str
    point: str
    layers: tuple[str, ...] = ()
    """Of an overlay: its folders as whoever mounted it named them, uppermost first."""


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
        found = self._inside(str(pid), dev, path)
        return None if found is None else self.of(dev, found[1])

    def layered(self, pid: int, dev: int, path: str) -> tuple[str, ...]:
        """Where `path` of process `pid` may lie in the layers of the overlay `dev`, uppermost first."""
        found = self._inside(str(pid), dev, path)
        return () if found is None else tuple(_join(layer, found[1].lstrip("/")) for layer in found[0].layers)

    def place(self, path: str, dev: int) -> str | None:
        """What culpa sees as `path`, as its place within the file system on `dev`; None where that is not there."""
        found = self._inside("self", dev, path)
        return None if found is None else found[1]

    def knows(self, pid: int) -> bool:
        """Whether the mounts of a process can (still) be read."""
        return bool(self._mounts(str(pid)))

    def _inside(self, process: str, dev: int, path: str | None) -> tuple[Mount, str] | None:
        """The mount on `dev` that holds `path` of a process, and the place within the file system."""
        fits = [
            (mount, rest)
            for mount in self._mounts(process)
            if path is not None and mount.dev == dev and (rest := _below(path, mount.point)) is not None
        ]
        mount, rest = max(fits, key=lambda fit: len(fit[0].point), default=(None, ""))
        return None if mount is None else (mount, _join(mount.root, rest))

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
        root, point = (_plain(part) for part in fields[3:5])
        mounts.append(Mount(dev=dev_t(int(major), int(minor)), root=root, point=point, layers=_layers(fields)))
    return tuple(mounts)


def _layers(fields: list[str]) -> tuple[str, ...]:
    """The folders of an overlay; relative ones cannot be followed."""
    end = fields.index("-") if "-" in fields else len(fields)
    if fields[end + 1 : end + 2] != ["overlay"] or len(fields) < end + 4:
        return ()
    options = [option.partition("=")[::2] for option in fields[end + 3].split(",")]
    upper = [_plain(value) for name, value in options if name == "upperdir"]
    lower = [part for name, value in options if name in _LOWER for part in _COLON.split(_plain(value)) if part]
    return tuple(layer.replace("\\:", ":") for layer in upper + lower if layer.startswith("/"))


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def _below(path: str, folder: str) -> str | None:
    """The rest of `path` under `folder`, without leading slash; None if it is not under it."""
    if folder == "/":
        return path.lstrip("/")
    if path == folder:
        return ""
    return path[len(folder) + 1 :] if path.startswith(folder + "/") else None


def _join(folder: str, rest: str) -> str:
    return f"{folder.rstrip('/')}/{rest}" if rest else folder
