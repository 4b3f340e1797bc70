"""A CPU quota for programs of a lab, by the CPU controller of cgroup v1 (cpu.cfs_quota_us) or v2 (cpu.max)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from culpa.errors import LabError
from culpa.labs import groups, ledger

PERIOD_US = 100_000
_V1_QUOTA, _V1_PERIOD, _V2_MAX = "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A group that may run for `quota_us` in every period of 100 ms."""

    group: Path

    def admit(self, pid: int) -> None:
        """Let the quota hold for a process."""
        groups.admit(self.group, pid)

    def release(self, pid: int) -> None:
        """Put a process back into the group above, which has no quota: it outlives this one."""
        groups.admit(self.group.parent, pid)

    def lift(self) -> None:
        """Take the limit away; the group stays."""
        if (self.group / _V2_MAX).exists():
            _write(self.group / _V2_MAX, f"max {PERIOD_US}")
        else:
            _write(self.group / _V1_QUOTA, "-1")


@contextmanager
def quota(quota_us: int, *, book: ledger.Ledger, name: str) -> Iterator[Quota]:
    """Make a group with a quota; `name` names it.

    Raises:
        LabError: neither kind of CPU controller can be used here.
    """
    hierarchy = _hierarchy()
    if hierarchy is None:
        raise LabError("no cgroup here can limit CPU time", way_out="mount the cpu controller")
    with groups.child(hierarchy, name, controllers=("cpu",), book=book) as group:
        if (group / _V1_QUOTA).exists():
            _write(group / _V1_PERIOD, str(PERIOD_US))
            _write(group / _V1_QUOTA, str(quota_us))
        else:
            _write(group / _V2_MAX, f"{quota_us} {PERIOD_US}")
        yield Quota(group=group)


def why_not() -> str | None:
    """Why no quota can be set here; None if one can."""
    return "no CPU controller with quotas (cgroup v1 or v2)" if _hierarchy() is None else None


def _hierarchy() -> Path | None:
    v1, v2 = groups.mounted("cpu"), groups.mounted(None)
    if v1 is not None and (v1 / _V1_PERIOD).exists():
        return v1
    return v2 if v2 is not None and "cpu" in groups.words(v2 / "cgroup.controllers") else None


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise LabError(f"cannot write {file}: {error.strerror}", way_out="run as root on the host") from error
