"""A limit on one block device, in writes, bytes written or reads a second, by the I/O controller of cgroup v1 or v2.

v1 (Documentation/admin-guide/cgroup-v1/blkio-controller.rst): the hierarchy's root group takes limits too, so nothing
has to be moved as long as the writers are in it. v2 (cgroup-v2.rst, io.max): the root group has no limits; the writers
are put into a child group. There, writes of the journal thread belong to the root group and are not held back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from culpa.errors import LabError
from culpa.labs import groups, ledger
from culpa.units import format_bytes, format_count

Unit = Literal["writes", "bytes", "reads"]
V1_FILES: dict[Unit, str] = {
    "writes": "blkio.throttle.write_iops_device",
    "bytes": "blkio.throttle.write_bps_device",
    "reads": "blkio.throttle.read_iops_device",
}
V2_FILE = "io.max"
V2_KEYS: dict[Unit, str] = {"writes": "wiops", "bytes": "wbps", "reads": "riops"}
V2_CONTROLLERS = ("io", "memory")
"""Writeback is charged to the cgroup of the dirtied page, which needs the memory controller beside io."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How much may be written or read: `per_second` of `unit`."""

    per_second: int
    unit: Unit = "writes"

    def __str__(self) -> str:
        amount = (
            format_bytes(self.per_second) if self.unit == "bytes" else f"{format_count(self.per_second)} {self.unit}"
        )
        return f"{amount} a second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """A limit in force. `group` is the cgroup whose processes it holds back."""

    control: Path
    device: str
    group: Path

    def admit(self, pid: int) -> None:
        """Put a process into the group that is held back, unless it is there already."""
        groups.admit(self.group, pid)

    def lift(self) -> None:
        """Let the device be as fast as it is."""
        clear(self.control, self.device)


@contextmanager
def limit(device: str, rate: Rate, *, book: ledger.Ledger, name: str) -> Iterator[Throttle]:
    """Hold what is asked of a device (`major:minor`) to a rate; `name` names a cgroup if one is made.

    Raises:
        LabError: neither kind of I/O controller can be used here.
    """
    v1, v2 = groups.mounted("blkio"), groups.mounted(None)
    if v1 is not None and (v1 / V1_FILES[rate.unit]).exists():
        with _limit(v1 / V1_FILES[rate.unit], f"{device} {rate.per_second}", device, book) as throttle:
            yield throttle
    elif v2 is not None and "io" in groups.words(v2 / "cgroup.controllers"):
        with (
            groups.child(v2, name, controllers=V2_CONTROLLERS, book=book) as group,
            _limit(group / V2_FILE, f"{device} {V2_KEYS[rate.unit]}={rate.per_second}", device, book) as throttle,
        ):
            yield throttle
    else:
        raise LabError("no cgroup here can limit block I/O", way_out="mount the blkio (v1) or io (v2) controller")


def usable() -> bool:
    """Whether some I/O controller is there."""
    v1, v2 = groups.mounted("blkio"), groups.mounted(None)
    return (v1 is not None and (v1 / V1_FILES["bytes"]).exists()) or (
        v2 is not None and "io" in groups.words(v2 / "cgroup.controllers")
    )


def clear(control: Path, device: str) -> bool:
    """Remove the limit on a device from a control file; False if there was none."""
    try:
        if device not in limited(control):
            return False
        lifted = " ".join(f"{key}=max" for key in V2_KEYS.values())
        control.write_text(f"{device} {lifted}" if control.name == V2_FILE else f"{device} 0")
    except OSError:
        return False  # the group is gone, and its limits with it
    return True


def limited(control: Path) -> set[str]:
    """Devices (`major:minor`) with a limit in a control file; none if it cannot be read."""
    try:
        return {line.split()[0] for line in control.read_text().splitlines() if line.strip()}
    except OSError:
        return set()


@contextmanager
def _limit(control: Path, line: str, device: str, book: ledger.Ledger) -> Iterator[Throttle]:
    book.note(ledger.Throttle(control=str(control), device=device))
    try:
        control.write_text(line)
    except OSError as error:
        raise LabError(f"cannot write {control}: {error.strerror}", way_out="run as root on the host") from error
    try:
        yield Throttle(control=control, device=device, group=control.parent)
    finally:
        clear(control, device)
