"""Which process it is: start times of processes and threads, and this boot of the host, from /proc."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")


def starttime_of(pid: int, proc_root: Path = PROC, *, tid: int | None = None) -> int | None:
    """Field 22 of a stat file (fs/proc/array.c), of a process or one of its threads; None where there is none."""
    folder = proc_root / str(pid)
    try:
        raw = ((folder / "task" / str(tid) if tid is not None else folder) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return None
    fields = raw[raw.rfind(b")") + 1 :].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in (b"Z", b"X") else None


def threads_of(pid: int, proc_root: Path = PROC) -> dict[int, int]:
    """Thread ids of a process with their start times; those that end meanwhile are left out."""
    try:
        tids = sorted(int(path.name) for path in (proc_root / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = ((tid, starttime_of(pid, proc_root, tid=tid)) for tid in tids)
    return {tid: starttime for tid, starttime in found if starttime is not None}


def numbers_of(pid: int, proc_root: Path = PROC) -> frozenset[str]:
    """Numbers that a process may know itself by: this host's, and that of its own namespace."""
    try:
        lines = (proc_root / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return frozenset()
    inner = next((line.split()[-1:] for line in lines if line.startswith("NSpid:")), [])
    return frozenset({str(pid), *inner})


def boot_id(proc_root: Path = PROC) -> str:
    """This boot of the host."""
    return (proc_root / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def booted_unix(proc_root: Path = PROC) -> float:
    """When this host was booted, as its wall clock has it now."""
    seconds = float((proc_root / "uptime").read_text(encoding="ascii").split()[0])
    return time.time() - seconds
