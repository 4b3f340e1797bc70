"""Python source lines of watched threads, sampled through py-spy into `schema.CODE`.

py-spy reads another interpreter's memory without code in it. It runs as `dump --nonblocking`: its default pauses the
target, which on a thread in uninterruptible sleep takes seconds. The binary is the installed package's, not the PATH's.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import polars as pl

from culpa.capture import schema
from culpa.capture.manifest import BlindSpot
from culpa.collect.procfs import PROC, namespace_inode, numbers_in, own_pid, parse_status, read_bounded, read_link
from culpa.errors import exhausted
from culpa.units import NS_PER_SECOND, Pid, Tid, printable

FIRST_AFTER_SECONDS: Final = 0.3
"""Not at once: the waits worth a line are those over 200 ms."""
INTERVAL_SECONDS: Final = 0.5
DUMP_SECONDS: Final = 2.0
MAX_PROCESSES: Final = 8
MAX_OUTPUT_BYTES: Final = 8 << 20
MAX_THREADS: Final = 200
MAX_FRAMES: Final = 64
MAX_ROWS: Final = 200_000
MAX_FAILURES: Final = 3
_PYTHON_EXE: Final = re.compile(r"python[\d.]*t?d?")
_LIBPYTHON: Final = re.compile(rb"/libpython[23]\.\d+[a-z]*\.so")
_LIBRARY: Final = re.compile(r"(^|/)(site|dist)-packages/|(^|/)lib(32|64)?/python[23][\d.]*t?/|(^|/)python\d+\.zip/")


class _Frame(msgspec.Struct):
    name: str = ""
    filename: str = ""
    line: int = 0


class _Thread(msgspec.Struct):
    os_thread_id: int | None = None
    frames: list[_Frame] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRow:
    """One frame of one sampled stack; `depth` 0 is the innermost, `line` None where it is not known."""

    ts_ns: int
    tid: Tid
    pid: Pid
    depth: int
    function: str | None
    path: str
    line: int | None
    library: bool
    source: str


class Refused(Exception):
    """py-spy could not read a process; the sentence says why."""


def find_pyspy() -> Path | None:
    """The py-spy binary that belongs to the installed package; None where it is missing."""
    try:
        files = importlib.metadata.distribution("py-spy").files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(file.locate()).resolve() for file in files if file.name == "py-spy")
    return next((path for path in found if os.access(path, os.X_OK)), None)


def is_python(pid: int, proc_root: Path = PROC) -> bool:
    """Whether a process runs CPython, by its program's name or by the library mapped into it."""
    exe = read_link(proc_root / str(pid) / "exe")
    if exe is not None and _PYTHON_EXE.fullmatch(Path(exe).name):
        return True
    return _LIBPYTHON.search(read_bounded(proc_root / str(pid) / "maps") or b"") is not None


def in_library(path: str) -> bool:
    """Whether a source file is the interpreter's or an installed package's, not the application's."""
    return path.startswith("<") or _LIBRARY.search(path) is not None


def parse_dump(output: bytes, *, pid: Pid, ts_ns: int, outer_tid: Callable[[int], int | None]) -> Iterator[CodeRow]:
    """Rows of one `py-spy dump --json`; threads and frames beyond the bounds are left out.

    Args:
        output: what py-spy printed.
        pid: the process.
        ts_ns: when it was asked.
        outer_tid: the thread id on this host for the one the interpreter knows, None where it has none.

    Raises:
        Refused: the output is not what py-spy prints.
    """
    try:
        threads = msgspec.json.decode(output, type=list[_Thread])
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise Refused("what py-spy printed could not be read") from error
    for thread in threads[:MAX_THREADS]:
        tid = None if thread.os_thread_id is None else outer_tid(thread.os_thread_id)
        if tid is None:
            continue
        for depth, frame in enumerate(thread.frames[:MAX_FRAMES]):
            yield CodeRow(
                ts_ns=ts_ns,
                tid=Tid(tid),
                pid=pid,
                depth=depth,
                function=frame.name[:200],
                path=frame.filename[:1000],
                line=frame.line if frame.line > 0 else None,
                library=in_library(frame.filename),
                source="py-spy",
            )


