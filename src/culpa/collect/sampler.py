"""The sampler: which thread sits in which system call on which file, from /proc alone, as often as a budget allows.

Used where tracing is impossible. A thread of its own sweeps over the threads of the watched processes, up to 200 times
a second; it measures its own CPU time and slows down when it would cost more than its budget. Equal looks at one thread
are kept as one run of sweeps and written out as rows only at the end, so a long watch takes little memory.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from culpa.capture.manifest import BlindSpot
from culpa.capture.schema import FILES, SAMPLES, SWEEPS, TASKS
from culpa.collect.openfiles import OpenFiles
from culpa.collect.procfs import PROC, numbers_in, parse_stat, read_bounded
from culpa.collect.watched import FILES_PER_THREAD, Seen, ThreadGone, WatchedThread
from culpa.syscalls import Numbers
from culpa.units import NS_PER_SECOND, format_ns

SHORTEST_INTERVAL_NS = 5_000_000
LONGEST_INTERVAL_NS = NS_PER_SECOND
COARSE_INTERVAL_NS = 50_000_000
"""Above this mean distance of sweeps, the distance is said to be a limit of what was seen."""
NEW_THREADS_EVERY_NS = 100_000_000
CHILDREN_EVERY_NS = NS_PER_SECOND
CHILDREN_COST_FACTOR = 200
"""Looking for forked children reads every stat file of the host: it may take one part in this many of the time."""
SPARE_DESCRIPTORS = 300
MAX_THREADS = 5_000
MAX_RUNS = 1_000_000
MAX_ROWS = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerResult:
    """What was sampled: SAMPLES, SWEEPS, FILES and TASKS, and what it cost."""

    tables: Mapping[str, pl.DataFrame]
    sweeps: int
    cpu_ns: int
    blind_spots: tuple[BlindSpot, ...]


@dataclass(slots=True, kw_only=True)
class _Run:
    """One look that held from sweep `first` to sweep `last`, both included."""

    pid: int
    tid: int
    seen: Seen
    first: int
    last: int


@dataclass(slots=True, kw_only=True)
class _Task:
    pid: int
    comm: str | None
    watched_ns: int
    exit_ns: int | None = None


class Sampler:
    """Samples the threads of `pids` and their descendants, and of `peers` and the copies these fork of themselves.

    Threads of `pids` are recorded in every state, since the judge needs to see what they wait for; those of peers and
    children only while they are not idle.
    """

    def __init__(
        self,
        pids: Iterable[int],
        *,
        peers: Iterable[int] = (),
        budget_percent: float = 3.0,
        proc_root: Path = PROC,
    ) -> None:
        self._root = proc_root
        self._targets = frozenset(pids)
        self._pids = set(self._targets) | set(peers)
        self._kin = set(self._targets)
        self._budget = max(budget_percent, 0.01) / 100
        self._numbers = Numbers(os.uname().machine)
        self._files = OpenFiles(proc_root)
        self._threads: dict[int, WatchedThread] = {}
        self._tasks: dict[tuple[int, int], _Task] = {}
        self._current: dict[int, _Run] = {}
        self._runs: list[_Run] = []
        self._sweeps: list[tuple[int, int, int]] = []
        self._refused: set[str] = set()
        self._overflow = False
        self._cpu_ns = 0
        self._next_threads_ns = 0
        self._next_children_ns = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._worker: threading.Thread | None = None

    def start(self) -> None:
        """Begin to sample in a thread of its own."""
        self._worker = threading.Thread(target=self._work, name="culpa-sampler", daemon=True)
        self._worker.start()

    def watch(self, pids: Iterable[int]) -> None:
        """Sample these processes as well from now on, as peers."""
        with self._lock:
            self._pids |= set(pids)
            self._next_threads_ns = 0

    def snapshot(self) -> SamplerResult:
        """What was sampled so far."""
        with self._lock:
            return self._result()

    def end(self) -> None:
        """End sampling; what was sampled stays."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.join()

    def stop(self) -> SamplerResult:
        """End sampling, close every file, and give what was sampled. A second call gives the same again."""
        self.end()
        with self._lock:
            for thread in self._threads.values():
                thread.close()
            self._threads.clear()
            return self._result()

    def sweep(self) -> None:
        """Look at every watched thread once."""
        with self._lock:
            self._sweep()

    def _work(self) -> None:
        while not self._stopping.is_set():
            before = time.thread_time_ns()
            self.sweep()
            spent = time.thread_time_ns() - before
            self._cpu_ns += spent
            interval = min(max(SHORTEST_INTERVAL_NS, int(spent / self._budget)), LONGEST_INTERVAL_NS)
            self._stopping.wait(interval / NS_PER_SECOND)

    def _sweep(self) -> None:
        now = time.monotonic_ns()
        if now >= self._next_children_ns:
            self._find_children(now)
        if now >= self._next_threads_ns:
            self._find_threads(now)
        index = len(self._sweeps)
        looked = active = 0
        for tid, thread in list(self._threads.items()):
            try:
                seen = thread.look()
            except ThreadGone:
                self._forget(tid, now)
                continue
            looked += 1
            active += not seen.idle
            self._record(thread, seen, index)
        self._sweeps.append((now, looked, active))

    def _record(self, thread: WatchedThread, seen: Seen, index: int) -> None:
        if seen.idle and thread.pid not in self._targets:
            return
        run = self._current.get(thread.tid)
        if (
            run is not None
            and run.last == index - 1
            and run.pid == thread.pid
            and (run.seen is seen or run.seen == seen)
        ):
            run.last = index
        elif len(self._runs) < MAX_RUNS:
            run = _Run(pid=thread.pid, tid=thread.tid, seen=seen, first=index, last=index)
            self._current[thread.tid] = run
            self._runs.append(run)
        else:
            self._overflow = True

    def _find_threads(self, now: int) -> None:
        self._next_threads_ns = now + NEW_THREADS_EVERY_NS
        for pid in sorted(self._pids, key=lambda pid: (pid not in self._targets, pid)):
            for tid in numbers_in(f"{self._root}/{pid}/task"):
                if tid not in self._threads:
                    self._add(pid, tid, now)

    def _add(self, pid: int, tid: int, now: int) -> None:
        if len(self._threads) >= MAX_THREADS:
            self._overflow = True
            return
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS
        keep_open = (len(self._threads) + 1) * FILES_PER_THREAD <= room
        thread = WatchedThread(self._root, pid, tid, numbers=self._numbers, files=self._files, keep_open=keep_open)
        try:
            comm = thread.comm()
        except ThreadGone:
            thread.close()
            return
        self._threads[tid] = thread
        self._tasks[pid, tid] = _Task(pid=pid, comm=comm, watched_ns=now)

    def _forget(self, tid: int, now: int) -> None:
        thread = self._threads.pop(tid)
        self._refused |= thread.refused
        self._tasks[thread.pid, tid].exit_ns = now
        thread.close()

    def _find_children(self, now: int) -> None:
        """Follow forks by parent pids; /proc/PID/task/TID/children is missing on many kernels."""
        began = time.thread_time_ns()
        raw = ((pid, read_bounded(f"{self._root}/{pid}/stat") or b"") for pid in numbers_in(self._root))
        stats = {pid: stat for pid, line in raw if (stat := parse_stat(line)) is not None}
        for pid in sorted(stats.keys() - self._pids, key=lambda pid: stats[pid].starttime):
            stat, parent = stats[pid], stats.get(stats[pid].ppid)
            if stat.ppid in self._kin:
                self._kin.add(pid)
                self._pids.add(pid)
            elif parent is not None and stat.ppid in self._pids and stat.comm == parent.comm:
                self._pids.add(pid)
        cost = time.thread_time_ns() - began
        self._next_children_ns = now + max(CHILDREN_EVERY_NS, cost * CHILDREN_COST_FACTOR)

    def _result(self) -> SamplerResult:
        sweeps = len(self._sweeps)
        return SamplerResult(
            tables={
                SAMPLES.name: self._sample_rows(),
                SWEEPS.name: SWEEPS.frame(
                    {
                        "ts_ns": [ts for ts, _, _ in self._sweeps],
                        "threads": [threads for _, threads, _ in self._sweeps],
                        "active": [active for _, _, active in self._sweeps],
                    }
                ),
                FILES.name: self._files.rows(),
                TASKS.name: self._task_rows(),
            },
            sweeps=sweeps,
            cpu_ns=self._cpu_ns,
            blind_spots=tuple(self._blind_spots()),
        )

    def _sample_rows(self) -> pl.DataFrame:
        """One row for each sweep of each run; past `MAX_ROWS` only those of threads that were not idle."""
        runs = self._runs
        if sum(run.last - run.first + 1 for run in runs) > MAX_ROWS:
            runs = [run for run in runs if not run.seen.idle]
        lengths = np.array([run.last - run.first + 1 for run in runs], np.int64)
        which = np.repeat(np.arange(len(runs)), lengths)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        sweep = np.repeat(np.array([run.first for run in runs], np.int64), lengths) + np.arange(len(which)) - starts
        moments = np.array([ts for ts, _, _ in self._sweeps], np.int64)
        looks = SAMPLES.frame(
            {
                "tid": [run.tid for run in runs],
                "pid": [run.pid for run in runs],
                "state": [run.seen.state for run in runs],
                "nr": [run.seen.nr for run in runs],
                "arg0": [run.seen.arg0 for run in runs],
                "wchan": [run.seen.wchan for run in runs],
                "dev": [run.seen.file.dev if run.seen.file else None for run in runs],
                "ino": [run.seen.file.ino if run.seen.file else None for run in runs],
                "file_type": [run.seen.file.file_type if run.seen.file else None for run in runs],
            }
        )
        return looks[which].with_columns(ts_ns=pl.Series(moments[sweep], dtype=pl.Int64)).sort("ts_ns", "pid", "tid")

    def _task_rows(self) -> pl.DataFrame:
        tasks = self._tasks.items()
        return TASKS.frame(
            {
                "tid": [tid for (_, tid), _ in tasks],
                "pid": [task.pid for _, task in tasks],
                "comm": [task.comm for _, task in tasks],
                "kernel": [False for _ in tasks],
                "watched_ns": [task.watched_ns for _, task in tasks],
                "exit_ns": [task.exit_ns for _, task in tasks],
            }
        )

    def _blind_spots(self) -> Iterable[BlindSpot]:
        refused = self._refused.union(*(thread.refused for thread in self._threads.values()))
        if "syscall" in refused:
            yield BlindSpot(
                what="which system call and file the sampled threads waited in",
                why="the kernel refused to show /proc/PID/syscall of some of them",
                way_out="run culpa as root",
            )
        asleep = [run.seen for run in self._runs if run.seen.state in "SD"]
        if asleep and all(seen.wchan is None for seen in asleep):
            yield BlindSpot(
                what="the place in the kernel where the sampled threads slept",
                why="/proc/PID/wchan names no symbol here",
                way_out="run culpa as root, on a kernel with CONFIG_KALLSYMS",
            )
        if self._overflow or sum(run.last - run.first + 1 for run in self._runs) > MAX_ROWS:
            yield BlindSpot(
                what="some threads or some of their idle samples",
                why="there were more than the sampler keeps",
                way_out="name one process instead of many, or watch for a shorter time",
            )
        yield from self._too_coarse()

    def _too_coarse(self) -> Iterable[BlindSpot]:
        if len(self._sweeps) < 2:
            return
        mean_ns = (self._sweeps[-1][0] - self._sweeps[0][0]) / (len(self._sweeps) - 1)
        if mean_ns > COARSE_INTERVAL_NS:
            yield BlindSpot(
                what=f"waits shorter than about {format_ns(mean_ns)}",
                why=f"with {len(self._threads) or self._sweeps[-1][1]} threads the budget allows no more sweeps",
                way_out="raise --budget, or name one process instead of many",
            )
