"""Files of an overlay, and the files of another file system that hold their data.

An overlay shows inodes of its own, while pages that are dirtied and block requests carry those of the layer that a file
lies in. Who mounted the overlay named the layers; a file there is taken for the same one only if it looks the same from
both sides, and one that is gone by now if its pages were seen to become dirty under that name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from culpa.collect.trace.mounts import HostPaths
from culpa.units import DevT, dev_t

if TYPE_CHECKING:
    from culpa.collect.trace.identity import File

OVERLAY: Final = "overlay"
MAX_LOOKED_UP: Final = 20_000
"""Files of overlays that are looked for in their layers, a few calls of stat each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """The file behind a file of an overlay; `path` as culpa sees it, None where it does not see it."""

    dev: int
    ino: int
    path: str | None


class Layers:
    """Finds what is behind files of overlays."""

    def __init__(
        self,
        files: Mapping[tuple[int, int], File],
        dirtied: Mapping[tuple[int, str], int],
        paths: HostPaths,
        proc: Path = Path("/proc"),
    ) -> None:
        """`files`: all that were met; `dirtied`: inodes that were, by device and path within the file system."""
        self._paths = paths
        self._proc = proc
        self._dirtied = dirtied
        self._witnesses: dict[int, list[int]] = {}
        for file in files.values():
            if not file.within:
                self._witnesses.setdefault(file.mnt_ns, []).append(file.pid)
        self._devices = sorted({dev for dev, _ in dirtied})
        self._left = MAX_LOOKED_UP

    def behind(self, file: File) -> Backing | None:
        """The file behind one of an overlay; None where `file` is none, or where that cannot be told."""
        if file.fs_type != OVERLAY or file.path is None or file.within or self._left <= 0:
            return None
        self._left -= 1
        pid = self._witness(file)
        places = self._paths.layered(pid, file.dev, file.path)
        return self._there(pid, file, places) or self._gone(places)

    def _witness(self, file: File) -> int:
        """A process of that mount namespace which is still there: who met the file may have ended."""
        known = dict.fromkeys([file.pid, *self._witnesses.get(file.mnt_ns, ())])
        return next((pid for pid in known if self._paths.knows(pid)), file.pid)

    def _there(self, pid: int, file: File, places: Sequence[str]) -> Backing | None:
        """In culpa's own view of the layers, else in that of the process, which may have mounted the overlay itself."""
        root = self._proc / str(pid) / "root"
        shown = _status(root, file.path or "")
        if shown is None or _is_another(shown, file):
            return None
        for place in places:
            for base in (Path("/"), root):
                held = _status(base, place)
                if held is not None and _look_alike(held, shown):
                    dev = _dev(held)
                    path = place if base != root else self._paths.outside(pid, dev, place)
                    return Backing(dev=dev, ino=held.st_ino, path=path)
        return None

    def _gone(self, places: Sequence[str]) -> Backing | None:
        """By the name under which its pages became dirty, within the file system of the upper layer."""
        for place in places[:1]:
            for dev in self._devices:
                ino = self._dirtied.get((dev, self._paths.place(place, dev) or ""))
                if ino is not None:
                    return Backing(dev=dev, ino=ino, path=place)
        return None


def _status(base: Path, path: str) -> os.stat_result | None:
    try:
        return (base / path.lstrip("/")).lstat()
    except (OSError, ValueError):
        return None


def _is_another(shown: os.stat_result, file: File) -> bool:
    """Whether another file has that name by now; an overlay without inodes of its own kind shows other devices."""
    return _dev(shown) == file.dev and shown.st_ino != file.ino


def _look_alike(held: os.stat_result, shown: os.stat_result) -> bool:
    """Whether both can be one file. A file that was copied up keeps the inode number of its lower layer."""
    same = held.st_ino == shown.st_ino or held.st_mtime_ns == shown.st_mtime_ns
    return same and held.st_size == shown.st_size and held.st_mode == shown.st_mode


def _dev(status: os.stat_result) -> DevT:
    return dev_t(os.major(status.st_dev), os.minor(status.st_dev))
