"""The exceptions that end a command, one exit code per branch.

    CulpaError            1   could not do it: what, where, the way out
    ├── UsageError        2   the command line does not make sense
    ├── TargetVanished    4   the target ended before anything was seen
    ├── Interrupted     130   interrupted before anything was seen
    ├── CaptureError      1   a capture file cannot be read or written
    ├── TraceError        1   the kernel side cannot be used; carries the way out
    └── LabError          1   a lab cannot be run here

A message is one sentence that names the way out. `cli` prints it and exits; nothing below ever calls exit.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar, Final

EXIT_FINDING = 3
"""A finding at or above `--fail-on` was made."""
EXIT_LAB_MISSED = 5
"""`culpa lab run`: the truth was not found."""


class CulpaError(Exception):
    """Could not do what was asked."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, way_out: str = "") -> None:
        super().__init__(f"{what}; {way_out}" if way_out else what)
        self.what = what
        self.way_out = way_out


class UsageError(CulpaError):
    """The command line does not make sense."""

    exit_code = 2


class TargetVanished(CulpaError):
    """The target ended before anything was seen."""

    exit_code = 4


class Interrupted(CulpaError):
    """Interrupted before anything was seen."""

    exit_code = 130


class CaptureError(CulpaError):
    """A capture file cannot be read or written."""


class TraceError(CulpaError):
    """Tracing is not possible on this host; `what` and `way_out` become a blind spot."""


class LabError(CulpaError):
    """A lab cannot be run here."""


_WAYS_OUT: Final = {
    errno.EMFILE: "raise the limit with ulimit -n",
    errno.ENFILE: "raise fs.file-max",
    errno.ENOMEM: "raise the limit with ulimit -v, or free some memory",
    errno.EAGAIN: "raise the limit with ulimit -u",
    errno.ENOSPC: "make room on the disk, or send it elsewhere",
    errno.EDQUOT: "make room within the quota, or send it elsewhere",
}
"""What this host or a limit of this process has no more of."""


def exhausted(error: OSError | MemoryError) -> CulpaError | None:
    """The sentence for a resource that ran out anywhere; None: it is another error, and one of culpa's own."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else error.errno
    if number not in _WAYS_OUT:
        return None
    return CulpaError(os.strerror(number).lower(), way_out=_WAYS_OUT[number])
