"""A bound on the dirty pages of one block device, through its backing device info in /sys/class/bdi.

Without it a large page cache swallows a write flood, and whoever writes waits for nothing. Documentation: Linux'
Documentation/ABI/testing/sysfs-class-bdi (`max_bytes` and `strict_limit` since 6.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from culpa.errors import LabError
from culpa.labs import ledger

BDI = Path("/sys/class/bdi")
STRICT, MOST, SHARE = "strict_limit", "max_bytes", "max_ratio"
NO_BOUND = {STRICT: "0", MOST: "0", SHARE: "100"}
"""In the order in which they are written; a loop device keeps them after it is detached."""


@contextmanager
def bounded(device: str, most_bytes: int, *, book: ledger.Ledger) -> Iterator[None]:
    """Let a device (`major:minor`) have at most `most_bytes` of dirty pages, whatever the host allows in all.

    Raises:
        LabError: this kernel has no such bound.
    """
    book.note(ledger.DirtyBound(device=device))
    try:
        _write(device, {STRICT: "1", MOST: str(most_bytes)})
    except OSError as error:
        clear(device)
        raise LabError(f"cannot bound the dirty pages of {device}: {error.strerror}") from error
    try:
        yield
    finally:
        clear(device)


def usable() -> bool:
    """Whether this kernel has such a bound."""
    return any((directory / MOST).exists() for directory in BDI.glob("*"))


def is_bounded(device: str) -> bool:
    """Whether a bound is in force."""
    try:
        return (BDI / device / STRICT).read_text().strip() == "1"
    except OSError:
        return False


def clear(device: str) -> None:
    """Take the bound away; a device that is gone has none."""
    if is_bounded(device):
        _write(device, NO_BOUND)


def _write(device: str, values: dict[str, str]) -> None:
    for name, value in values.items():
        (BDI / device / name).write_text(value)
