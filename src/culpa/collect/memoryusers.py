"""Which processes hold the memory: resident and swapped out, from /proc/PID/statm and /proc/PID/status.

statm costs the kernel next to nothing (fs/proc/array.c); only the few largest are asked for what lies in swap.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from culpa.collect.procfs import PROC, numbers_in, read_bounded

LARGEST: Final = 5
MAX_PROCESSES: Final = 4000
MAX_TARGETS: Final = 64
_FIELDS: Final = re.compile(rb"^(VmRSS|VmSwap):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUser:
    """A process, its resident memory and what of it lies in swap, kB."""

    pid: int
    resident_kb: float
    swapped_kb: float


def memory_users(pids: Collection[int], *, is_short: bool, proc_root: Path = PROC) -> list[MemoryUser]:
    """The given processes, and where memory is short the largest of all; kernel threads have none.

    Args:
        pids: the target's.
        is_short: whether to look at everybody.
        proc_root: where /proc is.
    """
    wanted = set(sorted(pids)[:MAX_TARGETS])
    if is_short:
        sizes = held_by_all(proc_root)
        wanted |= set(sorted(sizes, key=lambda pid: (-sizes[pid], pid))[:LARGEST])
    return [user for pid in sorted(wanted) if (user := _user(proc_root, pid)) is not None]


def held_by_all(proc_root: Path = PROC) -> dict[int, float]:
    """The resident memory of each process (the first `MAX_PROCESSES` of them), kB."""
    return {pid: resident_kb(pid, proc_root) for pid in numbers_in(proc_root)[:MAX_PROCESSES]}


def resident_kb(pid: int, proc_root: Path = PROC) -> float:
    """Second field of /proc/PID/statm; 0 where the process is gone."""
    fields = (read_bounded(proc_root / str(pid) / "statm") or b"").split()
    pages = int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def _user(proc_root: Path, pid: int) -> MemoryUser | None:
    raw = read_bounded(proc_root / str(pid) / "status") or b""
    found = {os.fsdecode(name): float(value) for name, value in _FIELDS.findall(raw)}
    if "VmRSS" not in found:
        return None
    return MemoryUser(pid=pid, resident_kb=found["VmRSS"], swapped_kb=found.get("VmSwap", 0.0))
