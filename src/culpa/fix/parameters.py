"""What a fix is applied to: a setting of a server, of the kernel or of a process, and the value it shall have.

Typed, and checked against the catalogue wherever one comes from: a verdict, a record on disk. Nothing in them is ever
run: they name things, and the hands know what to do.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from culpa.errors import CulpaError
from culpa.fix.catalogue import Remedy
from culpa.units import printable

State = dict[str, str]
"""Names (a setting, a sysctl, `TID@STARTTIME`) and their values, as they are read."""

_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,15})?")
_USER: Final = re.compile(r"[A-Za-z0-9_.@+-]{0,128}")
_DEVICE: Final = re.compile(r"(?!\.)[A-Za-z0-9_.!-]{0,64}")
LONGEST_PATH: Final = 4096


class RedisSetting(msgspec.Struct, frozen=True, kw_only=True, tag="redis", forbid_unknown_fields=True):
    """A setting of a Redis server, by CONFIG SET. `pid` and `starttime`: its process, where that is on this host."""

    setting: str
    value: str
    host: str = ""
    port: int = 0
    path: str | None = None
    tls: bool = False
    user: str = ""
    pid: int | None = None
    starttime: int | None = None

    @property
    def server(self) -> str:
        """Its address, as it may be printed."""
        return printable(f"unix:{self.path}" if self.path else f"{self.host}:{self.port}")


class KernelSetting(msgspec.Struct, frozen=True, kw_only=True, tag="kernel", forbid_unknown_fields=True):
    """A setting of the kernel, by its name in /proc/sys, or below /sys/kernel/mm for huge pages."""

    setting: str
    value: str


class ProcessSetting(msgspec.Struct, frozen=True, kw_only=True, tag="process", forbid_unknown_fields=True):
    """CPUs, I/O class or nice value of all threads of a process. `starttime`: field 22 of /proc/PID/stat."""

    setting: str
    value: str
    pid: int
    starttime: int
    comm: str = ""


class GroupSetting(msgspec.Struct, frozen=True, kw_only=True, tag="group", forbid_unknown_fields=True):
    """CPU quota or weight, I/O weight or limit of a control group: its directory, or its path in the hierarchy.

    `device`: the disk that a limit is for, by name. `pid`, `starttime`, `comm`: the neighbour in it, where it is one
    that is to get less; `spares`: processes that must not be in it then.
    """

    setting: str
    value: str
    group: str
    device: str = ""
    pid: int | None = None
    starttime: int | None = None
    comm: str = ""
    spares: tuple[int, ...] = ()


Parameters = RedisSetting | KernelSetting | ProcessSetting | GroupSetting


def target_of(parameters: Parameters) -> str:
    """What is changed, in words."""
    if isinstance(parameters, RedisSetting):
        return f"{parameters.setting} of Redis at {parameters.server}"
    if isinstance(parameters, KernelSetting):
        return f"{parameters.setting} of this host"
    if isinstance(parameters, GroupSetting):
        on = f" on {printable(parameters.device, 40)}" if parameters.device else ""
        return f"{parameters.setting}{on} of the control group {printable(parameters.group)}"
    return f"{parameters.setting} of {printable(parameters.comm, 40) or 'process'}[{parameters.pid}]"


def check(remedy: Remedy, parameters: Parameters) -> None:
    """See that a fix may do just this.

    Raises:
        CulpaError: it may not set that, not to that value, or the target is not one that can be named.
    """
    name = f"the fix {remedy.id}"
    kinds = {"redis": RedisSetting, "kernel": KernelSetting, "group": GroupSetting}
    values = remedy.settings.get(parameters.setting)
    if not isinstance(parameters, kinds.get(remedy.kind, ProcessSetting)) or values is None:
        _refuse(f"{name} does not set {printable(parameters.setting, 60)}")
    elif not values.holds(parameters.value):
        _refuse(f"{name} takes {values.called}, not {printable(parameters.value, 60)!r}")
    check_target(parameters)


def check_target(parameters: Parameters) -> None:
    """See that a target is one that can be named.

    Raises:
        CulpaError: it is not.
    """
    if isinstance(parameters, ProcessSetting):
        if parameters.pid < 2 or parameters.starttime < 1:
            _refuse(f"{parameters.pid} with start time {parameters.starttime} names no process")
    elif isinstance(parameters, RedisSetting):
        _check_server(parameters)
    elif isinstance(parameters, GroupSetting):
        _check_group(parameters)


def _check_server(parameters: RedisSetting) -> None:
    path = parameters.path
    if path is not None:
        named = path.startswith("/") and "\0" not in path and len(path) <= LONGEST_PATH
    else:
        named = bool(_HOST.fullmatch(parameters.host)) and 0 < parameters.port < 65536
    if not named or not _USER.fullmatch(parameters.user):
        _refuse(f"{parameters.server!r} is no address of a Redis server")


def _check_group(parameters: GroupSetting) -> None:
    group = parameters.group
    parts = group.split("/")[1:]
    plain = group.startswith("/") and len(group) <= LONGEST_PATH and group.isprintable()
    if not plain or any(part in ("", ".", "..") for part in parts):
        _refuse(f"{printable(group, 80)!r} is no control group")
    if bool(parameters.device) != (parameters.setting == "I/O limit") or not _DEVICE.fullmatch(parameters.device):
        _refuse(f"{printable(parameters.device, 40)!r} is no disk to be limited")


def _refuse(why: str) -> None:
    raise CulpaError(f"refused: {why}", way_out="take a verdict that culpa made, or make one with culpa why")
