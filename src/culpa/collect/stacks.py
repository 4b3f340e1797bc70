"""Python source lines of watched threads, sampled through py-spy into `schema.CODE`."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import polars as pl

from culpa.capture import schema
from culpa.capture.manifest import BlindSpot
from culpa.collect.procfs import PROC, numbers_in, read_bounded, read_link
from culpa.collect.pyspy import DUMP_SECONDS, CodeRow, Recording, Refused, dump, find_pyspy
from culpa.errors import exhausted
from culpa.units import NS_PER_SECOND, Pid

FIRST_AFTER_SECONDS: Final = 0.3
"""Not at once: the waits worth a line are those over 200 ms."""
INTERVAL_SECONDS: Final = 0.5
STACKS_PER_SECOND: Final = 40
"""A stack takes py-spy half a millisecond; so many cost about as much as its start."""
MAX_RATE: Final = 40
MIN_RATE: Final = 5
"""Fewer a second are not worth a recording."""
MAX_PROCESSES: Final = 8
MAX_ROWS: Final = 200_000
MAX_FAILURES: Final = 3
_PYTHON_EXE: Final = re.compile(r"python[\d.]*t?d?")
_LIBPYTHON: Final = re.compile(rb"/libpython[23]\.\d+[a-z]*\.so")


def is_python(pid: int, proc_root: Path = PROC) -> bool:
    """Whether a process runs CPython, by its program's name or by the library mapped into it."""
    exe = read_link(proc_root / str(pid) / "exe")
    if exe is not None and _PYTHON_EXE.fullmatch(Path(exe).name):
        return True
    return _LIBPYTHON.search(read_bounded(proc_root / str(pid) / "maps") or b"") is not None


