"""Control groups of a process: parser of /proc/PID/cgroup, systemd unit and container id in the path, mounted files.

Version 1 has one line per controller, version 2 the line `0::PATH`, hybrid hosts both (cgroups(7)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from culpa.collect.procfs import PROC, Mount, decoded, parse_mountinfo, read_bounded
from culpa.units import printable

MAX_DEPTH = 16
MAX_PATH_CHARS = 400
UNIFIED = ""
NAMED_SYSTEMD = "name=systemd"

_CONTAINER_HEX = re.compile(r"(?<![0-9a-f])(?<!conmon-)[0-9a-f]{64}(?![0-9a-f])")
"""The scope of a monitor (libpod-conmon-ID.scope, crio-conmon-ID.scope) is not the container's."""
_CONTAINER_NAMED = re.compile(r"(?:^|/)(?:lxc\.payload[./]|lxc/|machine\.slice/machine-|systemd-nspawn@)([^/]+)")
_UNIT = re.compile(r"[^/]+\.(?:service|scope)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Where a process is: its path by controller (`""` is version 2), and what the most telling path names."""

    paths: Mapping[str, str]
    path: str
    unit: str | None
    container: str | None


def parse_cgroup(raw: bytes) -> Membership:
    """Read /proc/PID/cgroup, both versions."""
    paths: dict[str, str] = {}
    for line in decoded(raw).split("\n"):
        number, first, rest = line.partition(":")
        controllers, second, path = rest.partition(":")
        if first and second and number.isdecimal():
            paths.update(dict.fromkeys(controllers.split(","), path))
    path = _most_telling(paths)
    return Membership(
        paths=paths, path=printable(path, MAX_PATH_CHARS), unit=_unit_in(path), container=_container_in(path)
    )


def _most_telling(paths: Mapping[str, str]) -> str:
    """systemd's own hierarchy where it says something, else the deepest path of any controller."""
    for controller in (UNIFIED, NAMED_SYSTEMD):
        if paths.get(controller, "/") != "/":
            return paths[controller]
    return max(paths.values(), key=lambda path: (path.rstrip("/").count("/"), path != "/", path), default="/")


def _unit_in(path: str) -> str | None:
    """The innermost service, else the innermost scope."""
    units = [part for part in path.split("/") if _UNIT.fullmatch(part)]
    services = [unit for unit in units if unit.endswith(".service")]
    found = (services or units)[-1:]
    return printable(found[0]) if found else None


def _container_in(path: str) -> str | None:
    found = container_ids(path)
    return found[-1] if found else None


def container_ids(path: str) -> list[str]:
    """The containers a path lies in, outermost first.

    Ids of 64 hexadecimal digits (Docker, containerd, CRI-O, Podman), else an LXC or machined name.
    """
    hexes = [str(one) for one in _CONTAINER_HEX.findall(path)]
    named = None if hexes else _CONTAINER_NAMED.search(path)
    return [printable(named[1].removesuffix(".scope"))] if named else hexes


def read_membership(proc_root: Path, pid: int) -> Membership | None:
    """The control groups of a process; None where it is gone."""
    raw = read_bounded(proc_root / str(pid) / "cgroup")
    return None if raw is None else parse_cgroup(raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchies:
    """Where the host mounted each controller; `""` is version 2."""

    mounts: Mapping[str, Mount]

    @classmethod
    def read(cls, proc_root: Path = PROC) -> Hierarchies:
        """From culpa's own mountinfo."""
        raw = read_bounded(proc_root / "self" / "mountinfo") or b""
        mounts: dict[str, Mount] = {}
        for mount in parse_mountinfo(raw):
            if mount.fs_type == "cgroup2":
                mounts.setdefault(UNIFIED, mount)
            elif mount.fs_type == "cgroup":
                for option in mount.options:
                    mounts.setdefault(option, mount)
        return cls(mounts=mounts)

    def directories(self, controller: str, path: str) -> Iterator[Path]:
        """The group's directory and its ancestors' up to the mount, innermost first; a limit may sit on any of them."""
        mount = self.mounts.get(controller)
        if mount is None or ".." in PurePosixPath(path).parts:
            return
        inside = PurePosixPath(path)
        root = PurePosixPath(mount.root)
        relative = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
        parts = relative.parts[:MAX_DEPTH]
        for depth in range(len(parts), -1, -1):
            yield Path(mount.point, *(part for part in parts[:depth] if part != "/"))
