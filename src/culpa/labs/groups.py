"""Control groups of a lab, in either version: where they are, made, joined and removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from culpa.errors import LabError
from culpa.labs import ledger
from culpa.labs.waiting import wait_until

V2_SWITCH = "cgroup.subtree_control"


def mounted(controller: str | None) -> Path | None:
    """Where the v1 hierarchy with this controller, or for None the v2 hierarchy, is mounted."""
    wanted = "cgroup2" if controller is None else "cgroup"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == wanted and (controller is None or controller in options.split(",")):
            return Path(where)
    return None


def admit(group: Path, pid: int) -> None:
    """Put a process into a group, unless it is there already.

    Raises:
        LabError: the kernel refuses.
    """
    members = group / "cgroup.procs"
    try:
        if str(pid) not in members.read_text().split():
            members.write_text(str(pid))
    except OSError as error:
        raise LabError(f"cannot put process {pid} into {group}: {error.strerror}") from error


@contextmanager
def child(parent: Path, name: str, *, controllers: tuple[str, ...], book: ledger.Ledger) -> Iterator[Path]:
    """A child of a group, gone again afterwards; in v2 with controllers that are switched off again where they were."""
    switch, group = parent / V2_SWITCH, parent / name
    missing = tuple(word for word in controllers if word not in words(switch)) if switch.exists() else ()
    book.note(ledger.Controllers(path=str(switch), names=missing))
    book.note(ledger.Cgroup(path=str(group)))
    try:
        _make_group(group, switch, missing)
        yield group
    finally:
        remove_group(group)
        with contextlib.suppress(OSError):  # another group uses them by now
            switch_controllers(switch, missing, on=False)


def _make_group(group: Path, switch: Path, controllers: tuple[str, ...]) -> None:
    try:
        switch_controllers(switch, controllers, on=True)
        group.mkdir()
    except OSError as error:
        reason = f"cannot make the cgroup {group}: {error.strerror}"
        raise LabError(reason, way_out="run as root on the host") from error


def switch_controllers(switch: Path, names: tuple[str, ...], *, on: bool) -> None:
    """Switch controllers on or off for the children of a group."""
    for name in names:
        switch.write_text(f"{'+' if on else '-'}{name}")


def remove_group(group: Path) -> bool:
    """Remove an empty cgroup (after its last process has left); False if there was none."""
    if not group.is_dir():
        return False
    wait_until(lambda: not words(group / "cgroup.procs"), what=f"{group} to become empty")
    group.rmdir()
    return True


def words(file: Path) -> list[str]:
    """The words of a file; none if it cannot be read."""
    try:
        return file.read_text().split()
    except OSError:
        return []
