"""A control group with a memory limit, in either version (memory.limit_in_bytes; memory.max)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from culpa.errors import LabError
from culpa.labs import groups, ledger
from culpa.labs.waiting import wait_until

_V1_LIMIT, _V1_USAGE, _V1_SWAPPINESS = "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.swappiness"
_V2_LIMIT, _V2_USAGE = "memory.max", "memory.current"
NO_LIMIT = {_V1_LIMIT: "-1", _V2_LIMIT: "max"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGroup:
    """A group whose processes may hold so much memory; only what they allocate after they joined counts."""

    group: Path
    limit_file: Path
    usage_file: Path

    def admit(self, pid: int) -> None:
        """Let the limit hold for a process."""
        groups.admit(self.group, pid)

    def allow(self, size: int) -> None:
        """Set the limit (bytes); returns when no more than that is used: the kernel moves the rest to swap.

        Raises:
            LabError: it does not.
        """

        def is_held() -> bool:
            try:
                self.limit_file.write_text(str(size))
            except OSError:
                return False  # v1 refuses a limit below what is used until it has made room (EBUSY)
            return int(self.usage_file.read_text()) <= size

        wait_until(is_held, what=f"{self.group} to use no more than {size >> 20} MiB")

    def lift(self) -> None:
        """Take the limit away; what is in swap stays there until it is touched."""
        _write(self.limit_file, NO_LIMIT[self.limit_file.name])


@contextmanager
def memory_group(*, book: ledger.Ledger, name: str, beside: Path) -> Iterator[MemoryGroup]:
    """Make a group without a limit, which swaps where it can.

    Args:
        book: of the run.
        name: of the run; the group's begins with it.
        beside: the group of another limit for the same processes. In v2 a process is in one group alone, so that it is
            used for both; its maker removes it.

    Raises:
        LabError: neither kind of memory controller can be used here.
    """
    if (beside / _V2_LIMIT).exists():
        yield _group(beside)
        return
    hierarchy = _hierarchy()
    if hierarchy is None:
        raise LabError("no cgroup here can limit memory", way_out="mount the memory controller")
    with groups.child(hierarchy, f"{name}-memory", controllers=("memory",), book=book) as group:
        try:
            yield _group(group)
        finally:
            for pid in groups.words(group / "cgroup.procs"):
                groups.admit(hierarchy, int(pid))  # a program that was there before the group outlives it


def _group(group: Path) -> MemoryGroup:
    """Of version 1 it is told to swap rather than to drop files; version 2 has no such setting of its own."""
    if (group / _V1_SWAPPINESS).exists():
        _write(group / _V1_SWAPPINESS, "100")
    v1 = (group / _V1_LIMIT).exists()
    return MemoryGroup(
        group=group,
        limit_file=group / (_V1_LIMIT if v1 else _V2_LIMIT),
        usage_file=group / (_V1_USAGE if v1 else _V2_USAGE),
    )


def why_not() -> str | None:
    """Why no memory limit can be set here; None if one can."""
    return "no memory controller (cgroup v1 or v2)" if _hierarchy() is None else None


def _hierarchy() -> Path | None:
    v1, v2 = groups.mounted("memory"), groups.mounted(None)
    if v1 is not None and (v1 / _V1_LIMIT).exists():
        return v1
    return v2 if v2 is not None and "memory" in groups.words(v2 / "cgroup.controllers") else None


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise LabError(f"cannot write {file}: {error.strerror}", way_out="run as root on the host") from error
