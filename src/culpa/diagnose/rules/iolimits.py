"""Limits that control groups set on a device."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from culpa.capture.schema import BLOCKS, COUNTERS, DEVICES
from culpa.diagnose.picture import Picture
from culpa.units import format_dev

_UNITS = {"riops": "reads/s", "wiops": "writes/s", "rbps": "B/s", "wbps": "B/s"}
_V1 = {
    "blkio.throttle.read_iops_device": "riops", "blkio.throttle.write_iops_device": "wiops",
    "blkio.throttle.read_bps_device": "rbps", "blkio.throttle.write_bps_device": "wbps",
}  # fmt: skip
"""Names of cgroup v1 (blkio-controller.rst) to those of v2 (io.max in cgroup-v2.rst)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IoLimit:
    """One limit in force: the file that sets it, what it limits (`riops`, `wiops`, `rbps`, `wbps`), how much of that a
    second.
    """

    file: str
    name: str
    value: float

    @property
    def unit(self) -> str:
        """Of the value."""
        return _UNITS[self.name]


def limits_on(picture: Picture, device: str) -> tuple[IoLimit, ...]:
    """The limits on a device that the target's control groups, or those above them, set at the end of the window."""
    numbers = {format_dev(dev) for dev in _numbers(picture, device)}
    rows = picture.capture.frame(COUNTERS).drop_nulls(["source", "field", "value"]).sort("ts_ns")
    rows = rows.filter(pl.col("field").str.contains(r" \d+:\d+$"))
    last = rows.group_by("source", "field", maintain_order=True).agg(pl.col("value").last())
    found = []
    for file, field, value in last.iter_rows():
        name, _, number = field.rpartition(" ")
        name = _V1.get(name, name)
        if number in numbers and name in _UNITS:
            found.append(IoLimit(file=file, name=name, value=value))
    return tuple(sorted(found, key=lambda limit: (limit.file, limit.name)))


def _numbers(picture: Picture, device: str) -> set[int]:
    named = picture.capture.frame(DEVICES).filter(pl.col("name") == device)["dev"].drop_nulls().to_list()
    asked = picture.capture.frame(BLOCKS)["dev"].drop_nulls().unique().to_list()
    return {dev for dev in {*named, *asked} if picture.objects.device(dev) == device}
