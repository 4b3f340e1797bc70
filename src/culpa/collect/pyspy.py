"""Stacks of a Python process through py-spy: one at once, or a second of them, each with its moment.

py-spy reads another interpreter's memory without code in it. It runs `--nonblocking`: its default pauses the target,
which on a thread in uninterruptible sleep takes seconds. The binary is the installed package's, not the PATH's.
Starting it costs what fifty stacks cost, so a second of them is hardly dearer than one.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from operator import attrgetter
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec

from culpa.collect.procfs import PROC, namespace_inode, numbers_in, own_pid, parse_status, read_bounded
from culpa.units import NS_PER_SECOND, Pid, Tid, printable

DUMP_SECONDS: Final = 2.0
RECORD_SECONDS: Final = 1
SURE_PERIODS: Final = 3
"""py-spy pauses at random, as a Poisson process does: one pause in twenty is longer than this. When in it a stack
changed nobody knows.
"""
MAX_OUTPUT_BYTES: Final = 8 << 20
MAX_THREADS: Final = 200
MAX_FRAMES: Final = 64
_NS_PER_US: Final = 1000
_LIBRARY: Final = re.compile(r"(^|/)(site|dist)-packages/|(^|/)lib(32|64)?/python[23][\d.]*t?/|(^|/)python\d+\.zip/")
_THREAD: Final = re.compile(r"thread \((\d{1,7})\)")
_Decoded = TypeVar("_Decoded")


class _Frame(msgspec.Struct):
    name: str = ""
    filename: str = ""
    line: int = 0


class _Thread(msgspec.Struct):
    os_thread_id: int | None = None
    frames: list[_Frame] = []


class _Where(msgspec.Struct):
    filename: str = ""
    line: int = 0


class _Step(msgspec.Struct):
    """A call or a return, as of the sample that was the first to show it."""

    name: str
    ph: str
    tid: int
    ts: int
    """µs since py-spy was started."""
    args: _Where


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
    for thread in _decoded(output, list[_Thread])[:MAX_THREADS]:
        tid = None if thread.os_thread_id is None else outer_tid(thread.os_thread_id)
        if tid is not None:
            yield from _rows(thread.frames, ts_ns=ts_ns, tid=tid, pid=pid)


def parse_record(
    output: bytes,
    *,
    pid: Pid,
    start_ns: int,
    period_ns: int,
    outer_tid: Callable[[int], int | None],
    alive: Container[int],
) -> Iterator[CodeRow]:
    """Rows of one `py-spy record --threads --format chrometrace`, which writes down what changed since the sample
    before: a stack that stays is given again for each period for which it was surely there.

    Args:
        output: what py-spy wrote.
        pid: the process.
        start_ns: when py-spy was started.
        period_ns: between two samples, on average.
        outer_tid: the thread id on this host for the one the interpreter knows, None where it has none.
        alive: the threads of this host that are still there; how long the last stack of others lasted is not known,
            and it is given once.

    Raises:
        Refused: the output is not what py-spy writes.
    """
    threads: dict[int, list[_Step]] = defaultdict(list)
    for step in _decoded(output, list[_Step]):
        threads[step.tid].append(step)
    for steps in list(threads.values())[:MAX_THREADS]:
        stood = list(_stacks(steps))
        for stack, later in zip_longest(stood, stood[1:]):
            tid = outer_tid(stack.inner_tid) if stack.inner_tid else None
            if tid is None:
                continue
            # The interpreter's name of a thread goes to another one after its end.
            lasted = tid in alive if later is None else later.inner_tid == stack.inner_tid
            since_ns, until_ns = (start_ns + us * _NS_PER_US for us in (stack.since_us, stack.until_us))
            sure_ns = until_ns - SURE_PERIODS * period_ns if lasted else since_ns
            for ts_ns in range(since_ns, max(sure_ns, since_ns + 1), period_ns):
                yield from _rows(stack.frames, ts_ns=ts_ns, tid=tid, pid=pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stood:
    """A stack of one thread, innermost frame first, and how long it was found."""

    inner_tid: int | None
    frames: list[_Frame]
    since_us: int
    until_us: int


def _stacks(steps: Sequence[_Step]) -> Iterator[_Stood]:
    """What one thread stood in, one after the other; the outermost "frame" is the thread's name."""
    standing: list[_Step] = []
    since_us = 0
    for ts_us, now in groupby(steps, attrgetter("ts")):
        if standing and ts_us > since_us:
            inner = _THREAD.match(standing[0].name)
            yield _Stood(
                inner_tid=int(inner[1]) if inner else None,
                frames=_innermost_first(standing[1:]),
                since_us=since_us,
                until_us=ts_us,
            )
        for step in now:
            if step.ph == "B":
                standing.append(step)
            elif standing:
                standing.pop()
        since_us = ts_us


def _innermost_first(steps: Sequence[_Step]) -> list[_Frame]:
    return [_Frame(name=step.name, filename=step.args.filename, line=step.args.line) for step in reversed(steps)]


def _decoded(output: bytes, wanted: type[_Decoded]) -> _Decoded:
    try:
        return msgspec.json.decode(output, type=wanted)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise Refused("what py-spy printed could not be read") from error


