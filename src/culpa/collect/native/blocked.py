"""Where a thread that waits stands: its stack pointer and address from /proc, and its stack through /proc/PID/mem.

The kernel tells these two registers only while the thread is off its CPU, and no others: a chain ends where a frame
needs one of them. Works without probes, and for calls that do not end.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from culpa.collect.native.unwind import Machine, Snapshot
from culpa.collect.procfs import PROC, read_bounded

SLICE_BYTES: Final = 8192


def blocked(machine: Machine, pid: int, tid: int, proc_root: Path = PROC) -> tuple[Snapshot, bool] | None:
    """The snapshot of a thread, and whether it is in a system call; None where it runs, is gone, or moved meanwhile.

    Mirrors proc_pid_syscall of fs/proc/base.c: `-1 SP PC`, or `NR A0 .. A5 SP PC`.
    """
    place = f"{proc_root}/{pid}/task/{tid}/syscall"
    before = read_bounded(place)
    words = (before or b"running").split()
    if len(words) not in (3, 9):
        return None
    pointer, address = (int(word, 16) for word in words[-2:])
    stack = _memory(f"{proc_root}/{pid}/mem", pointer)
    if not stack or read_bounded(place) != before:
        return None
    known = {machine.sp: pointer, machine.pc: address}
    registers = [known.get(column) if column is not None else None for column in machine.columns]
    return Snapshot(registers=registers, stack=stack), words[0] != b"-1"


def _memory(path: str, start: int) -> bytes:
    """Up to `SLICE_BYTES` from an address; the part that is there where the stack ends earlier."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, SLICE_BYTES, start)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(descriptor)
