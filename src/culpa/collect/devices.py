"""Block devices of the host as /sys/block has them (block/genhd.c): what lies on what, and how it is queued."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from culpa.capture.schema import DEVICES
from culpa.collect.procfs import read_text
from culpa.units import DevT, dev_t

MAX_DEVICES = 10_000


def device_rows(sys_root: Path = Path("/sys")) -> pl.DataFrame:
    """`schema.DEVICES`: whole devices and partitions.

    A device made of several others (RAID, LVM) has no single parent: null, as for a disk.
    """
    rows = list(_devices(sys_root / "block"))[:MAX_DEVICES]
    columns = {name: [row[name] for row in rows] for name in DEVICES.schema} if rows else {}
    return DEVICES.frame(columns)


def _devices(block: Path) -> Iterator[dict[str, object]]:
    for whole in _entries(block):
        dev = _dev_of(whole)
        if dev is None:
            continue
        queue = whole / "queue"
        depth, rotational = _text(queue / "nr_requests"), _text(queue / "rotational")
        shared = {
            "rotational": rotational == "1" if rotational else None,
            "scheduler": _active(_text(queue / "scheduler")),
            "queue_depth": int(depth) if depth.isdecimal() else None,
        }
        yield {"dev": dev, "name": whole.name, "parent": _parent(whole)} | shared
        for part in _entries(whole):
            part_dev = _dev_of(part) if (part / "partition").exists() else None
            if part_dev is not None:
                yield {"dev": part_dev, "name": part.name, "parent": dev} | shared


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(entry for entry in directory.iterdir() if entry.is_dir())
    except OSError:
        return []


def _text(path: Path) -> str:
    return (read_text(path) or "").strip()


def _dev_of(directory: Path) -> DevT | None:
    major, _, minor = _text(directory / "dev").partition(":")
    return dev_t(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _active(schedulers: str) -> str | None:
    """`none [mq-deadline]` names the active one in brackets."""
    _, _, rest = schedulers.partition("[")
    return rest.partition("]")[0] or schedulers or None


def _parent(whole: Path) -> DevT | None:
    slaves = _entries(whole / "slaves")
    if len(slaves) == 1:
        return _dev_of(slaves[0])
    backing = _text(whole / "loop" / "backing_file")
    return _device_under(backing) if backing else None


def _device_under(path: str) -> DevT | None:
    """The block device at a path, or the one that holds the file there."""
    try:
        found = os.stat(path)  # noqa: PTH116 - beside st_rdev, which Path does not add to
    except OSError:
        return None
    number = found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
    return dev_t(os.major(number), os.minor(number))
