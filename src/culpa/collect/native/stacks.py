"""Functions and lines of watched programs that are no Python, from the probes' user stacks into `schema.CODE`.

The probes hand over registers and a slice of the stack, which is memory of the program: it waits here only until this
thread has unwound it, and is then gone. What cannot keep up is left out, since these are samples.
"""

from __future__ import annotations

import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from culpa.capture import schema
from culpa.capture.manifest import BlindSpot
from culpa.collect.native import lines, names
from culpa.collect.native.binaries import Binaries
from culpa.collect.native.blocked import blocked
from culpa.collect.native.process import Place, ProcessCode
from culpa.collect.native.unwind import MACHINES, Machine, Snapshot
from culpa.collect.procfs import PROC, numbers_in, parse_stat, read_bounded, read_link
from culpa.collect.pyspy import CodeRow
from culpa.collect.stacks import MAX_ROWS, is_python
from culpa.units import NS_PER_SECOND, Pid, Tid

MAX_QUEUED: Final = 256
MAX_PROCESSES: Final = 64
MAX_THREADS: Final = 128
SWEEP_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 2.0
FREE_SECONDS: Final = 0.3
"""CPU time for the symbols of large programs: spread over the window it would come after the stacks they are for."""
LAST_SECONDS: Final = 1.0
"""So long the stacks still queued at the end may take."""
_MACHINE: Final = {"x86_64": 62, "aarch64": 183}
_USER_CODE_64: Final = 0x33
"""The code segment of 64-bit programs on x86; 32-bit ones are left out."""
_CS: Final = 17
READERS: Final[Mapping[str, Callable[[], bool]]] = {
    "pyelftools": lines.readable,
    "itanium_demangler": names.readable,
}
"""What reads lines and C++ names, and whether it is installed."""
_MAPS: Final = {
    "node": "start it with --perf-basic-prof (node) and look again",
    "dotnet": "start it with DOTNET_PerfMapEnabled=1 and look again",
    "java": "let an agent write its perf map and look again",
}
"""Run-time compilers that can tell what their code is, and how they are made to."""


