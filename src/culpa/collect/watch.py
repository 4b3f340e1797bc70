"""Every collector of one window, started and stopped together, and their rows put together as a capture.

`session.py` decides how long; this room knows what runs: the tracer or the sampler, the Python stacks, the Redis
servers, and what /proc says at the start, about once a second, and at the end.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import polars as pl

from culpa import __version__
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.manifest import BlindSpot, Cost, EndedBy, Evidence, Manifest, Target, Window
from culpa.collect.affinity import Affinities
from culpa.collect.clock import Moment, unsteady_clocks
from culpa.collect.devices import device_rows
from culpa.collect.filelocks import FileLocks
from culpa.collect.host import HostCounters, host_facts
from culpa.collect.native.stacks import NativeStacks
from culpa.collect.openfiles import Opened, lengths, opened
from culpa.collect.processes import process_rows, socket_rows, task_rows, thread_state_rows
from culpa.collect.procfs import PROC, own_pid, read_bounded
from culpa.collect.redis import RedisCollector
from culpa.collect.redis_answers import Credentials
from culpa.collect.resolve import peers_of, process_stat
from culpa.collect.sockets import SocketTable
from culpa.collect.sources import Seen, Source, open_source
from culpa.collect.stacks import StackSampler
from culpa.priority import PRIORITY
from culpa.syscalls import NARROW
from culpa.units import NS_PER_SECOND

LOOK_AROUND_NS: Final = NS_PER_SECOND
LOOK_AROUND_COST: Final = 20
"""Looking for new peers takes at most a twentieth of the time: socket tables of big hosts are long."""
MAX_WATCHED: Final = 64
MAX_PROCESS_ROWS: Final = 2000
THREADS_NS: Final = NS_PER_SECOND
"""For looking at what each thread does, at the begin and at the end: about 10,000 threads."""
STACKS_BUDGET: Final = 0.25
"""The part of the budget that py-spy may take, and so much the unwinding of other programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What watching may do and cost. `budget_percent` is of one core."""

    trace: bool
    budget_percent: float
    credentials: Credentials | None = None
    silent: bool = False
    """Send nothing to anybody."""
    redis: bool = False
    """The targets were named as Redis servers."""
    examined: bool = False
    """They are asked by somebody else, in more depth."""


class Watch:
    """The collectors around a set of target processes. Use as a context manager: leaving it stops everything."""

    def __init__(
        self, pids: Collection[int], limits: Limits, members: Callable[[], frozenset[int]] = frozenset
    ) -> None:
        """`members` says which processes are meant by now, where those can come and go."""
        self._targets = frozenset(pids)
        self._members = members
        self._limits = limits
        self._stack = ExitStack()
        self._part = self._stack.enter_context(ExitStack())
        self._self = own_pid()
        self._cpu_before_ns = _own_cpu_ns()
        self._roles: dict[int, str] = dict.fromkeys(sorted(pids), "target")
        self._processes: list[pl.DataFrame] = []
        self._states: list[pl.DataFrame] = []
        self._sockets: list[pl.DataFrame] = []
        self._spots: list[BlindSpot] = []
        self._next_look_ns = 0
        self._spoke_resp: frozenset[int] = frozenset()
        self._opened = Opened()
        self._threads_left_out = False
        self._counters = HostCounters(self._targets, numa_maps=not limits.examined)
        self._affinities = Affinities()
        self._locks = FileLocks()
        self._redis = RedisCollector(credentials=limits.credentials, silent=limits.silent)
        share = limits.budget_percent / 100 * STACKS_BUDGET
        self._stacks = StackSampler((), budget_share=share)
        self._native = NativeStacks(budget_share=share)
        self._source: Source
        self.start_ns = 0
        self.start_realtime_ns = 0
        self._began: Moment

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Find the peers, attach, and read what the threads are doing; the window starts here.

        From here to its end culpa takes part in the host like any other program: its clocks run, its buffers fill.
        """
        table = SocketTable.read(PROC, talk=True)
        peers = self._peers(table) | self._lockers()
        self._roles |= dict.fromkeys(sorted(peers), "peer")
        self._sockets.append(socket_rows(self._roles, table=table))
        self._counters.start()
        self._part.enter_context(PRIORITY.taking_part())
        source, spots = open_source(
            self._targets,
            peers=peers,
            trace=self._limits.trace,
            budget_percent=self._limits.budget_percent,
            take_stacks=self._native.take,
        )
        self._source = source
        self._stack.callback(self._source.close)
        self._spots.extend(spots)
        self._began = Moment.now()
        self.start_ns, self.start_realtime_ns = self._began.monotonic_ns, self._began.realtime_ns
        self._look_at_threads(self._roles)
        self._affinities.look(self._present())
        self._redis.start()
        self._stack.callback(self._redis.stop)
        self._stacks.start()
        self._stack.callback(self._stacks.stop)
        self._native.start()
        self._stack.callback(self._native.stop)
        self._meet(table)
        self._next_look_ns = time.monotonic_ns() + LOOK_AROUND_NS

    def tick(self) -> None:
        """What is due now: counters about once a second, and who has come into the picture since."""
        self._counters.poll()
        now = time.monotonic_ns()
        if now >= self._next_look_ns:
            self._look_around()
            done = time.monotonic_ns()
            self._next_look_ns = done + max(LOOK_AROUND_NS, LOOK_AROUND_COST * (done - now))

    @property
    def targets(self) -> frozenset[int]:
        """The processes that are meant, those that joined included."""
        return self._targets

    def events(self) -> int:
        """Events held so far; 0 where threads are sampled."""
        return self._source.events()

    def detail_ended(self) -> bool:
        """Whether events cost more than the budget, so that only sums are kept by now."""
        return self._source.detail_ended()

    def _thread_states(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What /proc said and the kernel's list of tasks together, where both saw a thread in the same call."""
        seen = self._source.thread_states()
        more = [column for column in seen.columns if column not in ("tid", "nr", "arg0")]
        # /proc does not tell the calls of 32-bit programs from others of that number, nor are their arguments known.
        narrow = seen.filter(pl.col("nr") >= NARROW).select("tid", narrow=pl.col("nr"), nr=pl.col("nr") - NARROW)
        told = rows.join(narrow, on=["tid", "nr"], how="left", maintain_order="left").with_columns(
            nr=pl.coalesce("narrow", "nr"), arg0=pl.when(pl.col("narrow").is_null()).then("arg0")
        )
        seen = seen.with_columns(arg0=pl.when(pl.col("nr").fill_null(0) < NARROW).then("arg0"))
        joined = told.drop(more).join(
            seen, on=["tid", "nr", "arg0"], how="left", nulls_equal=True, maintain_order="left"
        )
        return joined.select(list(schema.THREAD_STATES.schema))

    def snapshot(self, target: Target, requests: pl.DataFrame) -> Capture:
        """The capture as if the window ended now; watching goes on."""
        seen = self._source.snapshot()
        self._spoke_resp = _receivers_of_resp(seen.tables)
        end_ns = time.monotonic_ns()
        return self._capture(seen, target, requests, self._counters.stop(), end_ns, "limit")

    def stop(self, target: Target, requests: Callable[[], pl.DataFrame], ended_by: EndedBy) -> Capture:
        """End the window and put everything together. `requests` is asked once the probes are detached."""
        end_ns = time.monotonic_ns()
        self._look_at_threads(self._present())
        counters = self._counters.stop()
        self._source.end()
        self._part.close()
        self._look_around()
        self._opened = opened(self._present())
        seen = self._source.stop()
        rows = _clipped(requests(), end_ns)
        self._stacks.stop()
        self._native.stop()
        self._spoke_resp = _receivers_of_resp(seen.tables)
        self._meet(SocketTable.read(PROC))
        self._redis.stop()
        return self._capture(seen, target, rows, counters, end_ns, ended_by)

    def _peers(self, table: SocketTable) -> set[int]:
        """Those the targets talk to, and those these talk to; never culpa itself."""
        first = peers_of(self._targets, table=table) - {self._self}
        second = peers_of(self._targets | first, table=table) - {self._self}
        return set(sorted(first | second)[: max(0, MAX_WATCHED - len(self._targets))]) - self._targets

    def _lockers(self) -> frozenset[int]:
        """Who holds the lock of a file that a watched process waits for, or a target has open."""
        self._locks.look()
        return self._locks.holders(self._targets, [*self._targets, *self._present()]) - {self._self}

    def _present(self) -> list[int]:
        return [pid for pid in self._roles if self._roles[pid] in ("target", "peer", "child", "waker")][:MAX_WATCHED]

    def _look_at_threads(self, pids: Collection[int]) -> None:
        """What they do now; a process of very many threads is looked at in part."""
        began_ns = time.monotonic_ns()
        self._states.append(self._thread_states(thread_state_rows(pids, most_ns=THREADS_NS)))
        self._threads_left_out |= time.monotonic_ns() - began_ns > THREADS_NS

    def _take_in(self) -> None:
        """Who has joined is a target from now on."""
        joined = self._members() - self._targets - {self._self}
        self._targets |= joined
        self._roles |= dict.fromkeys(sorted(joined), "target")
        self._source.watch(joined)

    def _look_around(self) -> None:
        self._take_in()
        table = SocketTable.read(PROC)
        peers = self._peers(table) | self._lockers()
        strangers = (peers | self._source.watched()) - self._roles.keys() - {self._self}
        # Where thousands come and go, most are gone before anybody could look at them.
        room = max(0, MAX_PROCESS_ROWS - len(self._roles))
        new = set(sorted(strangers, key=lambda pid: (pid not in peers, pid))[:room])
        for pid in sorted(new):
            self._roles[pid] = self._role(pid, is_peer=pid in peers)
        for pid in peers & self._roles.keys():
            if self._roles[pid] == "waker":
                self._roles[pid] = "peer"
        self._source.watch(new - self._source.watched())
        self._sockets.append(socket_rows(self._present(), table=table))
        self._affinities.look(self._present())
        self._meet(table)

    def _meet(self, table: SocketTable) -> None:
        """Introduce the watched processes to those who look closer at Redis and Python."""
        present = self._present()
        # Whoever merely woke a watched thread may be a bystander: it is not asked anything.
        concerned = [pid for pid in present if self._roles[pid] != "waker"]
        named = self._targets if self._limits.redis else frozenset()
        if not self._limits.examined:
            self._redis.found(concerned, table, spoke_resp=self._spoke_resp, named=named)
        self._stacks.watch(concerned)
        self._native.watch(concerned)
        self._processes.append(process_rows(self._roles))

    def _role(self, pid: int, *, is_peer: bool) -> str:
        stat = process_stat(PROC, pid)
        if stat is None:
            return "peer" if is_peer else "waker"
        if stat.kernel:
            return "kernel"
        if self._roles.get(stat.ppid) in ("target", "child"):
            return "child"
        return "peer" if is_peer else "waker"

    def _capture(
        self,
        seen: Seen,
        target: Target,
        requests: pl.DataFrame,
        counters: pl.DataFrame,
        end_ns: int,
        ended_by: EndedBy,
    ) -> Capture:
        processes = self._all_processes(seen.tables)
        tables = dict(seen.tables) | {
            schema.REQUESTS.name: requests,
            schema.COUNTERS.name: counters,
            schema.DEVICES.name: device_rows(),
            schema.AFFINITY.name: self._affinities.rows(),
            schema.THREAD_STATES.name: pl.concat(self._states),
            schema.FILE_LOCKS.name: self._locks.rows(),
            schema.SOCKETS.name: _sockets([seen.tables.get(schema.SOCKETS.name), *self._sockets]),
            schema.PROCESSES.name: processes,
            schema.CODE.name: pl.concat([self._stacks.rows(), self._native.rows()]),
            schema.REDIS.name: self._redis.rows(),
        }
        if schema.FILES.name in tables:
            tables[schema.FILES.name] = _as_opened(tables[schema.FILES.name], self._opened)
        if schema.TASKS.name not in tables:
            tables[schema.TASKS.name] = task_rows(processes["pid"].to_list(), watched_ns=self.start_ns)
        spots = [*self._spots, *unsteady_clocks(self._began, Moment.now())]
        if self._threads_left_out:
            tables[schema.TASKS.name], unseen = _without_unseen(tables)
            spots += unseen
        manifest = Manifest(
            culpa_version=__version__,
            host=host_facts(),
            target=target,
            window=Window(
                start_ns=self.start_ns, end_ns=end_ns, start_realtime_ns=self.start_realtime_ns, ended_by=ended_by
            ),
            evidence=Evidence(
                waits=self._source.waits, detail_end_ns=seen.detail_end_ns, sums_from_ns=seen.sums_from_ns
            ),
            cost=self._cost(seen),
            blind_spots=tuple(
                dict.fromkeys(
                    (
                        *spots,
                        *seen.blind_spots,
                        *self._stacks.blind_spots(),
                        *self._native.blind_spots(),
                        *self._redis.blind_spots(),
                    )
                )
            ),
        )
        return Capture(manifest=manifest, tables=tables)

    def _all_processes(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """One row for every process of the capture: the last one read while it was there."""
        named = {pid for table, column in _PROCESS_COLUMNS if table in tables for pid in tables[table][column].unique()}
        for pid in sorted(pid for pid in named - self._roles.keys() - {None, 0, self._self})[:MAX_PROCESS_ROWS]:
            self._roles[pid] = self._role(pid, is_peer=False)
        for pid in sorted(self._counters.users):
            self._roles.setdefault(pid, "neighbour")
        everything = pl.concat([*self._processes, process_rows(self._roles | {self._self: "culpa"})])
        there = everything.filter(pl.col("starttime").is_not_null())
        last = pl.concat([everything, there]).unique("pid", keep="last", maintain_order=True)
        if schema.TASKS.name not in tables:
            return last
        # One that was gone before anybody looked still has what the events said of its first thread.
        first = tables[schema.TASKS.name].filter(pl.col("tid") == pl.col("pid")).unique("pid", keep="last")
        told = first.select("pid", traced=pl.col("comm"), parent=pl.col("ppid"))
        told_so = last.join(told, on="pid", how="left", maintain_order="left").with_columns(
            comm=pl.coalesce("comm", "traced"), ppid=pl.coalesce("ppid", "parent")
        )
        return told_so.select(list(schema.PROCESSES.schema))

    def _cost(self, seen: Seen) -> Cost:
        return Cost(
            events=seen.events,
            lost_events=seen.lost_events,
            probe_cpu_ns=seen.probe_cpu_ns,
            culpa_cpu_ns=_own_cpu_ns() - self._cpu_before_ns + self._stacks.cpu_ns,
            peak_rss_bytes=_peak_rss_bytes(),
        )


_PROCESS_COLUMNS: Final = (
    (schema.OFFCPU.name, "pid"),
    (schema.OFFCPU.name, "waker_pid"),
    (schema.BLOCKS.name, "pid"),
    (schema.TASKS.name, "pid"),
    (schema.SAMPLES.name, "pid"),
)


def _without_unseen(tables: Mapping[str, pl.DataFrame]) -> tuple[pl.DataFrame, list[BlindSpot]]:
    """The threads; those that were asleep all the time, nobody knows in which call, count as not watched."""
    tasks = tables[schema.TASKS.name]
    told = (schema.THREAD_STATES.name, schema.OFFCPU.name, schema.SYSCALLS.name, schema.SAMPLES.name)
    known = pl.concat([tables[name]["tid"] for name in told if name in tables]).unique()
    unseen = pl.col("watched_ns").is_not_null() & ~pl.col("tid").is_in(known.implode())
    count = tasks.filter(unseen).height
    spot = BlindSpot(
        what=f"what {count} threads slept in",
        why=f"of {tasks.height} threads not all could be looked at; these did not run while culpa watched",
        way_out="name one process instead of many",
    )
    return tasks.with_columns(watched_ns=pl.when(~unseen).then("watched_ns")), [spot] if count else []


_HIGH_WATER: Final = re.compile(rb"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def _peak_rss_bytes() -> int:
    """The most memory this program has held; ru_maxrss would begin with what its parent held when it was started."""
    found = _HIGH_WATER.search(read_bounded(PROC / "self/status") or b"")
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _own_cpu_ns() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int((usage.ru_utime + usage.ru_stime) * NS_PER_SECOND)


def _receivers_of_resp(tables: Mapping[str, pl.DataFrame]) -> frozenset[int]:
    """Processes that read RESP requests from a socket."""
    messages = tables.get(schema.MESSAGES.name, schema.MESSAGES.empty())
    asked = messages.filter(protocol="resp", kind="request", direction="in")
    return frozenset(asked["pid"].unique().drop_nulls().to_list())


def _sockets(frames: Collection[pl.DataFrame | None]) -> pl.DataFrame:
    """One row a socket; where several looks saw it, each column is the first that knew."""
    rows = pl.concat([frame for frame in frames if frame is not None])
    firsts = [pl.col(name).drop_nulls().first() for name in schema.SOCKETS.schema if name != "ino"]
    return rows.group_by("ino", maintain_order=True).agg(firsts).select(list(schema.SOCKETS.schema))


def _as_opened(files: pl.DataFrame, how: Opened) -> pl.DataFrame:
    """`schema.FILES` with what is known of how the files are open, and of their length."""
    for column, found in (("append", how.appended), ("synced", how.synced)):
        rows = [(dev, ino, True) for dev, ino in sorted(found)]
        names = {name: schema.FILES.schema[name] for name in ("dev", "ino", column)}
        known = pl.DataFrame(rows, schema=names, orient="row")
        files = files.drop(column).join(known, on=["dev", "ino"], how="left", maintain_order="left")
    files = files.drop("size").join(lengths(files), on=["dev", "ino"], how="left", maintain_order="left")
    return files.select(list(schema.FILES.schema))


def _clipped(requests: pl.DataFrame, end_ns: int) -> pl.DataFrame:
    """Requests of the window: one that ended after it is open, one that began after it is not there."""
    open_ = pl.col("end_ns") > end_ns
    answer = [pl.when(open_).then(None).otherwise(pl.col(n)).alias(n) for n in ("status", "bytes", "error", "end_ns")]
    return requests.filter(pl.col("start_ns") < end_ns).with_columns(answer)