class StackSampler:
    """Looks at the Python processes among the watched ones every now and then, from a thread of its own: for a second
    where they have few threads, else at one moment.

    `budget_share` is the share of one core that py-spy may take; the interval is stretched to hold it.
    """

    def __init__(
        self, pids: Collection[int], *, budget_share: float, binary: Path | None = None, proc_root: Path = PROC
    ) -> None:
        self._binary = binary or find_pyspy()
        self._budget_share = budget_share
        self._proc_root = proc_root
        self._lock = threading.Lock()
        self._rows: list[CodeRow] = []
        self._python: dict[int, bool] = {}
        self._programs: dict[int, str | None] = {}
        self._failures: dict[int, int] = {}
        self._refused: dict[int, tuple[str, str]] = {}
        self._read: set[int] = set()
        self.cpu_ns = 0
        """CPU time of py-spy so far."""
        self._recordings: tuple[Recording, ...] = ()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="culpa-stacks", daemon=True)
        self.watch(pids)

    def start(self) -> None:
        """Begin, with the first dump a little later."""
        if self._binary is not None:
            self._thread.start()

    def watch(self, pids: Collection[int]) -> None:
        """Add processes, and look again at those that have executed another program since."""
        for pid in pids:
            program = read_link(self._proc_root / str(pid) / "exe")
            if pid in self._programs and program in (self._programs[pid], None):
                continue
            found = is_python(pid, self._proc_root)
            with self._lock:
                self._programs[pid], self._python[pid] = program, found

    def stop(self) -> None:
        """End; what is under way is cut short or waited for, at most two seconds."""
        with self._lock:
            self._stopping.set()
            for recording in self._recordings:
                recording.end()
        if self._thread.is_alive():
            self._thread.join(timeout=DUMP_SECONDS + 1)

    def rows(self) -> pl.DataFrame:
        """`schema.CODE`, in the order they were taken."""
        with self._lock:
            rows = list(self._rows)
        return schema.CODE.frame({name: [getattr(row, name) for row in rows] for name in schema.CODE.schema})

    def blind_spots(self) -> tuple[BlindSpot, ...]:
        """Python processes whose lines could not be read; nothing where none is watched."""
        with self._lock:
            pythons = sorted(pid for pid, found in self._python.items() if found)
            refused = dict(self._refused)
        if pythons and self._binary is None:
            return (
                BlindSpot(
                    what=f"the source lines of {_processes(pythons)}",
                    why="py-spy is not installed beside culpa",
                    way_out="pip install py-spy, into the environment of culpa",
                ),
            )
        spots = [
            BlindSpot(
                what=f"the source lines of process {pid}",
                why=f"py-spy could not read it: {why}",
                way_out=way_out,
            )
            for pid, (why, way_out) in sorted(refused.items())
        ]
        if len(pythons) > MAX_PROCESSES:
            spots.append(
                BlindSpot(
                    what=f"the source lines of {_processes(pythons[MAX_PROCESSES:])}",
                    why=f"at most {MAX_PROCESSES} Python processes are sampled",
                    way_out="watch one of them by its PID",
                )
            )
        return tuple(spots)

    def _run(self) -> None:
        pause = FIRST_AFTER_SECONDS
        while not self._stopping.wait(pause) and len(self._rows) < MAX_ROWS:
            cpu_ns = self._round()
            pause = max(INTERVAL_SECONDS, cpu_ns / NS_PER_SECOND / self._budget_share)

    def _round(self) -> int:
        with self._lock:
            pythons = sorted(pid for pid, found in self._python.items() if found)[:MAX_PROCESSES]
        pids = [Pid(pid) for pid in pythons if self._failures.get(pid, 0) < MAX_FAILURES]
        threads = sum(len(numbers_in(self._proc_root / str(pid) / "task")) for pid in pids)
        rate = min(MAX_RATE, STACKS_PER_SECOND // max(threads, 1))
        return self._record(pids, rate) if rate >= MIN_RATE else sum(self._dump(pid) for pid in pids)

    def _dump(self, pid: Pid) -> int:
        assert self._binary is not None
        binary = self._binary
        return self._taken(pid, lambda: dump(binary, pid, self._proc_root))

    def _record(self, pids: Collection[Pid], rate: int) -> int:
        """All at the same time."""
        started = [(pid, recording) for pid in pids if (recording := self._begun(pid, rate))]
        cpu_ns = sum(self._taken(pid, recording.finish) for pid, recording in started)
        with self._lock:
            self._recordings = ()
        return cpu_ns

    def _begun(self, pid: Pid, rate: int) -> Recording | None:
        assert self._binary is not None
        try:
            with self._lock:
                if self._stopping.is_set():
                    return None
                recording = Recording(self._binary, pid, rate=rate, proc_root=self._proc_root)
                self._recordings = (*self._recordings, recording)
        except OSError as reason:
            self._fail(pid, reason)
            return None
        return recording

    def _taken(self, pid: Pid, take: Callable[[], tuple[list[CodeRow], int]]) -> int:
        """The CPU time in ns of what one py-spy took, and its rows kept; a refusal is remembered."""
        try:
            rows, cpu_ns = take()
        except (Refused, OSError, MemoryError) as reason:
            if not self._stopping.is_set():
                self._fail(pid, reason)
            return 0
        self._failures[pid] = 0
        self._read.add(pid)
        self.cpu_ns += cpu_ns
        with self._lock:
            self._refused.pop(pid, None)
            self._rows.extend(rows)
        return cpu_ns

    def _fail(self, pid: Pid, reason: Refused | OSError | MemoryError) -> None:
        self._failures[pid] = self._failures.get(pid, 0) + 1
        still = is_python(pid, self._proc_root)
        with self._lock:
            self._python[pid] = still  # it may have ended, or executed something else
            if still and pid not in self._read:
                self._refused[pid] = _told(reason)


def _told(reason: Refused | OSError | MemoryError) -> tuple[str, str]:
    """Why a process could not be read, and the way out."""
    told = None if isinstance(reason, Refused) else exhausted(reason)
    if told is not None:
        return told.what, told.way_out
    return str(reason), "run culpa as root (CAP_SYS_PTRACE), outside a container without that capability"


def _processes(pids: list[int]) -> str:
    shown = ", ".join(str(pid) for pid in pids[:5])
    return f"process {shown}" if len(pids) == 1 else f"processes {shown}" + (" and others" if len(pids) > 5 else "")
