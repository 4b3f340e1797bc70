"""Settings of the kernel: files of /proc/sys, and of huge pages below /sys/kernel/mm; never a file in /etc.

The limits on unwritten data exist twice, in bytes and as a share of memory: whichever is written last holds, and sets
the other to 0 (mm/page-writeback.c). Both are read and noted, and the form that held is the one that is put back.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from culpa.fix.catalogue import names_of
from culpa.fix.hands import CLOCKS_SECONDS, Identity, Refused, Standing, Unreachable
from culpa.fix.parameters import KernelSetting, State
from culpa.fix.processes import PROC, boot_id, booted_unix

SYS: Final = Path("/sys")
HUGE_PAGES: Final = "transparent_hugepage/"
LONGEST_FILE: Final = 4096
_TWINS: Final = {
    "vm.dirty_bytes": "vm.dirty_ratio", "vm.dirty_background_bytes": "vm.dirty_background_ratio",
}  # fmt: skip
_PARTNER: Final = _TWINS | {ratio: size for size, ratio in _TWINS.items()}


class KernelHand:
    """One setting of this host; of the limits on unwritten data, both forms."""

    def __init__(self, parameters: KernelSetting, proc_root: Path = PROC, sys_root: Path = SYS) -> None:
        self._wanted = parameters
        self._proc_root = proc_root
        self._sys_root = sys_root
        if parameters.setting not in names_of("kernel"):
            raise Refused(f"refused: {parameters.setting!r} is no setting that culpa changes")

    def identity(self) -> Identity:
        """This boot."""
        return Identity(boot_id=boot_id(self._proc_root))

    def standing(self, noted: Identity, at_unix: float) -> tuple[Standing, str]:  # noqa: ARG002  # as every hand
        """`gone` once the host was booted anew."""
        if self.identity() == noted:
            return "same", ""
        now = ", ".join(f"{name} is {value}" for name, value in self.read().items())
        return "gone", f"this host was booted anew since, and what was set is gone with that; now {now}"

    def stale(self, seen_unix: float) -> str | None:
        """It was seen before this boot."""
        if seen_unix < booted_unix(self._proc_root) - CLOCKS_SECONDS:
            return "this host was booted anew since it was examined"
        return None

    def obstacle(self) -> str | None:
        """No such file, one that cannot be written, or no right to: found by opening it, which writes nothing."""
        path = self._path(self._wanted.setting)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return f"this kernel has no {path}"
        except OSError as error:
            if error.errno == errno.EROFS:
                return f"{path} is read-only here, as in a container: set it on the host itself"
            if error.errno in (errno.EACCES, errno.EPERM):
                return f"{path} can only be written by root of the host: run it with sudo"
            raise
        return None

    def read(self) -> State:
        """The setting, and its other form where it has one.

        Raises:
            Unreachable: there is no such file, or it may not be read.
        """
        names = [self._wanted.setting, *([_PARTNER[self._wanted.setting]] if self._wanted.setting in _PARTNER else [])]
        return {name: self._value(name) for name in names}

    def plan(self, before: State) -> State:
        """The value of the fix; the other form is then 0."""
        return {name: self._wanted.value if name == self._wanted.setting else "0" for name in before}

    def goal(self, before: State, during: State, now: State) -> State:  # noqa: ARG002  # as every hand
        """The former values."""
        return before

    def write(self, wanted: State) -> None:
        """Of two forms, the one that is not 0.

        Raises:
            Refused: the kernel does not take the value, or this user may not set it.
        """
        holding = {name: value for name, value in wanted.items() if value != "0"} if len(wanted) == 2 else wanted
        for name, value in (holding or self._both_zero(wanted)).items():
            self._put(name, value)

    def by_hand(self, wanted: State) -> tuple[str, ...]:
        """sysctl, or echo into the file, where it is not one of sysctl's."""
        holding = {name: value for name, value in wanted.items() if value != "0" or len(wanted) == 1} or wanted
        return tuple(
            f"echo {value} > {self._path(name)}" if name.startswith(HUGE_PAGES) else f"sysctl -w {name}={value}"
            for name, value in holding.items()
        )

    def lasts(self) -> str:
        """Of what is written to /proc/sys."""
        return "until the host is booted again: no file in /etc is written"

    def close(self) -> None:
        """Nothing is held open."""

    def _both_zero(self, wanted: State) -> State:
        """A share of 0 with no bytes: writing the share sets the bytes to 0, but only where it changes."""
        (ratio,) = (name for name in wanted if name.endswith("_ratio"))
        self._put(ratio, "1")
        return {ratio: "0"}

    def _put(self, name: str, value: str) -> None:
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, f"{value}\n".encode("ascii"))
            finally:
                os.close(descriptor)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Refused(f"the kernel refuses {value!r} for {path}: {why}") from error

    def _value(self, name: str) -> str:
        path = self._path(name)
        try:
            with path.open("rb") as file:
                text = file.read(LONGEST_FILE).decode("ascii", "backslashreplace").strip()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Unreachable(f"{path} cannot be read: {why}", way_out="run it as root of the host itself") from error
        if name.startswith(HUGE_PAGES):  # always [madvise] never
            return text.partition("[")[2].partition("]")[0]
        return text

    def _path(self, name: str) -> Path:
        if name.startswith(HUGE_PAGES):
            return self._sys_root / "kernel/mm" / name
        return self._proc_root / "sys" / name.replace(".", "/")
