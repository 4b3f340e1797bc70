"""From a unit, a container or a control group to its processes, and to those that join it later.

Which process is where is read from /proc/PID/cgroup, which says it for both versions and for every controller; the
mounted directories are asked only for groups that hold no process, and for names to propose.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from culpa.collect.cgroups import Hierarchies, container_ids, read_membership
from culpa.collect.containers import ids_by_name
from culpa.collect.procfs import PROC, Mount, decoded, numbers_in, own_pid, read_bounded
from culpa.errors import CulpaError, UsageError
from culpa.target import GroupTarget
from culpa.units import printable

MAX_DIRECTORIES: Final = 20_000
MAX_LISTED: Final = 20
MAX_MEMBERS: Final = 4000
UNIT_KINDS: Final = (".service", ".scope", ".slice", ".mount", ".socket", ".swap")
MIN_ID_CHARS: Final = 4
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Control groups with all below them: pairs of controller and path; the controller None stands for any."""

    tops: frozenset[tuple[str | None, str]]

    def members(self, proc_root: Path = PROC) -> frozenset[int]:
        """The processes in it now, without culpa."""
        own = own_pid(proc_root)
        return frozenset(pid for pid in numbers_in(proc_root) if pid != own and self._holds(proc_root, pid))

    def _holds(self, proc_root: Path, pid: int) -> bool:
        membership = read_membership(proc_root, pid)
        return membership is not None and any(
            wanted in (None, controller) and is_below(path, top)
            for controller, path in membership.paths.items()
            for wanted, top in self.tops
        )


def is_below(path: str, top: str) -> bool:
    """Whether a group is `top` or lies in it."""
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def find_group(target: GroupTarget, proc_root: Path = PROC, root: Path = Path("/")) -> Group:
    """What a target names on this host, be it empty or not.

    Args:
        target: unit, container or path.
        proc_root: where /proc is.
        root: below it lie the files in which container engines keep names.

    Raises:
        CulpaError: there is no such group; the message lists those of similar names.
        UsageError: several answer to it, or it is the root of all.
    """
    hierarchies = Hierarchies.read(proc_root)
    if target.kind == "cgroup":
        return _by_path(target, hierarchies, proc_root)
    known = set(_known_paths(hierarchies, proc_root))
    if target.kind == "unit":
        names = _spellings(target.name)
        tops = {top for path in known for top in _tops(path, names.__contains__)}
        proposals = {part for path in known for part in path.split("/") if part.endswith(UNIT_KINDS)}
    else:
        tops, proposals = _of_container(target.name, known, root)
    if not tops:
        raise _missing(target, proposals)
    if len(tops) > 1:
        lines = "\n".join(f"  cgroup:{printable(top)}" for top in sorted(tops)[:MAX_LISTED])
        raise UsageError(f"several control groups answer to {target.display}", way_out=f"name one:\n{lines}")
    return Group(tops=frozenset((None, top) for top in tops))


def processes_in(target: GroupTarget, proc_root: Path = PROC) -> tuple[int, ...]:
    """The processes of a target, ascending.

    Raises:
        CulpaError: there is no such group, it is empty, or it holds too many processes to watch them one by one.
        UsageError: see `find_group`.
    """
    pids = find_group(target, proc_root).members(proc_root)
    if not pids:
        raise CulpaError(f"{target.display} holds no process now", way_out="start it, or watch it while it runs")
    if len(pids) > MAX_MEMBERS:
        raise CulpaError(
            f"{target.display} holds {len(pids)} processes", way_out="name a smaller group, or watch the whole host"
        )
    return tuple(sorted(pids))


def _by_path(target: GroupTarget, hierarchies: Hierarchies, proc_root: Path) -> Group:
    controller, path = _place(target.name, hierarchies)
    if path == "/":
        raise UsageError(f"{target.display} is the whole host", way_out="run culpa why without a target")
    known = set(_known_paths(hierarchies, proc_root))
    if not any(is_below(one, path) for one in known):
        raise _missing(target, known)
    return Group(tops=frozenset({(controller, path)}))


def _place(name: str, hierarchies: Hierarchies) -> tuple[str | None, str]:
    """A path as /proc/PID/cgroup has it, or a directory of a mounted hierarchy, whose controller is meant then."""
    path = PurePosixPath("/", name.rstrip("/") or "/")
    for controller, mount in hierarchies.mounts.items():
        if path.is_relative_to(mount.point):
            return controller, str(PurePosixPath(mount.root, path.relative_to(mount.point)))
    return None, str(path)


def _known_paths(hierarchies: Hierarchies, proc_root: Path) -> Iterator[str]:
    """Every group that holds a process or has a directory."""
    for pid in numbers_in(proc_root):
        for line in decoded(read_bounded(proc_root / str(pid) / "cgroup") or b"").split("\n"):
            yield line.partition(":")[2].partition(":")[2] or "/"
    left = MAX_DIRECTORIES
    for mount in {mount.point: mount for mount in hierarchies.mounts.values()}.values():
        for path in _directories(mount):
            yield path
            left -= 1
            if left <= 0:
                return


def _directories(mount: Mount) -> Iterator[str]:
    for folder, _, _ in os.walk(os.fsencode(mount.point)):
        place = PurePosixPath(decoded(folder))
        yield str(PurePosixPath(mount.root, place.relative_to(mount.point)))


def _spellings(name: str) -> frozenset[str]:
    """systemctl(1): a name without a suffix is a service."""
    return frozenset({name} if name.endswith(UNIT_KINDS) else {f"{name}.service"})


def _tops(path: str, named: Callable[[str], bool]) -> Iterator[str]:
    """The outermost part of a path whose last name is the one that is meant."""
    parts = path.split("/")
    for at, part in enumerate(parts):
        if part and named(part):
            yield "/".join(parts[: at + 1])
            return


def _of_container(name: str, known: Iterable[str], root: Path) -> tuple[set[str], set[str]]:
    """The groups of one container, and the names and short ids of all; an exact name wins over the begin of an id."""
    by_id: dict[str, set[str]] = {}
    for path in known:
        for one in container_ids(path):
            by_id.setdefault(one, set()).update(_tops(path, lambda part, one=one: one in part))  # type: ignore[misc]  # bound now
    names = ids_by_name(root)
    wanted = {name} if name in by_id else {one for one in names.get(name, ()) if one in by_id}
    if not wanted and len(name) >= MIN_ID_CHARS and _HEX.issuperset(name):
        wanted = {one for one in by_id if one.startswith(name)}
    proposals = {one[:12] if _HEX.issuperset(one) else one for one in by_id}
    return {top for one in wanted for top in by_id[one]}, proposals | {
        one for one in names if names[one] & by_id.keys()
    }


def _missing(target: GroupTarget, proposals: Iterable[str]) -> CulpaError:
    what = {"unit": "unit", "container": "container", "cgroup": "control group"}[target.kind]
    there = sorted(proposals)
    near = difflib.get_close_matches(target.name, there, n=MAX_LISTED, cutoff=0.5)
    near += [one for one in there if target.name.strip("/") in one and one not in near]
    listed = ", ".join(printable(one) for one in (near or there)[:MAX_LISTED])
    way_out = f"there are: {listed}" if listed else f"no {what} runs on this host; see cat /proc/PID/cgroup"
    return CulpaError(f"there is no {what} {printable(target.name)}", way_out=way_out)
