"""The tracer: watches processes through eBPF and hands out the tables of the capture.

One thread drains the rings a few times a second into numpy copies and polars frames; `snapshot` and `stop` put these
together. The probes wake nobody: the rings hold about a second of the densest traffic.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.capture.manifest import BlindSpot
from culpa.collect.trace import calls, events, kernel, libbpf, tables
from culpa.collect.trace.identity import PROC, Identities, identity
from culpa.collect.trace.messages import UNSETTLED, settle
from culpa.collect.trace.mounts import HostPaths
from culpa.collect.trace.probes import Probes
from culpa.collect.trace.ring import Records
from culpa.collect.trace.symbols import KernelSymbols, without_tracing
from culpa.errors import TraceError
from culpa.units import format_count

DRAIN_SECONDS: Final = 0.025
BUSY_DRAIN_SECONDS: Final = 0.005
BUSY_FILL: Final = 0.1
"""Above this part of a ring in use the next round comes sooner."""
CONVERT_ROWS: Final = 50_000
"""Records are turned into columns in such portions while the trace runs, so that little is left for its end."""
MEASURED_EVENTS: Final = 20_000
"""Sample of the probes' run time; measuring each run of a probe costs half as much again as the probe."""
MEASURED_SECONDS: Final = 1.0
_CLOCK_MONOTONIC_COARSE: Final = 6
STACK_PERIOD_NS: Final = 50_000_000
"""So much waiting of a thread for one user stack; the timer for those that compute is in `ticks`."""
MAX_REQUESTS: Final = 16384
MAX_PROCESSES: Final = 8192
MAX_REFRESHED_FILES: Final = 5000
MAX_LISTED: Final = 5
_TABLES: Final = {
    events.OFFCPU: "offcpu",
    events.SYSCALLS: "syscalls",
    events.MESSAGES: "messages",
    events.BLOCKS: "blocks",
    events.PARTS: "block_parts",
    events.DIRTIED: "dirtied",
    events.THROTTLES: "throttles",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceResult:
    """What was seen: capture tables by name, how many events, how many the probes could not hand over.

    `probe_cpu_ns` is measured for the first events or the first second, whichever ends first, and extrapolated.
    """

    tables: Mapping[str, pl.DataFrame]
    events: int
    lost_events: int
    probe_cpu_ns: int
    blind_spots: tuple[BlindSpot, ...]


def usable() -> TraceError | None:
    """Why tracing is impossible here, or None; loads no probe."""
    try:
        kernel.check_host()
        kernel.object_path()
        libbpf.open_library()
    except TraceError as error:
        return error
    return None


class Tracer:
    """Watches processes from `start` to `stop`; a context manager that frees everything however it is left."""

    def __init__(
        self,
        *,
        pids: Collection[int],
        exclude_pids: Collection[int],
        follow: bool = True,
        take_stacks: Callable[[Records], None] | None = None,
        max_events: int = 3_000_000,
        verbose: bool = False,
    ) -> None:
        """Prepare only.

        Args:
            pids: processes to watch, with all their threads and future children.
            exclude_pids: processes never to watch, culpa's own above all; wins over `pids`.
            follow: also watch whoever wakes a watched thread.
            take_stacks: gets `events.USER_STACK_EVENT` records, which it must copy; without it none are taken.
            max_events: recording stops there, with a blind spot.
            verbose: libbpf's words go to stderr.
        """
        self._pids = frozenset(pids)
        self._excluded = frozenset(exclude_pids) | {0}
        self._follow, self._max_events, self._verbose = follow, max_events, verbose
        self._stack_period_ns = STACK_PERIOD_NS if take_stacks else 0
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._probes: Probes | None = None
        self._identities = Identities()
        self._paths = HostPaths()
        self._raw: dict[int, list[Records]] = {ring: [] for ring in _TABLES}
        self._frames: dict[int, list[pl.DataFrame]] = {ring: [] for ring in _TABLES}
        self._events = 0
        self._stacks: dict[int, list[str]] = {}
        self._stack_taken = False
        self._paused = False
        self._sampled: int | None = None
        self._sampled_seconds = 0.0
        self._measure_until = 0.0
        self._symbols: KernelSymbols | None = None
        self._anonymous_dev = _anonymous_dev()
        self._senders = calls.sending_numbers(os.uname().machine)
        self._drained_calls: list[Records] = []
        self._takers: Mapping[int, Callable[[Records], None]] = {
            events.SYSCALLS: lambda found: self._drained_calls.append(found.copy()),
            events.SOCKETS: self._identities.take_sockets,
            events.TASKS: self._identities.take_tasks,
            events.FILES: self._identities.take_files,
            events.DIRTIED: self._keep_dirtied,
            events.USER_STACKS: take_stacks or (lambda _: None),
        }

    def start(self) -> None:
        """Load, attach, and begin to drain.

        Raises:
            TraceError: tracing is impossible here; nothing is left behind.
        """
        kernel.check_host()
        self._probes = Probes(follow=self._follow, verbose=self._verbose, stack_period_ns=self._stack_period_ns)
        try:
            for pid in self._excluded:
                self._put_watch(pid, excluded=True)
            self.watch(self._pids)
            self._probes.attach()
            self._measure_until = time.monotonic() + MEASURED_SECONDS
            self._thread = threading.Thread(target=self._drain_until_end, name="culpa-drain", daemon=True)
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def watch(self, pids: Collection[int]) -> None:
        """Watch these processes as well, from now on."""
        now_ns = time.monotonic_ns()
        with self._lock:
            for pid in frozenset(pids) - self._excluded:
                self._put_watch(pid, excluded=False)
                self._identities.watch(pid, now_ns)

    def _put_watch(self, pid: int, *, excluded: bool) -> None:
        state = np.zeros(1, dtype=events.WATCH_STATE)
        state["excluded"] = excluded
        self._loaded().put("watched", pid, state, replace=True)

    def watched(self) -> frozenset[int]:
        """Every process watched so far, those that the probes added and those that ended included."""
        with self._lock:
            pids, states = self._loaded().table("watched", "<u4", events.WATCH_STATE, MAX_PROCESSES)
            seen = self._identities.watched_pids()
        return seen | {pid for pid, out in zip(pids, states["excluded"].tolist(), strict=True) if not out}

    def events(self) -> int:
        """Events drained so far."""
        return self._events

    def cost_of(self, tracepoint: str) -> float:
        """Kernel time of one run of a probe so far, in ns; 0 if it never ran while it was measured."""
        with self._lock:
            info = self._loaded().program_infos().get(tracepoint)
        return info.run_time_ns / info.run_count if info and info.run_count else 0.0

    def snapshot(self) -> TraceResult:
        """The rows so far, waits and calls that are still open included; tracing goes on."""
        with self._lock:
            self._drain()
            return self._result(last=False)

    def stop(self) -> TraceResult:
        """Detach first, then read what is left, and free everything."""
        try:
            self._end_thread()
            with self._lock:
                self._loaded().detach()
                self._drain()
                self._loaded().unmap()  # the rings are as large as the tables that are now put together
                self._identities.refresh_paths(self._paths, MAX_REFRESHED_FILES)
                return self._result(last=True)
        finally:
            self.close()

    def close(self) -> None:
        """Detach and free; safe to call at any time, and twice."""
        self._end_thread()
        with self._lock:
            if self._probes is not None:
                self._probes.close()
                self._probes = None

    def __enter__(self) -> Tracer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _loaded(self) -> Probes:
        if self._probes is None:
            raise TraceError("the tracer is not running", way_out="start it first")
        return self._probes

    def _end_thread(self) -> None:
        self._ending.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def _drain_until_end(self) -> None:
        wait = DRAIN_SECONDS
        while not self._ending.wait(wait):
            with self._lock:
                if self._probes is None:
                    return
                fullest = self._probes.fill()
                self._drain()
                self._convert_one()
                self._measure_enough(self._probes)
            if self._stack_taken and self._symbols is None:
                self._symbols = KernelSymbols()  # a tenth of a second, and here nobody waits for it
            wait = BUSY_DRAIN_SECONDS if fullest > BUSY_FILL else DRAIN_SECONDS

    def _drain(self) -> None:
        """Empty every ring once; above the limit of events the probes are told to pause."""
        probes = self._loaded()
        for number, lanes in probes.lanes.items():
            self._events += lanes.drain(self._takers.get(number) or partial(self._keep, number))
        for number, ring in probes.rings.items():
            drained = ring.drain(self._takers.get(number) or partial(self._keep, number))
            self._events += drained if events.RINGS[number].counted else 0
        self._part_messages()
        if self._events >= self._max_events and not self._paused:
            self._paused = True
            probes.pause()

    def _keep(self, ring: int, found: Records) -> None:
        """Copy records out of a ring; the kernel wants its memory back before anything slow is done."""
        if ring == events.OFFCPU and not self._stack_taken:
            self._stack_taken = bool((found["stack_id"] >= 0).any())
        self._raw[ring].append(found.copy())

    def _keep_dirtied(self, found: Records) -> None:
        """Who dirtied pages may be no watched process, and gone when its name is looked for."""
        self._identities.take_writers(found)
        self._keep(events.DIRTIED, found)

    def _part_messages(self) -> None:
        """Parse what was just drained at once: the bytes may be secrets."""
        self._convert(events.MESSAGES)
        drained, self._drained_calls = self._drained_calls, []
        for records in drained:
            self._raw[events.SYSCALLS].append(tables.without_payload(records))
            short = tables.short_messages(records, self._senders)
            if len(short):
                self._frames[events.MESSAGES].append(short)
                self._events += len(short)

    def _convert(self, ring: int, at_least: int = 1) -> None:
        """Turn what was copied into columns, once there are `at_least` so many records."""
        if sum(map(len, self._raw[ring])) >= at_least:
            parts, self._raw[ring] = self._raw[ring], []
            self._frames[ring].append(self._frame(ring, np.concatenate(parts) if len(parts) > 1 else parts[0]))

    def _frame(self, ring: int, records: Records) -> pl.DataFrame:
        if ring == events.SYSCALLS:
            return tables.syscalls(records, self._anonymous_dev)
        if ring == events.MESSAGES:
            return tables.messages(records)
        if ring == events.BLOCKS:
            return tables.blocks(records)
        if ring == events.PARTS:
            return tables.block_parts(records)
        if ring == events.DIRTIED:
            return tables.dirtied(records)
        if ring == events.THROTTLES:
            return tables.throttles(records, page_bytes=mmap.PAGESIZE, tick_ns=_tick_ns())
        self._name_stacks(records["stack_id"])
        return tables.offcpu(records, wakes_seen=True)

    def _measure_enough(self, probes: Probes) -> None:
        """End the measuring of the probes' run time once it has a sample; the rest is extrapolated by events."""
        enough = self._events >= MEASURED_EVENTS or time.monotonic() >= self._measure_until
        if self._sampled is None and enough:
            probes.stop_measuring()
            self._drain()  # what was measured but not yet read
            self._sampled = self._events
            self._sampled_seconds = time.monotonic() - (self._measure_until - MEASURED_SECONDS)

    def _convert_one(self) -> None:
        """Convert the fullest table if it is worth it; one a round, as the rings fill up meanwhile."""
        fullest = max(_TABLES, key=lambda ring: sum(map(len, self._raw[ring])))
        self._convert(fullest, CONVERT_ROWS)

    def _name_stacks(self, stack_ids: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> None:
        for stack_id in set(np.unique(stack_ids[stack_ids >= 0]).tolist()) - self._stacks.keys():
            if self._symbols is None:
                self._symbols = KernelSymbols()
            self._stacks[stack_id] = without_tracing(self._symbols.names(self._loaded().stack(stack_id)))

    def _result(self, *, last: bool) -> TraceResult:
        """All rows so far; what they were made of is given up if these are the `last`."""
        probes = self._loaded()
        threads = probes.threads()
        found = {name: self._table(ring, name, threads) for ring, name in _TABLES.items()}
        if last:
            self._frames = {ring: [] for ring in _TABLES}
        found["messages"] = settle(found["messages"])
        self._identities.meet(_mentioned(found))
        found["tasks"] = self._identities.task_table()
        found["files"] = self._identities.file_table(self._paths)
        found["sockets"] = self._identities.socket_table()
        found["stacks"] = schema.STACKS.frame(
            {
                "stack_id": list(self._stacks),
                "frames": pl.Series("frames", list(self._stacks.values()), pl.List(pl.String)),
            }
        )
        lost = probes.lost()
        return TraceResult(
            tables=found,
            events=sum(len(found[name]) for name in _TABLES.values()),
            lost_events=lost,
            probe_cpu_ns=round(probes.probe_cpu_ns() * self._growth()),
            blind_spots=(*probes.blind_spots, *self._shortfalls(lost)),
        )

    def _growth(self) -> float:
        """How much longer the probes ran than while they were measured: by events where there were enough of them.

        Where there were few, most of the time went to other processes' calls, which the probes only turn away: that
        grows with the window and not with the events.
        """
        if self._sampled is None:
            return 1.0
        if self._sampled >= MEASURED_EVENTS:
            return self._events / self._sampled
        watched = time.monotonic() - (self._measure_until - MEASURED_SECONDS)
        return max(1.0, watched / max(self._sampled_seconds, 1e-3))

    def _table(self, ring: int, name: str, threads: Records) -> pl.DataFrame:
        """The rows of one table so far, and those of waits, calls and requests that are still open."""
        self._convert(ring)
        frames = [*self._frames[ring]]
        if ring == events.OFFCPU:
            frames.append(self._frame(ring, tables.open_stretches(threads, events.OFFCPU_EVENT)))
        elif ring == events.SYSCALLS:
            frames.append(self._frame(ring, self._open_calls(threads)))
        elif ring == events.BLOCKS:
            _, requests = self._loaded().table("requests", "<u8", events.BLOCK_EVENT, MAX_REQUESTS)
            frames.append(self._frame(ring, requests[requests["issue_ns"] != 0]))
        elif ring == events.DIRTIED:
            sums = self._loaded().dirt()
            self._identities.take_writers(sums)
            frames.append(self._frame(ring, sums))
        nothing = pl.DataFrame(schema=UNSETTLED) if ring == events.MESSAGES else schema.BY_NAME[name].empty()
        return pl.concat([nothing, *frames])

    def _open_calls(self, threads: Records) -> Records:
        """Calls still open, each fd resolved through /proc while it is open."""
        records = tables.open_calls(threads, events.CALL)
        with_fd = np.isin(records["nr"], calls.fd_numbers(os.uname().machine)) & (records["dev"] == 0)
        for at in np.flatnonzero(with_fd).tolist():
            link = PROC / str(records["pid"][at]) / "fd" / str(int(records["arg"][at][0]) & 0xFFFFFFFF)
            try:
                records["dev"][at], records["ino"][at], records["mode"][at] = identity(link)
            except OSError:
                continue
        return records

    def _shortfalls(self, lost: int) -> list[BlindSpot]:
        counters = self._loaded().counters()[0]
        spots = []
        if lost:
            spots.append(
                BlindSpot(
                    what=f"{format_count(lost)} events",
                    why="they came faster than they could be read",
                    way_out="watch fewer processes, or for a shorter time",
                )
            )
        if self._paused:
            spots.append(
                BlindSpot(
                    what="the end of the window",
                    why=f"recording stopped at {format_count(self._max_events)} events",
                    way_out="watch for a shorter time with --for",
                )
            )
        if self._identities.reused:
            numbers = ", ".join(map(str, sorted(self._identities.reused)[:MAX_LISTED]))
            spots.append(
                BlindSpot(
                    what=f"which process is meant by number {numbers}",
                    why="one ended and another got its number while culpa watched; they are shown as one",
                    way_out="watch for a shorter time with --for",
                )
            )
        if counters["refused"]:
            spots.append(
                BlindSpot(
                    what="some processes that woke the watched ones",
                    why="the limit of processes watched at once was reached",
                    way_out="watch one process instead of the whole host",
                )
            )
        return spots


def _mentioned(found: Mapping[str, pl.DataFrame]) -> list[int]:
    """Every thread id that appears in the events."""
    columns = [found["offcpu"][name] for name in ("tid", "waker_tid", "prev_tid")]
    columns += [found[name]["tid"] for name in ("syscalls", "blocks", "dirtied", "throttles")]
    return pl.concat([column.rename("tid").unique().drop_nulls() for column in columns]).unique().to_list()


def _anonymous_dev() -> int:
    """The device of the one inode that epoll, eventfd and timerfd descriptors share."""
    fd = os.eventfd(0)
    try:
        return identity(PROC / "self/fd" / str(fd))[0]
    finally:
        os.close(fd)


def _tick_ns() -> int:
    """Length of the kernel's jiffy: the coarse clock moves by one at a time."""
    return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)