def dump(binary: Path, pid: Pid, proc_root: Path = PROC) -> tuple[list[CodeRow], int]:
    """One stack of every Python thread of a process.

    Returns:
        the rows, and the CPU time of py-spy in ns.

    Raises:
        Refused: it may not be read, is no Python, or took longer than two seconds.
    """
    ts_ns = time.monotonic_ns()
    with subprocess.Popen(
        [str(binary), "dump", "--nonblocking", "--json", "--pid", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # an interrupt at the terminal ends the window, not a dump half way
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        timer = threading.Timer(DUMP_SECONDS, process.kill)
        timer.start()
        try:
            output = process.stdout.read(MAX_OUTPUT_BYTES + 1)
            if len(output) > MAX_OUTPUT_BYTES:
                process.kill()
            complaint = process.stderr.read(4096)
        finally:
            timer.cancel()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Refused(_complaint(complaint) if process.returncode > 0 else "it took longer than two seconds")
    rows = list(parse_dump(output, pid=pid, ts_ns=ts_ns, outer_tid=_outer_tids(pid, proc_root)))
    return rows, int((usage.ru_utime + usage.ru_stime) * NS_PER_SECOND)


def _complaint(stderr: bytes) -> str:
    text = stderr.decode(errors="replace")
    if "ermission denied" in text or "not permitted" in text:
        return "reading its memory is not permitted"
    return printable(text.strip().partition("\n")[0].removeprefix("Error: "), 120) or "py-spy failed"


def _outer_tids(pid: Pid, proc_root: Path) -> Callable[[int], int | None]:
    """From the thread ids an interpreter knows to those of this host: they differ in another pid namespace."""
    tasks = numbers_in(proc_root / str(pid) / "task")
    if namespace_inode(proc_root, pid, "pid") == namespace_inode(proc_root, own_pid(), "pid"):
        return {tid: tid for tid in tasks}.get
    inner: dict[int, int] = {}
    for tid in tasks:
        status = parse_status(read_bounded(proc_root / str(pid) / "task" / str(tid) / "status") or b"")
        if status is not None and status.ns_pids:
            inner[status.ns_pids[-1]] = tid
    return inner.get


class StackSampler:
    """Dumps the Python processes among the watched ones every now and then, from a thread of its own.

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
        """End; a dump under way is waited for, at most two seconds."""
        self._stopping.set()
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
        return sum(self._dump(Pid(pid)) for pid in pythons if self._failures.get(pid, 0) < MAX_FAILURES)

    def _dump(self, pid: Pid) -> int:
        assert self._binary is not None
        try:
            rows, cpu_ns = dump(self._binary, pid, self._proc_root)
        except (Refused, OSError, MemoryError) as reason:
            self._failures[pid] = self._failures.get(pid, 0) + 1
            still = is_python(pid, self._proc_root)
            with self._lock:
                self._python[pid] = still  # it may have ended, or executed something else
                if still and pid not in self._read:
                    self._refused[pid] = _told(reason)
            return 0
        self._failures[pid] = 0
        self._read.add(pid)
        self.cpu_ns += cpu_ns
        with self._lock:
            self._refused.pop(pid, None)
            self._rows.extend(rows)
        return cpu_ns


def _told(reason: Refused | OSError | MemoryError) -> tuple[str, str]:
    """Why a process could not be read, and the way out."""
    told = None if isinstance(reason, Refused) else exhausted(reason)
    if told is not None:
        return told.what, told.way_out
    return str(reason), "run culpa as root (CAP_SYS_PTRACE), outside a container without that capability"


def _processes(pids: list[int]) -> str:
    shown = ", ".join(str(pid) for pid in pids[:5])
    return f"process {shown}" if len(pids) == 1 else f"processes {shown}" + (" and others" if len(pids) > 5 else "")
