"""A timer on each CPU whose interrupt runs a probe: a software event of perf_event_open(2), no hardware counter."""

from __future__ import annotations

import ctypes
import platform
import struct
from typing import Final

TICKS_PER_SECOND: Final = 29
"""A prime: not in step with what programs do at round rates."""
_NUMBER: Final = {"x86_64": 298, "aarch64": 241}
_SIZE: Final = 64
"""PERF_ATTR_SIZE_VER0, which every kernel takes."""
_SOFTWARE: Final = 1
_CPU_CLOCK: Final = 0
_EXCLUDE_IDLE, _BY_FREQUENCY = 1 << 7, 1 << 10
_CLOSE_ON_EXEC: Final = 8


def open_ticks(cpus: int) -> list[int]:
    """A file descriptor of a timer for each CPU that is online; empty where the kernel refuses.

    struct perf_event_attr (include/uapi/linux/perf_event.h): type, size, config, frequency, two words of what to
    record (nothing), and the flags.
    """
    number = _NUMBER.get(platform.machine())
    if number is None:
        return []
    flags = _EXCLUDE_IDLE | _BY_FREQUENCY
    attributes = struct.pack("<IIQQQQQ", _SOFTWARE, _SIZE, _CPU_CLOCK, TICKS_PER_SECOND, 0, 0, flags).ljust(
        _SIZE, b"\0"
    )
    library = ctypes.CDLL(None, use_errno=True)
    found = (
        library.syscall(ctypes.c_long(number), attributes, -1, cpu, -1, ctypes.c_ulong(_CLOSE_ON_EXEC))
        for cpu in range(cpus)
    )
    return [fd for fd in found if fd >= 0]
