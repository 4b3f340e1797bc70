"""The tracer: watches processes through eBPF and hands out the tables of the capture.

One thread drains the rings a few times a second into numpy copies and polars frames; `snapshot` and `stop` put these
together. The probes wake nobody: the rings hold about a second of the densest traffic.
"""

from __future__ import annotations

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
from culpa.collect.trace import calls, events, kernel, libbpf, states, sums
from culpa.collect.trace.budget import Budget, ProbeCost
from culpa.collect.trace.holders import Holders
from culpa.collect.trace.identity import Identities
from culpa.collect.trace.messages import settle
from culpa.collect.trace.mounts import HostPaths
from culpa.collect.trace.probes import Probes
from culpa.collect.trace.ring import Records
from culpa.collect.trace.rows import OF_INODES, TABLES, Rows, open_calls
from culpa.collect.trace.shortfalls import Shortfalls
from culpa.collect.trace.symbols import KernelSymbols, without_tracing
from culpa.errors import TraceError

DRAIN_SECONDS: Final = 0.025
BUSY_DRAIN_SECONDS: Final = 0.005
BUSY_FILL: Final = 0.1
"""Above this part of a ring in use the next round comes sooner."""
SUMS_DRAIN_SECONDS: Final = 0.1
"""Without records only new threads, files and sockets are to be drained."""
REST_SECONDS: Final = 0.0002
"""Whoever has just slept has just come onto a CPU, see `states`."""
STATE_STACKS: Final = 1 << 20
"""Numbers of stacks from here on are of threads gone through, below of those that were switched out."""
STACK_PERIOD_NS: Final = 50_000_000
"""So much waiting of a thread for one user stack; the timer for those that compute is in `ticks`."""
MAX_REQUESTS: Final = 16384
MAX_PROCESSES: Final = 8192
MAX_REFRESHED_FILES: Final = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceResult:
    """What was seen: capture tables by name, how many events, how many the probes could not hand over.

    `probe_cpu_ns` is measured on a sample and extrapolated, see `budget`. `detail_end_ns` and `sums_from_ns` as in
    `manifest.Evidence`.
    """

    tables: Mapping[str, pl.DataFrame]
    events: int
    lost_events: int
    probe_cpu_ns: int
    blind_spots: tuple[BlindSpot, ...]
    detail_end_ns: int | None = None
    sums_from_ns: int | None = None


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
        budget_percent: float | None = None,
        verbose: bool = False,
    ) -> None:
        """Prepare only.

        Args:
            pids: processes to watch, with all their threads and future children.
            exclude_pids: processes never to watch, culpa's own above all; wins over `pids`.
            follow: also watch whoever wakes a watched thread.
            take_stacks: gets `events.USER_STACK_EVENT` records, which it must copy; without it none are taken.
            max_events: recording stops there, with a blind spot; with a budget, sums begin there.
            budget_percent: of one core; above it records end and sums begin. None: no limit.
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
        self._rows = Rows()
        self._holders = Holders()
        self._stacks_wanted = False
        self._events = 0
        self._stacks: dict[int, list[str]] = {}
        self._state_stacks: dict[tuple[int, ...], int] = {}
        self._symbols: KernelSymbols | None = None
        self._paused = self._full = self._detached = False
        self._budget = None if budget_percent is None else Budget(budget_percent)
        self._costs: list[ProbeCost] = []
        self._spent_ns = 0.0
        self._detail_end_ns: int | None = None
        self._sums_from_ns: int | None = None
        self._sums = schema.SUMS.empty()
        self._takers: Mapping[int, Callable[[Records], None]] = {
            **{ring: self._rows.taker(ring) for ring in TABLES},
            events.OFFCPU: self._keep_waits,
            events.SOCKETS: self._identities.take_sockets,
            events.TASKS: self._identities.take_tasks,
            events.FILES: self._identities.take_files,
            **{ring: partial(self._keep_writers, ring) for ring in OF_INODES},
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
            self._costs.append(ProbeCost(self._probes, now_ns=time.monotonic_ns(), events=0))
            self._probes.attach()
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
        if not excluded:
            self._loaded().object.put("hints", pid & 0xFFFF, np.ones(1, dtype="<u4"), replace=True)
        self._loaded().object.put("watched", pid, state, replace=True)

    def watched(self) -> frozenset[int]:
        """Every process watched so far, those that the probes added and those that ended included."""
        with self._lock:
            pids, states = self._loaded().object.table("watched", "<u4", events.WATCH_STATE, MAX_PROCESSES)
            seen = self._identities.watched_pids()
        return seen | {pid for pid, out in zip(pids.tolist(), states["excluded"].tolist(), strict=True) if not out}

    def events(self) -> int:
        """Events drained so far."""
        return self._events

    def probe_cpu_ns(self) -> int:
        """Run time of the probes so far, extrapolated, see `budget`."""
        return round(self._spent_ns + self._costs[-1].total_ns(time.monotonic_ns(), self._events))

    def detail_ended(self) -> bool:
        """Whether only sums are kept by now."""
        return self._sums_from_ns is not None

    def thread_states(self) -> pl.DataFrame:
        """What the kernel's list of tasks says of the watched threads now, `states.SCHEMA`; empty where it cannot."""
        with self._lock:
            probes = self._loaded()
            time.sleep(REST_SECONDS)
            try:
                found = probes.states()
            except TraceError:
                found = np.zeros(0, dtype=events.STATE_EVENT)
            return states.table(found, threading.get_native_id(), self._number_stack, self._rows.anonymous_dev)

    def _number_stack(self, addresses: tuple[int, ...]) -> int:
        return self._state_stacks.setdefault(addresses, STATE_STACKS + len(self._state_stacks))

    def cost_of(self, *probes: str) -> float:
        """Kernel time of one run of these probes so far, in ns; 0 if none ran while it was measured."""
        with self._lock:
            infos = [info for name, info in self._loaded().object.program_infos().items() if name in probes]
        runs = sum(info.run_count for info in infos)
        return sum(info.run_time_ns for info in infos) / runs if runs else 0.0

    def snapshot(self) -> TraceResult:
        """The rows so far, waits and calls that are still open included; tracing goes on."""
        with self._lock:
            self._drain()
            self._sum_up()
            return self._result(last=False)

    def detach(self) -> None:
        """Record nothing from now on; `stop` still gives what there is."""
        self._end_thread()
        with self._lock:
            if not self._detached:
                self._detached = True
                self._sum_up()
                self._loaded().detach()

    def stop(self) -> TraceResult:
        """Detach first, then read what is left, and free everything."""
        try:
            self.detach()
            with self._lock:
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
                self._drain(at_leisure=True)
                self._rows.convert_one()
                self._watch_cost(self._probes)
                self._follow_holders(self._probes)
                if self._symbols is not None:
                    self._name_stacks()
            if (self._rows.stack_ids or self._stacks_wanted) and self._symbols is None:
                self._symbols = KernelSymbols()  # a tenth of a second, and here nobody waits for it
                if self._budget is not None:
                    self._budget.forget()
            wait = BUSY_DRAIN_SECONDS if fullest > BUSY_FILL else DRAIN_SECONDS
            if self.detail_ended():
                wait = SUMS_DRAIN_SECONDS

    def _drain(self, *, at_leisure: bool = False) -> int:
        """Empty every ring once, `at_leisure` without parsing the last few messages yet.

        Returns the events so far. Without a budget the probes are to pause at their limit.
        """
        probes = self._loaded()
        for number, lanes in probes.lanes.items():
            self._events += lanes.drain(self._takers[number])
        for number, ring in probes.rings.items():
            drained = ring.drain(self._takers[number])
            self._events += drained if events.RINGS[number].counted else 0
        if not at_leisure or self._rows.messages_wait():
            self._events += self._rows.part_messages()
        if self._events >= self._max_events and not self._paused and self._budget is None:
            self._paused = True
            probes.pause()
        return self._events

    def _watch_cost(self, probes: Probes) -> None:
        """Measure the probes, and end the records if these cost more than the budget or are as many as may be held."""
        now_ns, cost = time.monotonic_ns(), self._costs[-1]
        cost.sample(now_ns, self._events, self._drain)
        if self._budget is None or self.detail_ended():
            return
        thread_ns = time.thread_time_ns()
        self._full = self._events >= self._max_events
        exceeded = self._budget.exceeded(cost, now_ns=now_ns, events=self._events, thread_ns=thread_ns)
        if exceeded and not self._full and cost.is_doubtful(now_ns):
            self._measure_anew(probes, now_ns)
            self._budget.forget()
        elif exceeded or self._full:
            self._end_detail(probes)

    def _measure_anew(self, probes: Probes, now_ns: int) -> None:
        self._spent_ns += self._costs[-1].total_ns(now_ns, self._events)
        self._costs.append(ProbeCost(probes, now_ns=now_ns, events=self._events, again=True))

    def _end_detail(self, probes: Probes) -> None:
        """Go over to sums. What is open now is kept as at the end of a window, so the records are whole up to now."""
        self._detail_end_ns = time.monotonic_ns()
        probes.end_records()
        self._drain()
        threads = probes.threads()
        self._rows.add(self._still_open(threads))
        self._name_stacks()
        from_ns = time.monotonic_ns()
        probes.begin_sums(from_ns, sums.seeds(threads, from_ns))
        self._measure_anew(probes, from_ns)
        self._sums_from_ns = from_ns

    def _keep_waits(self, found: Records) -> None:
        self._holders.take(found)
        self._rows.taker(events.OFFCPU)(found)

    def _follow_holders(self, probes: Probes) -> None:
        """Watch who holds locks of the kernel that watched threads wait for."""
        candidates = self._holders.candidates(self.watched) if self._follow else frozenset()
        self._stacks_wanted = bool(candidates)
        if candidates and (symbols := self._symbols) is not None:
            self.watch(
                self._holders.among(
                    candidates, lambda number: without_tracing(symbols.names(probes.object.stack("stacks", number)))
                )
            )

    def _keep_writers(self, ring: int, found: Records) -> None:
        """Who dirtied pages may be no watched process, and gone when its name is looked for; the others as well."""
        self._identities.take_writers(found)
        self._rows.taker(ring)(found)

    def _sum_up(self) -> None:
        """The sums as of now, if there are any."""
        if self._sums_from_ns is None:
            return
        probes = self._loaded()
        threads, calls, running = probes.thread_sums(), probes.call_sums(), open_calls(probes.threads())
        self._sums = sums.table(
            threads,
            calls,
            running,
            from_ns=self._sums_from_ns,
            end_ns=time.monotonic_ns(),
            anonymous_dev=self._rows.anonymous_dev,
        )

    def _still_open(self, threads: Records) -> Mapping[int, pl.DataFrame]:
        """By ring, the rows of what is open now, and the sums of dirtied pages that were not handed over yet."""
        probes = self._loaded()
        requests = probes.requests(MAX_REQUESTS)
        dirt, uncached = probes.dirt("dirt"), probes.dirt("uncached")
        self._identities.take_writers(dirt)
        self._identities.take_writers(uncached)
        return self._rows.still_open(threads, requests, dirt, uncached, probes.async_requests(MAX_REQUESTS))

    def _name_stacks(self) -> None:
        """Read the stacks that the rows mention and give their functions names."""
        if len(self._rows.stack_ids) + len(self._state_stacks) == len(self._stacks):
            return
        probes = self._loaded()
        unnamed = {
            stack_id: probes.object.stack("stacks", stack_id) for stack_id in self._rows.stack_ids - self._stacks.keys()
        }
        unnamed |= {number: list(stack) for stack, number in self._state_stacks.items() if number not in self._stacks}
        if unnamed and self._symbols is None:
            self._symbols = KernelSymbols()
        for stack_id, addresses in unnamed.items():
            assert self._symbols is not None
            self._stacks[stack_id] = without_tracing(self._symbols.names(addresses))

    def _result(self, *, last: bool) -> TraceResult:
        """All rows so far; what they were made of is given up if these are the `last`."""
        probes = self._loaded()
        rest = {} if self.detail_ended() else self._still_open(probes.threads())
        found = {name: self._rows.table(ring, rest) for ring, name in TABLES.items()}
        self._name_stacks()
        if last:
            self._rows.clear()
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
        found["sums"] = self._sums
        lost = probes.lost()
        return TraceResult(
            tables=found,
            events=sum(len(found[name]) for name in TABLES.values()),
            lost_events=lost,
            probe_cpu_ns=self.probe_cpu_ns(),
            blind_spots=(*probes.blind_spots, *self._shortfalls(lost, found["syscalls"]).blind_spots()),
            detail_end_ns=self._detail_end_ns,
            sums_from_ns=self._sums_from_ns,
        )

    def _shortfalls(self, lost: int, seen: pl.DataFrame) -> Shortfalls:
        probes, ended_ns = self._loaded(), self._detail_end_ns
        counters = probes.counters()[0]
        return Shortfalls(
            lost=lost,
            max_events=self._max_events,
            stopped=self._paused,
            recorded_ns=None if ended_ns is None else ended_ns - self._costs[0].start_ns,
            full=self._full,
            unsummed=int(counters["unsummed"]),
            narrow=int(counters["narrow"]),
            unread_iocbs=int(counters["unread_iocbs"]),
            unseen_rings=0 if probes.follows_rings else int(seen["nr"].is_in(calls.ring_numbers()).sum()),
            refused=int(counters["refused"]),
            reused=self._identities.reused,
        )


def _mentioned(found: Mapping[str, pl.DataFrame]) -> list[int]:
    """Every thread id that appears in the events."""
    columns = [found["offcpu"][name] for name in ("tid", "waker_tid", "prev_tid")]
    columns += [
        found[name]["tid"] for name in ("syscalls", "blocks", "dirtied", "uncached", "freed", "throttles", "async_io")
    ]
    return pl.concat([column.rename("tid").unique().drop_nulls() for column in columns]).unique().to_list()