class NativeStacks:
    """Unwinds user stacks of watched processes in a thread of its own.

    `budget_share` is the share of one core that it may take.
    """

    def __init__(self, *, budget_share: float, proc_root: Path = PROC) -> None:
        self._budget_share = budget_share
        self._proc_root = proc_root
        self._machine: Machine | None = MACHINES.get(_MACHINE.get(platform.machine(), 0))
        self._queue: deque[npt.NDArray[np.void]] = deque(maxlen=MAX_QUEUED)
        self._lock = threading.Lock()
        self._rows: list[CodeRow] = []
        self._binaries = Binaries()
        self._programs: dict[int, str | None] = {}
        self._codes: dict[int, ProcessCode] = {}
        self._mute: dict[int, str] = {}
        self._any_symbols = False
        self._seen_ns: dict[int, int] = {}
        self.cpu_ns = 0
        """CPU time of this thread so far."""
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="culpa-unwind", daemon=True)

    def start(self) -> None:
        """Begin to unwind."""
        if self._machine is not None:
            self._thread.start()

    def watch(self, pids: Collection[int]) -> None:
        """Add processes, but for Python, which is py-spy's; look anew at those that executed something else."""
        for pid in pids:
            program = read_link(self._proc_root / str(pid) / "exe")
            known = pid in self._programs and program in (self._programs[pid], None)
            if known or program is None or len(self._codes) >= MAX_PROCESSES:
                continue
            code = None if is_python(pid, self._proc_root) else ProcessCode(pid, self._binaries, self._proc_root)
            with self._lock:
                self._programs[pid] = program
                self._codes.pop(pid, None)
                if code is not None:
                    self._codes[pid] = code

    def take(self, records: npt.NDArray[np.void]) -> None:
        """Queue copies of `events.USER_STACK_EVENT` records of watched processes and of what these have started."""
        for pid in np.unique(records["pid"]).tolist():
            if pid in self._programs or self._parent(pid) in self._programs:
                self.watch((pid,))
        with self._lock:
            for at in np.flatnonzero(np.isin(records["pid"], list(self._codes))).tolist():
                self._queue.append(records[at : at + 1].copy())
        self._wake.set()

    def _parent(self, pid: int) -> int | None:
        stat = parse_stat(read_bounded(self._proc_root / str(pid) / "stat") or b"")
        return stat.ppid if stat is not None else None

    def stop(self) -> None:
        """End, once what is queued is unwound or a second is over; whatever is left then is forgotten."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=LAST_SECONDS + 1)
        self._queue.clear()
        if not self._thread.is_alive():
            self._binaries.close()

    def rows(self) -> pl.DataFrame:
        """`schema.CODE`, in the order they were unwound."""
        with self._lock:
            rows = list(self._rows)
        return schema.CODE.frame({name: [getattr(row, name) for row in rows] for name in schema.CODE.schema})

    def blind_spots(self) -> tuple[BlindSpot, ...]:
        """Programs whose functions stay unknown, and what is not installed to read them better."""
        with self._lock:
            mute = dict(self._mute)
        spots = [
            BlindSpot(
                what=f"the functions of process {pid}",
                why=f"{name} compiles at run time and did not write down what",
                way_out=_MAPS[name],
            )
            for pid, name in sorted(mute.items())
        ]
        missing = [name for name, there in READERS.items() if not there()]
        if missing and self._any_symbols:
            spots.append(
                BlindSpot(
                    what="source lines and C++ names of compiled programs",
                    why=f"{' and '.join(missing)} not installed beside culpa",
                    way_out="pip install 'culpa[symbols]'",
                )
            )
        return tuple(spots)

    def _run(self) -> None:
        started = time.monotonic()
        due = started + SWEEP_SECONDS
        while not self._stopping.is_set():
            self._wake.wait(max(0.0, due - time.monotonic()))
            self._wake.clear()
            began = time.thread_time_ns()
            self._unwind_queued(float("inf"))
            if time.monotonic() >= due:
                self._sweep()
                due = time.monotonic() + SWEEP_SECONDS
            self.cpu_ns += time.thread_time_ns() - began
            self._stopping.wait(self._pause_seconds(time.monotonic() - started))
        self._unwind_queued(time.monotonic() + LAST_SECONDS)

    def _pause_seconds(self, elapsed_seconds: float) -> float:
        """How long to rest so that the whole stays within the budget, the reading of symbols at the begin apart."""
        debt_seconds = self.cpu_ns / NS_PER_SECOND - FREE_SECONDS - self._budget_share * elapsed_seconds
        return min(max(debt_seconds / self._budget_share, 0.0), LONGEST_PAUSE_SECONDS)

    def _sweep(self) -> None:
        """Look at the threads that wait and gave no stack lately: those in calls that have not ended."""
        assert self._machine is not None
        now = time.monotonic_ns()
        threads = (
            (pid, code, tid) for pid, code in list(self._codes.items()) for tid in numbers_in(code.folder / "task")
        )
        for pid, code, tid in islice(threads, MAX_THREADS):
            if now - self._seen_ns.get(tid, 0) < SWEEP_SECONDS * NS_PER_SECOND or self._stopping.is_set():
                continue
            ts_ns = time.monotonic_ns()
            found = blocked(self._machine, pid, tid, self._proc_root)
            if found is not None:
                snapshot, in_call = found
                self._unwind(code, snapshot, ts_ns, Pid(pid), Tid(tid), in_call=in_call)

    def _unwind_queued(self, until: float) -> None:
        assert self._machine is not None
        for _ in range(MAX_QUEUED):
            try:
                record = self._queue.popleft()[0]
            except IndexError:
                return
            if time.monotonic() > until:
                return
            pid, tid, registers = int(record["pid"]), int(record["tid"]), record["registers"].tolist()
            code = self._codes.get(pid)
            if code is None or (self._machine.link is None and registers[_CS] != _USER_CODE_64):
                continue
            self._seen_ns[tid] = int(record["at_ns"])
            snapshot = Snapshot(registers=registers, stack=record["slice"].tobytes()[: int(record["captured"])])
            in_call = not record["running"]
            self._unwind(code, snapshot, int(record["at_ns"]), Pid(pid), Tid(tid), in_call=in_call)

    def _unwind(self, code: ProcessCode, snapshot: Snapshot, ts_ns: int, pid: Pid, tid: Tid, *, in_call: bool) -> None:
        """Add the rows of one stack, unless none of its frames is the program's own."""
        assert self._machine is not None
        places = code.frames(self._machine, snapshot, in_call=in_call)
        self._note(pid, code, places)
        if len(self._rows) >= MAX_ROWS or all(place.library for place in places):
            return
        rows = [
            CodeRow(
                ts_ns=ts_ns,
                tid=tid,
                pid=pid,
                depth=depth,
                function=place.function,
                path=place.path,
                line=place.line,
                library=place.library,
                source=place.source,
            )
            for depth, place in enumerate(places)
        ]
        with self._lock:
            self._rows.extend(rows)

    def _note(self, pid: int, code: ProcessCode, places: list[Place]) -> None:
        """Remember what there is to say about what was not seen."""
        runtime = code.runtime if code.runtime in _MAPS and not code.has_map else None
        with self._lock:
            if runtime is None:
                self._mute.pop(pid, None)
            else:
                self._mute[pid] = runtime
            self._any_symbols |= any(not place.library and place.source == "symbols" for place in places)
