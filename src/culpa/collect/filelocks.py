"""Who holds and who waits for locks of files, as the kernel's list of them has it (/proc/locks, fs/locks.c).

A flock belongs to the open file, not to the process that took it: `flock(1)` on a descriptor of a shell takes it and
ends. Where that process is gone, whoever has the file open with the lock holds it (/proc/PID/fdinfo, Linux 4.1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import polars as pl

from culpa.capture.schema import FILE_LOCKS
from culpa.collect.openfiles import MAX_LOOKED_AT, fds
from culpa.collect.procfs import PROC, numbers_in, parse_fdinfo, read_bounded
from culpa.units import DevT, dev_t

MOST_ROWS: Final = 10_000
MOST_LOCKS: Final = 1000
"""Of one look; servers with many connections hold thousands that nobody waits for."""
MOST_OPEN: Final = 256
"""Fds of targets that are looked at once a second, some ten microseconds each."""
_LOCK: Final = re.compile(
    r"\d+: *(?P<waits>->)? *(?:POSIX|FLOCK|OFDLCK) +\S+ +(?P<mode>\w+) +(?P<pid>-?\d+) "
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<ino>\d+) "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLock:
    """One line of the list. `pid`: the process that took it, which may be gone; 0 or less: it belongs to no process."""

    pid: int
    dev: DevT
    ino: int
    exclusive: bool
    waits: bool


def parse_locks(raw: bytes) -> Iterator[FileLock]:
    """The locks in /proc/locks, or in the `lock:` lines of a file's fdinfo; leases and what is not understood are left
    out.
    """
    for found in _LOCK.finditer(raw.decode("ascii", "replace")):
        yield FileLock(
            pid=int(found["pid"]), dev=dev_t(int(found["major"], 16), int(found["minor"], 16)), ino=int(found["ino"]),
            exclusive=found["mode"] == "WRITE", waits=found["waits"] is not None,
        )  # fmt: skip


class FileLocks:
    """Reads the list again and again, and keeps what it said."""

    def __init__(self, proc_root: Path = PROC) -> None:
        self._root = proc_root
        self._rows: list[tuple[int, FileLock]] = []
        self._keepers: dict[tuple[int, int], int | None] = {}

    def look(self) -> None:
        """Read it now."""
        now = time.monotonic_ns()
        locks = list(islice(parse_locks(read_bounded(self._root / "locks") or b""), MOST_LOCKS))
        self._rows += [(now, lock) for lock in locks][: max(0, MOST_ROWS - len(self._rows))]
        self._find_keepers([lock for lock in locks if not lock.waits], {_file(lock) for lock in locks if lock.waits})

    def holders(self, targets: Collection[int], watched: Collection[int]) -> frozenset[int]:
        """Processes that held, when last looked at, the lock of a file that one that is watched waits for, or that a
        target has open.
        """
        last = [lock for ts_ns, lock in self._rows if ts_ns == self._rows[-1][0]]
        wanted = {_file(lock) for lock in last if lock.waits and lock.pid in watched}
        held = [(pid, lock) for lock in last if not lock.waits and (pid := self._holder(lock)) is not None]
        held = [(pid, lock) for pid, lock in held if pid not in watched]
        inodes = self._open(targets) if held else frozenset[int]()
        return frozenset(pid for pid, lock in held if _file(lock) in wanted or lock.ino in inodes)

    def rows(self) -> pl.DataFrame:
        """`schema.FILE_LOCKS`."""
        found = [
            (ts_ns, lock.pid if lock.waits else self._holder(lock), lock.dev, lock.ino, lock.exclusive, lock.waits)
            for ts_ns, lock in self._rows
        ]
        return FILE_LOCKS.frame({name: [row[at] for row in found] for at, name in enumerate(FILE_LOCKS.schema)})

    def _holder(self, lock: FileLock) -> int | None:
        return self._keepers.get(_file(lock), lock.pid if lock.pid > 0 else None)

    def _find_keepers(self, held: list[FileLock], wanted: set[tuple[int, int]]) -> None:
        """Who has the files open of which a lock is waited for and whose taker is gone; looked for once each."""
        gone = {
            _file(lock)
            for lock in held
            if _file(lock) in wanted - self._keepers.keys()
            and (lock.pid <= 0 or not (self._root / str(lock.pid)).exists())
        }
        if not gone:
            return
        self._keepers |= dict.fromkeys(gone)
        for pid, fd in islice(fds(numbers_in(self._root), self._root), MAX_LOOKED_AT):
            raw = read_bounded(f"{self._root}/{pid}/fdinfo/{fd}") or b""
            for lock in parse_locks(raw) if b"lock:" in raw else ():
                if _file(lock) in gone and self._keepers[_file(lock)] is None:
                    self._keepers[_file(lock)] = pid

    def _open(self, pids: Collection[int]) -> frozenset[int]:
        """Inodes of what processes have open, as fdinfo has them (Linux 5.14): no file system is asked."""
        looked = islice(fds(pids, self._root), MOST_OPEN)
        found = (parse_fdinfo(read_bounded(f"{self._root}/{pid}/fdinfo/{fd}") or b"").ino for pid, fd in looked)
        return frozenset(ino for ino in found if ino is not None)


def _file(lock: FileLock) -> tuple[int, int]:
    return lock.dev, lock.ino