def _rows(frames: Sequence[_Frame], *, ts_ns: int, tid: int, pid: Pid) -> Iterator[CodeRow]:
    for depth, frame in enumerate(frames[:MAX_FRAMES]):
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
    read, write = os.pipe()
    with os.fdopen(read, "rb") as output, os.fdopen(write, "wb") as written:
        spy = _Spy([str(binary), "dump", "--nonblocking", "--json", "--pid", str(pid)], stdout=written)
        written.close()
        text, cpu_ns = spy.finish(output, DUMP_SECONDS)
    rows = list(parse_dump(text, pid=pid, ts_ns=spy.start_ns, outer_tid=_outer_tids(pid, proc_root)))
    return rows, cpu_ns


class Recording:
    """The stacks of a process's Python threads, again and again for a second, as a Poisson process of `rate` Hz.

    It ends by itself, also when nobody is there any more to end it.

    Raises:
        OSError: py-spy could not be started.
    """

    def __init__(self, binary: Path, pid: Pid, *, rate: int, proc_root: Path = PROC) -> None:
        self._pid = pid
        self._rate = rate
        self._proc_root = proc_root
        self._outer_tid = _outer_tids(pid, proc_root, later=True)
        read, write = os.pipe()
        self._output = os.fdopen(read, "rb")
        with os.fdopen(write, "wb"):  # only py-spy is to hold it, so that its end is the end of what it writes
            # What it says of itself goes to its standard output, and is no part of the record.
            argv = [str(binary), "record", "--nonblocking", "--idle", "--threads", "--full-filenames"]
            argv += ["--rate", str(rate), "--duration", str(RECORD_SECONDS), "--format", "chrometrace"]
            argv += ["--output", f"/proc/self/fd/{write}", "--pid", str(pid)]
            try:
                self._spy = _Spy(argv, stdout=subprocess.DEVNULL, pass_fds=(write,))
            except OSError:
                self._output.close()
                raise

    def end(self) -> None:
        """Have it end now with what it has; to be called from any thread, at any time."""
        self._spy.signal(signal.SIGINT)

    def finish(self) -> tuple[list[CodeRow], int]:
        """Wait for its end.

        Returns:
            the rows, and the CPU time of py-spy in ns.

        Raises:
            Refused: it may not be read, is no Python, or took two seconds longer than it should.
        """
        with self._output:
            text, cpu_ns = self._spy.finish(self._output, RECORD_SECONDS + DUMP_SECONDS)
        rows = parse_record(
            text,
            pid=self._pid,
            start_ns=self._spy.start_ns,
            period_ns=NS_PER_SECOND // self._rate,
            outer_tid=self._outer_tid,
            alive=numbers_in(self._proc_root / str(self._pid) / "task"),
        )
        return list(rows), cpu_ns


class _Spy:
    """One run of py-spy."""

    def __init__(self, argv: Sequence[str], *, stdout: int | IO[bytes], pass_fds: Collection[int] = ()) -> None:
        self.start_ns = time.monotonic_ns()
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            start_new_session=True,  # an interrupt at the terminal ends the window, not a dump half way
        )
        self._lock = threading.Lock()
        self._reaped = False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        with self._lock:
            if not self._reaped:
                os.kill(self._process.pid, number)

    def finish(self, output: IO[bytes], limit_s: float) -> tuple[bytes, int]:
        """What it wrote, and its CPU time in ns.

        Raises:
            Refused: it failed, or took too long.
        """
        assert self._process.stderr is not None
        timer = threading.Timer(limit_s, self.signal, (signal.SIGKILL,))
        timer.start()
        try:
            text = output.read(MAX_OUTPUT_BYTES + 1)
            if len(text) > MAX_OUTPUT_BYTES:
                self.signal(signal.SIGKILL)
            complaint = self._process.stderr.read(4096)
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        except BaseException:  # whatever ends the reading, py-spy is not left behind, nor waited for
            self.signal(signal.SIGKILL)
            raise
        finally:
            timer.cancel()
            usage = self._reap()
        if self._process.returncode != 0:
            raise Refused(_complaint(complaint) if self._process.returncode > 0 else "it took longer than it may")
        return text, int((usage.ru_utime + usage.ru_stime) * NS_PER_SECOND)

    def _reap(self) -> resource.struct_rusage:
        assert self._process.stderr is not None
        self._process.stderr.close()
        with self._lock:
            _, status, usage = os.wait4(self._process.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._reaped = True
        return usage


def _complaint(stderr: bytes) -> str:
    text = stderr.decode(errors="replace")
    if "ermission denied" in text or "not permitted" in text:
        return "reading its memory is not permitted"
    return printable(text.strip().partition("\n")[0].removeprefix("Error: "), 120) or "py-spy failed"


def _outer_tids(pid: Pid, proc_root: Path, *, later: bool = False) -> Callable[[int], int | None]:
    """From the thread ids an interpreter knows to those of this host: they differ in another pid namespace.

    Args:
        pid: the process.
        proc_root: where its threads are listed.
        later: threads that are not there yet are known as well, where the ids do not differ.
    """
    tasks = numbers_in(proc_root / str(pid) / "task")
    if namespace_inode(proc_root, pid, "pid") == namespace_inode(proc_root, own_pid(), "pid"):
        return _itself if later else {tid: tid for tid in tasks}.get
    inner: dict[int, int] = {}
    for tid in tasks:
        status = parse_status(read_bounded(proc_root / str(pid) / "task" / str(tid) / "status") or b"")
        if status is not None and status.ns_pids:
            inner[status.ns_pids[-1]] = tid
    return inner.get


def _itself(tid: int) -> int | None:
    return tid
