"""The slow disk is as slow as it says, and ordinary where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import lab_host
import pytest

from culpa.labs import loopdev, site, slowdisk, throttle
from culpa.labs.places import Places

WINDOW_S = 2.0


def slowness(image_bytes: int, *, dirty_bytes: int | None = None) -> slowdisk.Slowness:
    """800 writes a second."""
    return slowdisk.Slowness(rate=throttle.Rate(per_second=800), image_bytes=image_bytes, dirty_bytes=dirty_bytes)


def count_syncs(directory: Path, seconds: float) -> int:
    """How many appends of 64 bytes reach the disk one by one in some time."""
    descriptor = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    deadline = time.monotonic() + seconds
    count = 0
    while time.monotonic() < deadline:
        os.write(descriptor, b"x" * 64)
        os.fdatasync(descriptor)
        count += 1
    os.close(descriptor)
    return count


def writes_completed(device: str) -> int:
    """Field 5 of /sys/block/DEV/stat."""
    return int(Path(f"/sys/block/{Path(device).name}/stat").read_text().split()[4])


@pytest.mark.root
def test_writes_are_held_to_the_limit(places: Places) -> None:
    """The kernel's own count of writes stays at the limit, and a sync costs several of them."""
    with site.opened(print, places=places) as here:
        disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness(256 << 20)))
        assert disk.device is not None
        lower = loopdev.backing_of(Path(disk.device).name)
        assert lower is not None
        count_syncs(disk.directory, 0.3)  # uses up what the limiter saved while idle
        began, before = time.monotonic(), writes_completed(lower)
        syncs = count_syncs(disk.directory, WINDOW_S)
        writes, lasted_s = writes_completed(lower) - before, time.monotonic() - began
    assert 0.5 * 800 * WINDOW_S <= writes <= 1.15 * 800 * lasted_s
    assert 20 * WINDOW_S <= syncs <= 400 * WINDOW_S


@pytest.mark.root
def test_writers_are_held_to_bytes_once_few_pages_may_be_dirty(places: Places) -> None:
    """24 MB into a disk of 4 MB a second take seconds with a bound of 4 MB, and next to nothing without one."""
    taken = {}
    for dirty_bytes in (4 << 20, None):
        rate = throttle.Rate(per_second=4 << 20, unit="bytes")
        with site.opened(print, places=places) as here:
            slow = slowdisk.Slowness(rate=rate, dirty_bytes=dirty_bytes, image_bytes=256 << 20)
            disk = here.stack.enter_context(slowdisk.slow_disk(here, slow))
            started = time.monotonic()
            with (disk.directory / "flood").open("wb", buffering=0) as file:
                for _ in range(24):
                    file.write(bytes(1 << 20))
            taken[dirty_bytes] = time.monotonic() - started
            (disk.directory / "flood").unlink()  # or the unmount would wait for it to be written
    assert taken[4 << 20] >= 3.0
    assert taken[None] < taken[4 << 20] / 3


def reads_completed(device: str) -> int:
    """Field 1 of /sys/block/DEV/stat."""
    return int(Path(f"/sys/block/{Path(device).name}/stat").read_text().split()[0])


@pytest.mark.root
@pytest.mark.parametrize("limited", ["lower", "upper"])
def test_readers_are_held_to_the_limit_of_either_device(places: Places, limited: Literal["lower", "upper"]) -> None:
    """The kernel's own count of reads stays at the limit; only with the limit below is the upper device busy."""
    rate = throttle.Rate(per_second=400, unit="reads")
    slow = slowdisk.Slowness(rate=rate, limited=limited, image_bytes=256 << 20)
    with site.opened(print, places=places) as here:
        disk = here.stack.enter_context(slowdisk.slow_disk(here, slow))
        assert disk.device is not None
        file = disk.directory / "pages"
        file.write_bytes(os.urandom(8 << 20))
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        began, before = time.monotonic(), reads_completed(disk.device)
        busy = _busy_ms(disk.device)
        for number in range(0, 1600, 2):
            os.pread(descriptor, 1, number << 12)
        seconds, reads = time.monotonic() - began, reads_completed(disk.device) - before
        busy_share = (_busy_ms(disk.device) - busy) / 1000 / seconds
        os.close(descriptor)
    assert 800 <= reads <= 850
    assert 0.7 * 800 / 400 <= seconds
    assert (busy_share > 0.5) == (limited == "lower")


def _busy_ms(device: str) -> int:
    """Field 10 of /sys/block/DEV/stat."""
    return int(Path(f"/sys/block/{Path(device).name}/stat").read_text().split()[9])


@pytest.mark.root
def test_the_disk_is_gone_afterwards(places: Places) -> None:
    """Mount, loop devices, limit and image end with the disk, before the site ends."""
    limits_before, bounds_before = lab_host.write_limits(), lab_host.dirty_bounds()
    with site.opened(print, places=places) as here:
        with slowdisk.slow_disk(here, slowness(64 << 20, dirty_bytes=16 << 20)):
            assert len(lab_host.mounts_in(here.directory)) == 1
            assert limits_before < lab_host.write_limits()
            assert bounds_before < lab_host.dirty_bounds()
        assert lab_host.mounts_in(here.directory) == []
        assert lab_host.loop_devices_over(here.directory) == []
        assert limits_before == lab_host.write_limits()
        assert bounds_before == lab_host.dirty_bounds()
        assert [path.name for path in here.directory.iterdir()] == ["disk"]


@pytest.mark.root
def test_a_failure_half_way_undoes_the_first_half(places: Places) -> None:
    """An image too small for a file system fails at mkfs, with two loop devices made: ordinary disk, none left."""
    with site.opened(print, places=places) as here:
        with pytest.raises(site.LabError, match="mkfs"), slowdisk.slow_disk(here, slowness(4096)):
            pass
        assert lab_host.loop_devices_over(here.directory) == []
        assert list(here.directory.glob("disk.img")) == []


@pytest.mark.root
def test_without_root_the_disk_is_ordinary_and_says_so(places: Places) -> None:
    """An ordinary user gets a directory and a reason."""
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom culpa.labs import site, slowdisk, throttle\n"
        "from culpa.labs.places import Places\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "base = Path(sys.argv[1])\n"
        "places = Places(temp=base, state=base, lock=base / 'lock')\n"
        "slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=800))\n"
        "with site.opened(print, places=places) as here:\n"
        "    disk = slowdisk.slow_or_ordinary(here, slowness, progress=print)\n"
        "    print(disk.kind, disk.directory.is_dir())\n"
        "print(sorted(path.name for path in base.iterdir()))\n"
    )
    base = Path(tempfile.gettempdir()) / f"{places.temp.parent.name}-nobody-{os.getpid()}"
    base.mkdir()
    try:
        os.chown(base, 65534, 65534)
        done = subprocess.run([sys.executable, "-c", program, str(base)], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert (done.stdout.splitlines()) == [
            "ordinary disk, nothing throttled: a slow disk needs root",
            "ordinary True",
            "[]",
        ]
    finally:
        base.rmdir()
