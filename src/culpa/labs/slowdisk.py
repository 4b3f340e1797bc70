"""A slow disk on a fast machine: ext4 on two loop devices in a row, with a limit on what is asked of the lower one.

The upper device then has real queueing, await and utilisation; the lower one looks idle, because a cgroup holds
requests back before any block tracepoint. With the limit on the upper one it is that one that looks idle while somebody
waits for it: a fast disk, and a control group that holds its users back. The limit works in slices of about 100 ms, so
a single fdatasync takes either under 1 ms or nearly 100 ms: judge by sum and mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from culpa.errors import LabError
from culpa.labs import dirtybound, ledger, loopdev, throttle
from culpa.labs.site import Site

WRITE_IOPS = 800
"""At this limit one fdatasync of Redis takes 5 ms in the mean, as on the machine of seed 000."""
IMAGE_BYTES = 1 << 30
"""Sparse; it holds a journal of the usual size. Only what the lab writes takes room."""
NOT_LATER = ("-E", "lazy_itable_init=0,lazy_journal_init=0")
"""Without the background initialisation that would eat the writes the limit leaves."""
FLOOD_IMAGE_BYTES = 8 << 30
"""For labs that write floods: room for what is dirtied before anything of it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowness:
    """What the disk takes, and how many bytes of dirty pages its file system may have (None: what the host allows).

    `limited`: the device that has the limit, the lower one or the one that the file system is on.
    """

    rate: throttle.Rate
    limited: Literal["lower", "upper"] = "lower"
    dirty_bytes: int | None = None
    image_bytes: int = IMAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A directory to put data into. `limit` is None on an ordinary disk, and `why_ordinary` then says why."""

    directory: Path
    device: str | None = None
    limit: throttle.Throttle | None = None
    why_ordinary: str = ""

    @property
    def kind(self) -> str:
        """`slow` or `ordinary`."""
        return "slow" if self.limit else "ordinary"

    @property
    def device_name(self) -> str | None:
        """The kernel's name of the device that syncs wait for; None on an ordinary disk, which nobody asked about."""
        return Path(self.device).name if self.device else None

    def admit(self, pid: int) -> None:
        """Let the limit hold for a process (nothing to do on an ordinary disk)."""
        if self.limit is not None:
            self.limit.admit(pid)

    def quicken(self) -> None:
        """Lift the limit, for good (nothing to do on an ordinary disk)."""
        if self.limit is not None:
            self.limit.lift()


def why_not() -> str | None:
    """Why this host cannot have a slow disk with bounded dirty pages; None if it can."""
    if not throttle.usable():
        return "no cgroup that limits block I/O: mount the blkio (v1) or io (v2) controller"
    return None if dirtybound.usable() else "no bound on the dirty pages of a device (Linux before 6.2)"


def why_no_loop() -> str | None:
    """Why this host cannot have a file system on a loop device; None if it can."""
    lacking = [name for name in ("losetup", "mkfs.ext4", "mount") if loopdev.tool(name) is None]
    if lacking:
        return f"no {', '.join(lacking)}: install util-linux and e2fsprogs"
    return None if os.path.exists("/dev/loop-control") else "no loop devices: modprobe loop"  # noqa: PTH110


def slow_or_ordinary(site: Site, slowness: Slowness, *, progress: Callable[[str], None]) -> Disk:
    """The slow disk where this host allows it, else an ordinary directory; says which. Undone with the site."""
    try:
        disk = site.stack.enter_context(slow_disk(site, slowness))
    except LabError as error:
        progress(f"ordinary disk, nothing throttled: {error}")
        return ordinary_disk(site, why=str(error))
    progress(f"slow disk: {disk.device} on {disk.directory}, {slowness.rate}")
    return disk


def ordinary_disk(site: Site, *, why: str = "") -> Disk:
    """A directory of the site, on whatever disk the temporary directory is."""
    directory = site.directory / "disk"
    directory.mkdir(exist_ok=True)
    return Disk(directory=directory, why_ordinary=why)


@contextmanager
def slow_disk(site: Site, slowness: Slowness) -> Iterator[Disk]:
    """A mounted file system on a disk that is so slow; gone again afterwards.

    Raises:
        LabError: this host does not allow it (not root, no loop devices, no cgroup that limits I/O).
    """
    if os.geteuid() != 0:
        raise LabError("a slow disk needs root")
    directory = site.directory / "disk"
    directory.mkdir(exist_ok=True)
    with (
        image(site.directory / "disk.img", slowness.image_bytes) as file,
        loop(str(file), site, direct=False) as lower,
        loop(lower, site, direct=True) as upper,
        mounted(upper, directory, site, options=NOT_LATER),
        _bounded(upper, slowness.dirty_bytes, site),
        limited(upper if slowness.limited == "upper" else lower, slowness.rate, site) as limit,
    ):
        yield Disk(directory=directory, device=upper, limit=limit)


def limited(device: str, rate: throttle.Rate, site: Site) -> AbstractContextManager[throttle.Throttle]:
    """Hold what is asked of a loop device to a rate."""
    return throttle.limit(loopdev.device_number(device), rate, book=site.ledger, name=site.name)


@contextmanager
def image(path: Path, size: int) -> Iterator[Path]:
    """A sparse file of `size` bytes."""
    with path.open("xb") as file:
        file.truncate(size)
    try:
        yield path
    finally:
        path.unlink()


@contextmanager
def loop(backing: str, site: Site, *, direct: bool) -> Iterator[str]:
    """A loop device over a file or device, by its path."""
    site.ledger.note(ledger.Loop(backing=backing))
    device = None
    try:
        with site.endings.deferred():
            device = loopdev.attach(backing, direct=direct)
        yield device
    finally:
        if device is not None:
            loopdev.detach(device)


@contextmanager
def _bounded(device: str, dirty_bytes: int | None, site: Site) -> Iterator[None]:
    if dirty_bytes is None:
        dirtybound.clear(loopdev.device_number(device))  # a loop device keeps what an earlier user left
        yield
        return
    with dirtybound.bounded(loopdev.device_number(device), dirty_bytes, book=site.ledger):
        yield


@contextmanager
def mounted(device: str, directory: Path, site: Site, *, options: tuple[str, ...]) -> Iterator[None]:
    """A fresh ext4 on a loop device of the site, made with these options of mkfs."""
    loopdev.run_tool("mkfs.ext4", "-q", "-F", *options, device)
    site.ledger.note(ledger.Mount(path=str(directory)))
    try:
        with site.endings.deferred():
            loopdev.mount(device, directory)
        yield
    finally:
        loopdev.unmount(str(directory))
