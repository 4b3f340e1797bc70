"""Limits and weights of one control group, in either version: CPU quota and weight, I/O weight and limit of one disk.

Documentation/admin-guide/cgroup-v2.rst (cpu.max, cpu.weight, io.max, io.weight, io.bfq.weight) and cgroup-v1
(cpu.cfs_quota_us and cpu.shares in scheduler/sched-bwc.rst, blkio-controller.rst). A part of the state is one file of
the group, of those with a line for each disk that line alone: what is set for other disks stays.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from culpa.fix.hands import CLOCKS_SECONDS, Identity, Refused, Standing, Unreachable
from culpa.fix.parameters import GroupSetting, State
from culpa.fix.processes import PROC, boot_id, booted_unix, starttime_of

SYS: Final = Path("/sys")
LONGEST_FILE: Final = 1 << 16
CPU_MAX: Final = "cpu.max"
V1_LIMITS: Final = tuple(
    f"blkio.throttle.{name}_device" for name in ("read_bps", "write_bps", "read_iops", "write_iops")
)
V2_LIMITS: Final = ("rbps", "wbps", "riops", "wiops")
_V1: Final = {"CPU quota": ("cpu.cfs_quota_us",), "CPU weight": ("cpu.shares",), "I/O limit": V1_LIMITS}
_V2: Final = {"CPU quota": (CPU_MAX,), "CPU weight": ("cpu.weight",), "I/O limit": ("io.max",)}
_BFQ: Final = {"cgroup": "blkio.bfq.weight", "cgroup2": "io.bfq.weight"}
IO_WEIGHT: Final = "io.weight"
_CONTROLLERS: Final = {"CPU quota": "cpu", "CPU weight": "cpu", "I/O limit": "blkio", "I/O weight": "blkio"}
_DEFAULT_WEIGHT, _DEFAULT_SHARES, _LEAST_SHARES = 100, 1024, 2
NONE: Final = {"cgroup": "0", "cgroup2": " ".join(f"{name}=max" for name in V2_LIMITS)}
"""How a disk without a limit reads here: the kernel has no line for it."""


class GroupHand:
    """One setting of one group."""

    def __init__(self, parameters: GroupSetting, proc_root: Path = PROC, sys_root: Path = SYS) -> None:
        self._wanted = parameters
        self._proc_root = proc_root
        self._sys_root = sys_root

    def identity(self) -> Identity:
        """This boot, and the inode of the group's directory.

        Raises:
            Unreachable: there is no such group.
        """
        return Identity(boot_id=boot_id(self._proc_root), inode=self._directory()[1].stat().st_ino)

    def standing(self, noted: Identity, at_unix: float) -> tuple[Standing, str]:  # noqa: ARG002  # as every hand
        """`gone` once the group was removed; another one of its name starts with what its maker gives it."""
        try:
            if self.identity() == noted:
                return "same", ""
        except Unreachable:
            pass
        return "gone", f"the control group {self._wanted.group} was removed since, and what was set is gone with it"

    def stale(self, seen_unix: float) -> str | None:
        """It was seen before this boot, or the group is no more."""
        if seen_unix < booted_unix(self._proc_root) - CLOCKS_SECONDS:
            return "this host was booted anew since it was examined"
        try:
            self._directory()
        except Unreachable as reason:
            return reason.what
        return None

    def obstacle(self) -> str | None:
        """No such file, no right to; a process elsewhere than it was; a group that holds more than a neighbour."""
        kind, directory = self._directory()
        if self._wanted.pid is not None and (why := self._elsewhere(kind, directory, self._wanted.pid)) is not None:
            return why
        if self._wanted.setting == "I/O weight" and not self._heeds_weights():
            return "no disk here has an I/O scheduler that heeds weights (bfq), nor is io.cost switched on"
        if self._wanted.setting == "I/O limit":
            self._device()
        for name in self._files(kind, directory):
            path = directory / name
            if not path.exists():
                return f"this group has no {path}: the controller is not switched on for it, or it is the top of all"
            if not os.access(path, os.W_OK):
                return f"{path} cannot be written: run it with sudo, on the host itself"
        return None

    def read(self) -> State:
        """What the files say; a disk without a limit reads as 0 (version 1), or as `max` four times.

        Raises:
            Unreachable: there is no such group or file.
        """
        kind, directory = self._directory()
        return {name: self._value(kind, directory / name) for name in self._files(kind, directory)}

    def plan(self, before: State) -> State:
        """The value of the fix, as each file spells it."""
        return {name: self._planned(name, now) for name, now in before.items()}

    def goal(self, before: State, during: State, now: State) -> State:  # noqa: ARG002  # as every hand
        """The former values."""
        return before

    def write(self, wanted: State) -> None:
        """Each file that reads otherwise.

        Raises:
            Refused: the kernel does not take it.
        """
        kind, directory = self._directory()
        for name, value in wanted.items():
            path = directory / name
            if self._value(kind, path) == value:
                continue
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
                try:
                    os.write(descriptor, f"{self._line(value)}\n".encode("ascii"))
                finally:
                    os.close(descriptor)
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise Refused(f"the kernel refuses {value!r} for {path}: {why}") from error

    def by_hand(self, wanted: State) -> tuple[str, ...]:
        """echo into each file."""
        try:
            directory = self._directory()[1]
            return tuple(
                f"echo {shlex.quote(self._line(value))} > {shlex.quote(str(directory / name))}"
                for name, value in wanted.items()
            )
        except Unreachable:
            return ()

    def lasts(self) -> str:
        """Of what is written to a group."""
        return "until the group is removed, its manager (systemd, a container engine) sets it, or the host is booted"

    def close(self) -> None:
        """Nothing is held open."""

    def _directory(self) -> tuple[str, Path]:
        """The kind of hierarchy, and the group's directory: named whole, or by its path in the hierarchy."""
        controller, group = _CONTROLLERS[self._wanted.setting], self._wanted.group
        for kind, where in self._mounts(controller):
            whole = group == str(where) or group.startswith(f"{where}/")
            directory = Path(group) if whole else where / group.lstrip("/")
            if directory.is_dir():
                return kind, directory
        what = f"there is no control group {group} with the controller {controller}"
        raise Unreachable(what, way_out="make a new verdict with culpa why")

    def _mounts(self, controller: str) -> Iterator[tuple[str, Path]]:
        """Version 1 first: a controller is in one hierarchy only, and where that is mounted it is not in version 2."""
        lines = [line.split() for line in (self._proc_root / "self/mounts").read_text(errors="replace").splitlines()]
        for kind in ("cgroup", "cgroup2"):
            for _, where, mounted, options, *_ in lines:
                if mounted == kind and (kind == "cgroup2" or controller in options.split(",")):
                    yield kind, Path(where)

    def _files(self, kind: str, directory: Path) -> tuple[str, ...]:
        if self._wanted.setting != "I/O weight":
            return (_V1 if kind == "cgroup" else _V2)[self._wanted.setting]
        by_cost = kind == "cgroup2" and not (directory / _BFQ[kind]).exists()
        return (IO_WEIGHT if by_cost else _BFQ[kind],)

    def _value(self, kind: str, path: Path) -> str:
        try:
            with path.open("rb") as file:
                lines = file.read(LONGEST_FILE).decode("ascii", "backslashreplace").splitlines()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Unreachable(f"{path} cannot be read: {why}", way_out="run it as root of the host itself") from error
        if self._wanted.setting != "I/O limit":
            return lines[0].strip() if lines else ""  # a weight's further lines are those of single disks
        device = self._device()
        return next((line.partition(" ")[2].strip() for line in lines if line.split()[:1] == [device]), NONE[kind])

    def _planned(self, name: str, now: str) -> str:
        wanted = self._wanted.value
        if name == CPU_MAX:
            return f"{wanted} {now.partition(' ')[2]}"
        if name == "cpu.cfs_quota_us":
            return "-1"
        if name == "cpu.shares":
            return str(max(_LEAST_SHARES, int(wanted) * _DEFAULT_SHARES // _DEFAULT_WEIGHT))
        if name in V1_LIMITS:
            return now if wanted != "max" and name.endswith("_iops_device") else "0" if wanted == "max" else wanted
        if name == "io.max":
            return _limited(now, wanted)
        return f"default {wanted}" if now.startswith("default ") else wanted

    def _line(self, value: str) -> str:
        return f"{self._device()} {value}" if self._wanted.setting == "I/O limit" else value

    def _device(self) -> str:
        """`major:minor` of the disk."""
        path = self._sys_root / "class/block" / self._wanted.device / "dev"
        try:
            return path.read_text(encoding="ascii").strip()
        except OSError as error:
            what = f"there is no block device {self._wanted.device} here any more"
            raise Unreachable(what, way_out="make a new verdict with culpa why") from error

    def _elsewhere(self, kind: str, directory: Path, pid: int) -> str | None:
        """Why the group is not just the neighbour's: it is the top of all, the process left it, the victim is in it."""
        if directory in [where for _, where in self._mounts(_CONTROLLERS[self._wanted.setting])]:
            return f"process {pid} is in no control group of its own"
        if starttime_of(pid, self._proc_root) != self._wanted.starttime:
            return f"process {pid}, which was examined, has ended"
        if not self._is_in(kind, directory, pid):
            return f"process {pid} is not in {directory}"
        victim = next((one for one in self._wanted.spares if self._is_in(kind, directory, one)), None)
        return None if victim is None else f"process {victim}, which is to get more, is in {directory} as well"

    def _is_in(self, kind: str, directory: Path, pid: int) -> bool:
        """Whether a process is in a group or below it, as /proc/PID/cgroup says."""
        try:
            lines = (self._proc_root / str(pid) / "cgroup").read_text(errors="replace").splitlines()
        except OSError:
            return False
        controller = _CONTROLLERS[self._wanted.setting] if kind == "cgroup" else ""
        tops = [where for one, where in self._mounts(controller or "cpu") if one == kind]
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return any((top / path.lstrip("/")).is_relative_to(directory) for top in tops)
        return False

    def _heeds_weights(self) -> bool:
        for path in sorted(self._sys_root.glob("block/*/queue/scheduler")):
            if "[bfq]" in path.read_text(encoding="ascii", errors="replace"):
                return True
        costs = [where / "io.cost.qos" for kind, where in self._mounts("") if kind == "cgroup2"]
        return any("enable=1" in path.read_text(errors="replace") for path in costs if path.exists())


def _limited(now: str, wanted: str) -> str:
    """A line of io.max: all limits lifted, or bytes a second held to a number, with the limits on operations kept."""
    if wanted == "max":
        return NONE["cgroup2"]
    held = {name: value for name, _, value in (word.partition("=") for word in now.split())}
    return " ".join(f"{name}={wanted if name.endswith('bps') else held.get(name, 'max')}" for name in V2_LIMITS)
