"""Calls that the kernel refuses because there is no room: which, by whom, on which file system, and when it cost time.

A program that is refused tries again, or gives up. What a thread does from one refusal to the next, within one request,
is done in vain, whether it sleeps or works.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from culpa.capture.schema import COUNTERS
from culpa.diagnose.moments import Moments
from culpa.syscalls import Numbers
from culpa.units import format_dev

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

ENOSPC, EDQUOT = 28, 122
"""include/uapi/asm-generic/errno*.h: no space (or no inodes) on the device; the user's or project's quota is up."""
TAKE_ROOM = frozenset(
    {
        "open", "openat", "openat2", "creat", "mkdir", "rename", "renameat", "renameat2", "write", "writev",
        "pwrite64", "pwritev", "pwritev2", "ftruncate", "truncate", "fallocate", "fsync", "fdatasync",
        "sync_file_range", "msync", "close", "copy_file_range", "sendfile", "splice", "io_uring_enter",
    }
)  # fmt: skip
"""Other calls give the same number for other reasons (epoll_ctl: too many watches)."""
STATVFS = "statvfs "
NEARLY_ALL = 0.8
"""As a cause lies on another's chain (`causes.ON_THE_CHAIN`)."""
MOST_CALLS = 10_000
"""Refused calls that are laid against the root's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """What statvfs said of one file system at the end of the window: bytes, and inodes (0 of them: it has no fixed
    number).
    """

    point: str
    dev: str
    bytes: float
    available_bytes: float
    inodes: float
    free_inodes: float

    @property
    def has_no_inodes(self) -> bool:
        """No file can be made there, whatever space there is."""
        return self.inodes > 0 and self.free_inodes <= 0

    @property
    def is_full(self) -> bool:
        """Nothing can be put there by a program without privileges."""
        return self.available_bytes <= 0 or self.has_no_inodes


def refused(picture: Picture) -> pl.DataFrame:
    """The refused calls of processes on the root's chain, by time: tid, pid, nr, enter_ns, exit_ns, ret, dev, ino,
    file_type; dev and ino are null for calls that name a file by its path.
    """
    assert picture.graph is not None
    calls = picture.graph.calls
    numbers = Numbers(picture.capture.manifest.host.machine).of(TAKE_ROOM)
    found = calls.filter(pl.col("ret").is_in([-ENOSPC, -EDQUOT]), pl.col("nr").is_in(list(numbers)))
    pids = {picture.objects.pid_of.get(node.who, node.who) for node in picture.blame.nodes if node.who >= 0}
    found = found.filter(pl.col("pid").is_in(list(pids))).drop_nulls(["enter_ns", "exit_ns", "tid"])
    return found.sort("enter_ns", "tid").head(MOST_CALLS)


def in_vain(picture: Picture, calls: pl.DataFrame) -> Moments:
    """When the root was held up by these calls: in them, and from one to the next of a thread within one request."""
    found = Moments.of_rows([], [], [])
    for (tid,), mine in calls.group_by("tid", maintain_order=True):
        nodes = [n for n, node in enumerate(picture.blame.nodes) if node.who == tid]
        theirs = picture.moments(*nodes)
        spans = list(_spans(theirs, list(mine.select("enter_ns", "exit_ns").iter_rows())))
        found = found.plus(theirs.within(spans))
    return found


def _spans(theirs: Moments, calls: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    before: tuple[int, int, int] | None = None  # item, start and end
    for enter_ns, exit_ns in calls:
        item = _item(theirs, enter_ns, exit_ns)
        yield enter_ns, exit_ns
        if before is not None and item is not None and before[0] == item:
            yield before[1], exit_ns
        before = None if item is None else (item, enter_ns, exit_ns)


def _item(theirs: Moments, enter_ns: int, exit_ns: int) -> int | None:
    """The root item within which a call held the root up; None where it did not."""
    inside = (theirs.start_ns < exit_ns) & (theirs.end_ns > enter_ns)
    return int(theirs.item[inside][0]) if inside.any() else None


def file_systems(picture: Picture) -> list[FileSystem]:
    """Those of which the room was asked, by their device."""
    rows = picture.capture.frame(COUNTERS).filter(pl.col("source").str.starts_with(STATVFS)).sort("ts_ns")
    last = rows.group_by("source", "object", "field", maintain_order=True).agg(pl.col("value").last())
    values: dict[tuple[str, str], dict[str, float]] = {}
    for source, point, field, value in last.iter_rows():
        values.setdefault((source.removeprefix(STATVFS), point), {})[field] = value
    names = {"bytes", "available_bytes", "inodes", "free_inodes"}
    return [FileSystem(dev=dev, point=point, **said) for (dev, point), said in values.items() if names == said.keys()]


def holding(systems: list[FileSystem], dev: int | None) -> FileSystem | None:
    """The file system of a device; without one the only one that has no inodes left, or no space."""
    if dev is not None:
        return next((one for one in systems if one.dev == format_dev(dev)), None)
    full = [one for one in systems if one.has_no_inodes] or [one for one in systems if one.is_full]
    return full[0] if len(full) == 1 else None


def is_why(picture: Picture, moments: Moments) -> bool:
    """Whether nearly all of these moments lie between refusals."""
    if picture.graph is None:
        return False
    calls = refused(picture)
    return not calls.is_empty() and in_vain(picture, calls).common(moments) >= NEARLY_ALL * moments.ns
