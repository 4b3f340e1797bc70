"""A swap area that is slow to read, for one control group: two loop devices in a row over an image of the run.

It has the highest priority, so that what is swapped out goes there. Whose memory that is a lab decides by squeezing its
own group (`memorygroup`); the host has several times as much memory free as the area holds, so it swaps nothing itself.
Both loop devices do direct I/O over an image that is written out before: swapping must not need memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from culpa.errors import LabError
from culpa.labs import loopdev, slowdisk, throttle
from culpa.labs.places import of_host
from culpa.labs.site import Site

FREE_FACTOR = 4
"""So many times the area's size must be available on the host: it then has no reason to swap."""
HIGHEST_PRIORITY = 32767
"""swapon(2)."""
IN_MEMORY = ("tmpfs", "ramfs", "overlay")
"""File systems under an image: swapping to memory frees none, and an overlay takes no direct I/O everywhere."""
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapArea:
    """An area in use on `device`; reads of it are held to a rate."""

    device: str
    limit: throttle.Throttle

    @property
    def device_name(self) -> str:
        """The kernel's name."""
        return Path(self.device).name

    def empty(self) -> None:
        """Have everything in it read back into memory, at full speed; it is no longer in use then."""
        throttle.clear(self.limit.control, self.limit.device)
        loopdev.swap_off(self.device)


def why_not(size: int) -> str | None:
    """Why this host cannot have such an area; None if it can."""
    if not Path("/proc/swaps").exists():
        return "a kernel without swap"
    missing = [name for name in ("mkswap", "swapon", "swapoff") if loopdev.tool(name) is None]
    if missing:
        return f"no {missing[0]}: install util-linux"
    if not throttle.usable():
        return "no cgroup that limits block I/O: mount the blkio (v1) or io (v2) controller"
    if available_bytes() < FREE_FACTOR * size:
        return f"less than {FREE_FACTOR * size >> 20} MiB of memory available: this host might swap itself"
    kind = file_system_of(of_host().temp)
    return f"the temporary directory is on {kind}: swap must lie on a disk" if kind in IN_MEMORY else None


def available_bytes() -> int:
    """MemAvailable."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return 0


def file_system_of(directory: Path) -> str:
    """The type of the file system that a directory is on."""
    return loopdev.run_tool("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(directory))


@contextmanager
def slow_swap(site: Site, rate: throttle.Rate, size: int) -> Iterator[SwapArea]:
    """An area of `size` bytes in use, read at that rate; gone again afterwards.

    Raises:
        LabError: this host does not allow it.
    """
    reason = "a swap area needs root" if os.geteuid() != 0 else why_not(size)
    if reason is not None:
        raise LabError(f"no swap area: {reason}")
    with (
        slowdisk.image(site.directory / "swap.img", size) as image,
        _written(image, size),
        slowdisk.loop(str(image), site, direct=True) as lower,
        slowdisk.loop(lower, site, direct=True) as upper,
        _in_use(upper, site),
        slowdisk.limited(lower, rate, site) as limit,
    ):
        yield SwapArea(device=upper, limit=limit)


@contextmanager
def _written(image: Path, size: int) -> Iterator[None]:
    """Give the image all its blocks, on the disk."""
    with image.open("r+b") as file:
        for _ in range(size // CHUNK):
            file.write(bytes(CHUNK))
        file.flush()
        os.fsync(file.fileno())
    yield


@contextmanager
def _in_use(device: str, site: Site) -> Iterator[None]:
    try:
        with site.endings.deferred():
            loopdev.swap_on(device, priority=HIGHEST_PRIORITY)
        yield
    finally:
        loopdev.swap_off(device)
