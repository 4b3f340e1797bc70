"""What keeps a fix over a restart (`--persist`): one configuration file, backed up before it is written.

Of the kernel's settings a file of culpa's own in /etc/sysctl.d (sysctl.d(5): of two files that set the same, the one
whose name sorts last holds). Of a Redis server its own file, by CONFIG REWRITE, which writes all that was set at run
time. The former bytes lie beside the record until that is closed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from culpa import wholefile
from culpa.errors import CulpaError
from culpa.fix.hands import Hand, Refused
from culpa.fix.kernel_hand import HUGE_PAGES
from culpa.fix.parameters import KernelSetting, Parameters, RedisSetting, State
from culpa.fix.redis_hand import RedisHand
from culpa.units import printable

SYSCTL_D: Final = Path("/etc/sysctl.d")
LONGEST: Final = 1 << 20
_BY_HAND: Final = "leave --persist out, and write it where it belongs yourself"


class LastingFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that a fix writes, as it was before: SHA-256 of its bytes, empty where there was none; mode and owner.

    `after`: SHA-256 of what the fix made of it, empty until that is known.
    """

    path: str
    before: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    after: str = ""


def looked(parameters: Parameters, hand: Hand) -> tuple[LastingFile, bytes]:
    """The file that would keep a fix, and its bytes as they are.

    Raises:
        CulpaError: there is none that culpa writes.
        Unreachable: the server does not tell.
    """
    path = _path(parameters, hand)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if isinstance(parameters, KernelSetting) and path.parent.is_dir():
            return LastingFile(path=str(path)), b""
        raise CulpaError(f"there is no {printable(str(path))}", way_out=_BY_HAND) from None
    except OSError as error:
        why = "it is a link" if path.is_symlink() else (error.strerror or "").lower()
        raise CulpaError(f"{printable(str(path))} is not written: {why}", way_out=_BY_HAND) from error
    with os.fdopen(descriptor, "rb") as file:
        status, content = os.fstat(descriptor), file.read(LONGEST + 1)
    if not stat.S_ISREG(status.st_mode) or len(content) > LONGEST:
        raise CulpaError(f"{printable(str(path))} is no configuration file", way_out=_BY_HAND)
    if isinstance(parameters, KernelSetting):
        raise CulpaError(f"{path} is there already, and not by a fix in place", way_out="look at it, and remove it")
    found = LastingFile(
        path=str(path), before=digest(content), mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid
    )
    return found, content


def written(file: LastingFile, parameters: Parameters, hand: Hand, during: State) -> LastingFile:
    """Write it, with what was made of it.

    Raises:
        Refused: it cannot be written.
        Unreachable: the server did not say whether it has.
    """
    if isinstance(hand, RedisHand):
        hand.rewrite()
    else:
        name, value = parameters.setting, during[parameters.setting]
        text = f"# Written by culpa fix --persist; culpa fix --undo removes it.\n{name} = {value}\n"
        _put(file, text.encode("ascii"))
    return msgspec.structs.replace(file, after=digest(_bytes(file)))


def standing(file: LastingFile) -> str:
    """How it stands: `before`, `after` the fix, or `changed` by somebody else since. Raises Refused."""
    now = digest(_bytes(file))
    if now == file.before:
        return "before"
    return "after" if file.after in ("", now) else "changed"


def put_back(file: LastingFile, content: bytes) -> None:
    """The former bytes, mode and owner; what was not there is removed.

    Raises:
        Refused: that is not possible.
    """
    if file.before:
        _put(file, content)
        return
    try:
        Path(file.path).unlink(missing_ok=True)
    except OSError as error:
        raise _refused(file, error) from error


def digest(content: bytes) -> str:
    """SHA-256 of the bytes of a file; empty of none."""
    return hashlib.sha256(content).hexdigest() if content else ""


def is_fitting(file: LastingFile, parameters: Parameters) -> bool:
    """Whether a record may name that file."""
    if isinstance(parameters, KernelSetting):
        return Path(file.path) == _of_kernel(parameters) and not file.before
    path = Path(file.path)
    return isinstance(parameters, RedisSetting) and path.is_absolute() and ".." not in path.parts and bool(file.before)


def _path(parameters: Parameters, hand: Hand) -> Path:
    if isinstance(hand, RedisHand):
        return hand.configuration()
    if not isinstance(parameters, KernelSetting) or parameters.setting.startswith(HUGE_PAGES):
        raise CulpaError("culpa knows no file that would keep this fix over a restart", way_out=_BY_HAND)
    return _of_kernel(parameters)


def _of_kernel(parameters: KernelSetting) -> Path:
    return SYSCTL_D / f"zz-culpa-{parameters.setting}.conf"


def _bytes(file: LastingFile) -> bytes:
    """As it is now; nothing where it is gone."""
    try:
        with os.fdopen(os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as now:
            return now.read(LONGEST + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise _refused(file, error) from error


def _put(file: LastingFile, content: bytes) -> None:
    """A whole new file in its place."""
    try:
        with wholefile.replacing(Path(file.path)) as made:
            made.write(content)
            os.fchown(made.fileno(), file.uid if file.before else -1, file.gid if file.before else -1)
            os.fchmod(made.fileno(), file.mode)
    except OSError as error:
        raise _refused(file, error) from error


def _refused(file: LastingFile, error: OSError) -> Refused:
    return Refused(f"{printable(file.path)} cannot be written: {(error.strerror or str(error)).lower()}")
