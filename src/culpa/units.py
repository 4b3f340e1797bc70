"""Quantities and identities that cross module borders, and their only formatters.

Inside culpa time is nanoseconds of CLOCK_MONOTONIC and size is bytes; human units are made here and nowhere else.
"""

from __future__ import annotations

import re
from typing import NewType

Ns = NewType("Ns", int)
Bytes = NewType("Bytes", int)
Pid = NewType("Pid", int)
Tid = NewType("Tid", int)
DevT = NewType("DevT", int)
"""A device number as the kernel keeps it inside: major << 20 | minor (include/linux/kdev_t.h)."""
Ino = NewType("Ino", int)

NS_PER_SECOND = 1_000_000_000
MINOR_BITS = 20
MINOR_MASK = (1 << MINOR_BITS) - 1

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|h)?")
_DURATION_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_CPU = re.compile(r"0|[1-9][0-9]{0,3}")
_BYTE_STEPS = ("B", "kB", "MB", "GB", "TB")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def dev_t(major: int, minor: int) -> DevT:
    """The kernel's own encoding of a device number."""
    return DevT(major << MINOR_BITS | minor)


def format_dev(dev: int) -> str:
    """`major:minor`, as /sys/dev/block spells it."""
    return f"{dev >> MINOR_BITS}:{dev & MINOR_MASK}"


def parse_duration(text: str) -> Ns:
    """Read `10s`, `500ms`, `2m` or bare seconds.

    Raises:
        ValueError: the text is none of these, or not above zero.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a duration: {text!r}; write 10s, 500ms, 2m or bare seconds")
    value = round(float(match[1]) * _DURATION_NS[match[2] or "s"])
    if value <= 0:
        raise ValueError(f"a duration must be above zero, not {text!r}")
    return Ns(value)


def format_ns(ns: float) -> str:
    """Three significant digits in the unit a person would use: `10.7 s`, `5.32 ms`, `840 us`."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size * 0.9995:
            return f"{ns / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{ns:.0f} ns"


def format_seconds(seconds: float) -> str:
    """`format_ns` for a value in seconds."""
    return format_ns(seconds * NS_PER_SECOND)


def format_bytes(size: float) -> str:
    """Decimal units, three significant digits: `635 kB`, `1.20 GB`."""
    value = float(size)
    for unit in _BYTE_STEPS:
        if abs(value) < 999.5 or unit == _BYTE_STEPS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:#.3g}".rstrip(".") + f" {unit}"
        value /= 1000
    raise AssertionError("unreachable: the last step returns")


def format_share(share: float) -> str:
    """A share 0..1 as a percentage without false digits: `86 %`, `0.4 %`."""
    percent = share * 100
    return f"{percent:.0f} %" if percent >= 9.95 or percent == 0 else f"{percent:.1f} %"


def format_count(count: float) -> str:
    """A count with thousands set apart by commas."""
    return f"{count:,.0f}"


def printable(text: str, limit: int = 200) -> str:
    """Make a hostile name safe to show: no control or direction character, bounded length."""
    shown = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text[: limit + 1])
    return shown if len(text) <= limit else shown[:limit] + "…"


def parse_cpus(text: str) -> frozenset[int] | None:
    """CPUs of a list such as `0-3,8` (cpuset(7)); None where it is none, or names a CPU above 8191."""
    cpus: set[int] = set()
    for part in text.split(",")[:1024]:
        bounds = part.split("-")
        if len(bounds) > 2 or not all(_CPU.fullmatch(bound) for bound in bounds):
            return None
        first, last = int(bounds[0]), int(bounds[-1])
        if not first <= last < 8192:
            return None
        cpus.update(range(first, last + 1))
    return frozenset(cpus) if text.count(",") < 1024 else None


def format_cpus(cpus: frozenset[int] | set[int]) -> str:
    """The same as text, shortest form."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
