"""What is on this host, asked of the system's own programs and files: the truth that leftovers are checked against."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def loop_devices_over(directory: Path) -> list[str]:
    """Lines of `losetup -a` that name a file in a directory."""
    listed = subprocess.run(["losetup", "--all"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(directory) in line]


def mounts_in(directory: Path) -> list[str]:
    """Lines of /proc/mounts that name a directory below another."""
    return [line for line in Path("/proc/mounts").read_text().splitlines() if f" {directory}/" in line]


def write_limits() -> set[str]:
    """Devices with a limit in the root group of cgroup v1's blkio."""
    file = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device")
    return {line.split()[0] for line in file.read_text().splitlines()}


def swaps() -> set[str]:
    """What the host swaps to."""
    listed = subprocess.run(
        ["swapon", "--show=NAME", "--noheadings"], capture_output=True, text=True, check=True
    ).stdout
    return set(listed.split())


def memory_groups() -> list[Path]:
    """Memory groups (of either version) with a lab's prefix."""
    roots = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
    return [path for root in roots for path in root.glob("culpa-lab-*")]


def dirty_bounds() -> set[str]:
    """Loop devices whose dirty pages are bounded strictly."""
    return {path.parent.name for path in Path("/sys/class/bdi").glob("7:*/strict_limit") if path.read_text() != "0\n"}


def processes_in(directory: Path) -> list[int]:
    """Processes whose working directory is, or was, a directory or one below it."""
    below = (f"{directory}/", f"{directory} (deleted)")
    return [pid for pid, where in _working_directories() if where.startswith(below)]


def processes_with(variable: str) -> list[int]:
    """Processes that have `NAME=value` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environ = path.read_bytes()
        except OSError:
            continue
        if variable.encode() in environ.split(b"\0"):
            found.append(int(path.parent.name))
    return found


def _working_directories() -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            found.append((int(path.parent.name), f"{path.readlink()}/"))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    """Poll until the condition holds; the test fails if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
