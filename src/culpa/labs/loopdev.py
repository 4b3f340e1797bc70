"""Loop devices, mounts and swap areas: made, undone and listed. Listing reads /sys/block/*/loop, /proc/self/mountinfo
and /proc/swaps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from culpa.errors import LabError
from culpa.labs.waiting import wait_until

COMMAND_TIMEOUT_S = 60.0
_SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"


def tool(name: str) -> str | None:
    """Path of a system program, also where PATH leaves out the sbin directories."""
    return shutil.which(name) or shutil.which(name, path=_SBIN)


def run_tool(name: str, *arguments: str) -> str:
    """Run a system program and return its output.

    Raises:
        LabError: it is missing, failed or took longer than a minute.
    """
    program = tool(name)
    if program is None:
        raise LabError(f"{name} is not installed", way_out="install util-linux and e2fsprogs")
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{name} did not end within {COMMAND_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LabError(f"{name} failed: {reason}")
    return done.stdout.strip()


def attach(backing: str, *, direct: bool) -> str:
    """Put a loop device over a file or device; returns its path, e.g. /dev/loop5."""
    options = ("--direct-io=on",) if direct else ()
    return run_tool("losetup", "--find", "--show", *options, backing)


def detach(device: str) -> None:
    """Free a loop device and wait until the kernel has let go: losetup -d on a busy one returns at once.

    Raises:
        LabError: it is still bound after half a minute.
    """
    name = Path(device).name
    if backing_of(name) is not None:
        run_tool("losetup", "--detach", device)
        wait_until(lambda: backing_of(name) is None, what=f"{device} to be freed")


def backing_of(name: str) -> str | None:
    """The file or device under the loop device `name`; None if it is not bound."""
    try:
        text = Path(f"/sys/block/{name}/loop/backing_file").read_text(errors="surrogateescape")
    except OSError:
        return None
    return text.removesuffix("\n").removesuffix(" (deleted)")


def bound() -> dict[str, str]:
    """Every bound loop device: /dev/loopN to what it stands on."""
    names = sorted(path.name for path in Path("/sys/block").glob("loop*"))
    return {f"/dev/{name}": backing for name in names if (backing := backing_of(name)) is not None}


def device_number(device: str) -> str:
    """`major:minor` of a block device."""
    number = Path(device).stat().st_rdev
    return f"{os.major(number)}:{os.minor(number)}"


def mount(device: str, directory: Path) -> None:
    """Mount an ext4 device on a directory."""
    run_tool("mount", "-t", "ext4", "-o", "nosuid,nodev", device, str(directory))


def unmount(directory: str) -> None:
    """Unmount, and go on trying while somebody is still leaving it.

    Raises:
        LabError: it is still mounted after half a minute.
    """
    wait_until(lambda: _try_unmount(directory), what=f"{directory} to be unmounted")


def mounts() -> list[str]:
    """All mount points of this mount namespace, in the order they were made."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return [os.fsdecode(_unescape(line.split(b" ")[4])) for line in lines]


def swap_on(device: str, *, priority: int) -> None:
    """Make a device a swap area and let the host swap to it."""
    run_tool("mkswap", device)
    run_tool("swapon", "--priority", str(priority), device)


def swap_off(device: str) -> None:
    """Stop swapping to a device, if that is so; what lies there comes back into memory.

    Raises:
        LabError: it does not end within a minute.
    """
    if device in swaps():
        run_tool("swapoff", device)


def swaps() -> tuple[str, ...]:
    """Devices and files that the host swaps to."""
    try:
        lines = Path("/proc/swaps").read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:
        return ()  # a kernel without swap
    return tuple(line.split()[0] for line in lines if line.split())


def _try_unmount(directory: str) -> bool:
    if directory not in mounts():
        return True
    try:
        run_tool("umount", directory)
    except LabError:
        return False
    return directory not in mounts()


def _unescape(field: bytes) -> bytes:
    """Undo the octal escapes of mountinfo (space, tab, newline, backslash)."""
    for plain in (b" ", b"\t", b"\n", b"\\"):
        field = field.replace(b"\\%03o" % plain[0], plain)
    return field
