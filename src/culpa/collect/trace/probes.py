"""The loaded probes: open, set constants, load, attach, read their maps, close.

Owns every kernel resource of a trace. Nothing is pinned, so the kernel frees all of it when this process ends, however
it ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from culpa.capture.manifest import BlindSpot
from culpa.collect.trace import asyncops, calls, events, kernel, libbpf
from culpa.collect.trace.bpfobject import BpfObject
from culpa.collect.trace.lanes import Lanes
from culpa.collect.trace.ring import Ring
from culpa.collect.trace.ticks import open_ticks
from culpa.errors import TraceError

MAX_DEPTH: Final = 5
"""Steps of "woken by" from a process the user named: application, Redis, journal, device worker, and one to spare."""
MAX_GROWN: Final = 1024
"""Processes the probes may add by themselves."""
_TICK, _TICKS = b"on_tick", "perf_event"
"""The probe that a timer runs, and what its links are kept under."""
_DIRECT: Final = b"_direct"
"""How the names of those probes end that read kernel objects through typed pointers."""
_SUM: Final = b"sum_"
"""How the names of those probes begin that keep sums in place of records."""
_RECORDS: Final = frozenset(
    {
        "sched_switch", "sched_waking", "sched_wakeup_new", "sys_enter", "sys_exit", "block_io_start",
        "block_rq_insert", "block_rq_issue", "block_rq_complete", "writeback_dirty_folio", "writeback_dirty_page",
        "mm_filemap_delete_from_page_cache", "ext4_evict_inode", "btrfs_inode_evict", "f2fs_evict_inode",
        "ext4_truncate_enter", "ext4_unlink_enter",
        "balance_dirty_pages", "perf_event", "io_uring_submit_req", "io_uring_submit_sqe", "io_uring_complete",
        "io_uring_cqring_wait", "tcp_retransmit_skb",
    }
)  # fmt: skip
"""Tracepoints whose probes write records; the others keep the watched set."""
_ITERATOR: Final = b"on_state"
_ASYNC_KEY: Final = np.dtype([("ring", "<u8"), ("request", "<u8"), ("pid", "<u4"), ("pad", "<u4")])
"""struct async_key, bpf/async.bpf.c."""
_COUNTERS: Final = ".bss.counters"
_UNSEEN: Final = {
    "sched_switch": "waits of threads",
    "sched_waking": "who ended a wait",
    "sched_process_fork": "children of watched processes",
    "sched_process_exit": "the end of threads",
    "sys_enter": "the start of system calls",
    "sys_exit": "system calls",
    "block_rq_issue": "requests to block devices",
    "block_rq_complete": "the end of requests to block devices",
    "writeback_dirty_folio": "who dirtied the pages that are written back",
    "balance_dirty_pages": "why writers were made to pause",
    "tcp_retransmit_skb": "segments that TCP had to send again",
}
"""What is not seen without a tracepoint; the others are refinements."""
_FORMER_NAMES: Final = {"writeback_dirty_folio": "writeback_dirty_page"}


class Probes:
    """The BPF object, its links and its rings; close it, or use it as a context."""

    def __init__(
        self, *, follow: bool, verbose: bool, stack_period_ns: int = 0, btf_path: Path = kernel.BTF_PATH
    ) -> None:
        """Load the object; nothing runs before `attach`.

        Args:
            follow: see `Tracer`.
            verbose: see `Tracer`.
            stack_period_ns: one user stack for so much waiting of a thread; 0: none.
            btf_path: the description of the kernel's types.

        Raises:
            TraceError: libbpf is missing, or the kernel refuses the load.
        """
        self.rings: dict[int, Ring] = {}
        self.lanes: dict[int, Lanes] = {}
        self.blind_spots: list[BlindSpot] = []
        self.follows_rings = True
        self._links: list[tuple[str, int]] = []
        self._stats_fd = -1
        self._lost = 0
        self._cpus = 1
        self._stack_period_ns = stack_period_ns
        self._log: list[str] = []
        self._btf_path = btf_path
        self._library = libbpf.open_library()
        self._print = libbpf.log_function(self._log, verbose)
        self._library.libbpf_set_print(ctypes.cast(self._print, ctypes.c_void_p))
        self.object = BpfObject(self._library, self._log)
        try:
            self._open(kernel.OBJECT_NAME)
            self._load_best(follow)
        except BaseException:
            self.close()
            raise

    def _load_best(self, follow: bool) -> None:
        """Prefer the probes that read kernel objects directly; a kernel may know how, and yet not let them.

        The same is true of the program that goes through the tasks: whoever has it loses it before anything else.
        """
        names = frozenset(name for _, name in self.object.programs())
        known = kernel.kernel_types(self._library, names, self._btf_path).readable()
        if self._btf_path == kernel.BTF_PATH:
            known = known.in_use()
        ways = [
            replace(known, direct=direct, iterates=iterates)
            for iterates in sorted({known.iterates, False}, reverse=True)
            for direct in sorted({known.direct, False}, reverse=True)
        ]
        if any(self._loads(types, follow) for types in ways[:-1]):
            return
        if platform.machine() not in kernel.ORDERED_STORES:
            self._load(ways[-1], follow)
        elif not self._loads(ways[-1], follow):
            self._open(kernel.PLAIN_OBJECT_NAME)
            self._load(ways[-1], follow)
            self._hand_out_slots()

    def _loads(self, types: kernel.KernelTypes, follow: bool) -> bool:
        """Whether the object could be loaded; where it could not, it is opened anew."""
        try:
            self._load(types, follow)
        except TraceError:
            self._open(kernel.OBJECT_NAME)
            return False
        return True

    def _hand_out_slots(self) -> None:
        """Lay every place of a thread on the stack of free ones: these probes cannot count them out by themselves."""
        for slot in reversed(range(events.THREADS_MAX)):
            self.object.push("free_slots", slot)
        self._count("slots", events.THREADS_MAX)

    def _open(self, name: str) -> None:
        self._free()
        btf_path = None if self._btf_path == kernel.BTF_PATH else os.fsencode(self._btf_path)
        self.object.open(os.fsencode(kernel.object_path(name)), btf_path=btf_path)

    def _load(self, types: kernel.KernelTypes, follow: bool) -> None:
        self.follows_rings = types.follows_rings
        self._choose(types, direct=types.direct)
        self._choose_iterator(exists=types.iterates)
        cpus = libbpf.checked(self._library.libbpf_num_possible_cpus(), "counting the CPUs")
        self._cpus = cpus
        self._set_constants(types, follow, cpus)
        self._size_maps(cpus)
        self.object.load()
        self._map_memory(cpus)

    def _size_maps(self, cpus: int) -> None:
        """Give rings and lanes their sizes."""
        for ring in events.RINGS.values():
            self.object.resize(ring.map_name, ring.size)
        for lanes in events.LANES.values():
            self.object.resize(f"{lanes.name}_lanes", cpus)
            self.object.resize(f"{lanes.name}_slots", cpus * events.lane_slots(lanes, cpus))
        for name in ("seats", "strolls"):
            self.object.resize(name, cpus)
        for name in ("dirt", "uncached"):
            self.object.resize(name, cpus * events.DIRT_SLOTS)

    def _map_memory(self, cpus: int) -> None:
        for number, ring in events.RINGS.items():
            self.rings[number] = Ring(self.object.fd(ring.map_name), ring.size, ring.event)
        for number, spec in events.LANES.items():
            self.lanes[number] = Lanes(
                self.object.fd(f"{spec.name}_lanes"),
                self.object.fd(f"{spec.name}_slots"),
                cpus=cpus,
                slots=events.lane_slots(spec, cpus),
                event=spec.event,
            )

    def _choose(self, types: kernel.KernelTypes, *, direct: bool) -> None:
        """Of the two versions of a probe load one, and none for a tracepoint that does not exist."""
        names = {program: self.object.program_name(program) for program, _ in self.object.programs()}
        twofold = {name for name in names.values() if name.endswith(_DIRECT)}
        for program, name in self.object.programs():
            alone = not {names[program], names[program] + _DIRECT} & twofold
            fits = alone or names[program].endswith(_DIRECT) == direct
            self.object.set_autoload(program, fits and name in types.parameters)
        tick = self.object.program(_TICK)
        self.object.set_autoload(tick, bool(self._stack_period_ns))
        for name in {name for _, name in self.object.programs()} - types.parameters.keys():
            if _FORMER_NAMES.get(name) not in types.parameters:
                self._unseen(name, "this kernel has no such tracepoint that can be read")

    def _choose_iterator(self, *, exists: bool) -> None:
        iterator = self.object.program(_ITERATOR)
        self.object.set_autoload(iterator, exists)
        if not exists:
            self.blind_spots.append(
                BlindSpot(
                    what="since when threads have been waiting that wait all the time",
                    why="this kernel lets no program go through its tasks",
                    way_out="a newer kernel",
                )
            )

    def _is_sum(self, program: int) -> bool:
        return self.object.program_name(program).startswith(_SUM)

    def _unseen(self, name: str, why: str) -> None:
        if name in _UNSEEN:
            self.blind_spots.append(BlindSpot(what=_UNSEEN[name], why=f"{name}: {why}", way_out="a newer kernel"))

    def _set_constants(self, types: kernel.KernelTypes, follow: bool, cpus: int) -> None:
        settings = self.object.globals(".rodata.settings", events.SETTINGS)
        settings["follow_wakers"] = follow
        settings["max_depth"] = MAX_DEPTH
        settings["max_grown"] = MAX_GROWN
        settings["switch_has_state"] = types.switch_has_state
        settings["issue_has_queue"] = types.issue_has_queue
        settings["block_start_seen"] = "block_io_start" in types.parameters
        settings["offcpu_slots"] = events.lane_slots(events.LANES[events.OFFCPU], cpus)
        settings["syscall_slots"] = events.lane_slots(events.LANES[events.SYSCALLS], cpus)
        settings["page_bytes"] = mmap.PAGESIZE
        settings["throttle_has_control"] = types.throttle_has_control
        settings["submit_has_ring"] = types.submit_has_ring
        settings["complete_has_request"] = types.complete_has_request
        settings["complete_has_cqe"] = types.complete_has_cqe
        settings["async_on_file"] = asyncops.on_file()
        settings["stack_period_ns"] = self._stack_period_ns
        settings["call_kind"] = calls.kinds(platform.machine())

    def attach(self) -> None:
        """Let the probes that write records run.

        Raises:
            TraceError: not one could be attached.
        """
        for program, name in self.object.programs():
            if not self._is_sum(program):
                self._attach(program, name)
        self._attach_ticks()
        if not self._links:
            raise TraceError("cannot trace: the kernel lets no probe be attached", way_out="run with --no-trace")

    def _attach(self, program: int, name: str) -> None:
        if self.object.program_fd(program) < 0:
            return
        link = self._library.bpf_program__attach(program)
        if link:
            self._links.append((name, link))
        else:
            self._unseen(name, f"attaching failed ({os.strerror(ctypes.get_errno())})")

    def _attach_ticks(self) -> None:
        """Let timers run the probe that takes the user stacks of computing threads."""
        if not self._stack_period_ns:
            return
        program, attached = self.object.program(_TICK), False
        for tick in open_ticks(libbpf.checked(self._library.libbpf_num_possible_cpus(), "counting the CPUs")):
            link = self._library.bpf_program__attach_perf_event(program, tick)
            if link:
                self._links.append((_TICKS, link))  # which closes the timer when it is destroyed
                attached = True
            else:
                os.close(tick)
        if not attached:
            self.blind_spots.append(
                BlindSpot(
                    what="which functions of programs without Python compute",
                    why="the kernel refuses a timer (perf_event_open)",
                    way_out="allow it (kernel.perf_event_paranoid, the container's seccomp profile)",
                )
            )

    def end_records(self) -> None:
        """No record from now on; who is watched goes on being known."""
        self._pause(events.SUMMING)
        kept = [(name, link) for name, link in self._links if name not in _RECORDS]
        for name, link in self._links:
            if name in _RECORDS:
                self._library.bpf_link__destroy(link)
        self._links = kept

    def begin_sums(self, from_ns: int, seeds: npt.NDArray[np.void]) -> None:
        """Keep sums from `from_ns` on, after `end_records`; `seeds` are `events.THREAD_SUM` by slot."""
        self.object.fill_array("thread_sums", seeds)
        self._count("sums_from_ns", from_ns)
        for program, name in self.object.programs():
            if self._is_sum(program):
                self._attach(program, name)

    def start_measuring(self) -> None:
        """Have the kernel measure the probes' run time; where it will not, that is a blind spot and not no time."""
        if self._stats_fd >= 0:
            return
        try:
            self._stats_fd = libbpf.checked(
                self._library.bpf_enable_stats(libbpf.STATS_RUN_TIME), "measuring the probes"
            )
        except TraceError as error:
            unmeasured = BlindSpot(
                what="what the probes in the kernel cost: shown as 0, and --budget counts culpa's own reading only",
                why=error.what,
                way_out="run as root (CAP_SYS_ADMIN), or set kernel.bpf_stats_enabled=1",
            )
            if unmeasured not in self.blind_spots:
                self.blind_spots.append(unmeasured)

    def stop_measuring(self) -> None:
        """Let the kernel's clock reads around each probe go: they cost a third of the whole."""
        if self._stats_fd >= 0:
            os.close(self._stats_fd)
            self._stats_fd = -1

    def detach(self) -> None:
        """Stop the probes; their maps stay readable."""
        while self._links:
            self._library.bpf_link__destroy(self._links.pop()[1])

    def counters(self) -> npt.NDArray[np.void]:
        """`events.COUNTERS`, one record: a copy of what the probes have counted so far."""
        values = np.zeros(1, dtype=events.COUNTERS)
        if not self.object.get(_COUNTERS, 0, values):
            raise TraceError("cannot read the probes' counters", way_out="run with --no-trace")
        return values

    def lost(self) -> int:
        """Records of any kind that found no room so far."""
        return int(self.counters()["lost"].sum()) + self._lost + sum(lanes.lost() for lanes in self.lanes.values())

    def fill(self) -> float:
        """The part of the fullest ring or lane in use, 0..1."""
        return max(*(ring.fill() for ring in self.rings.values()), *(lanes.fill() for lanes in self.lanes.values()))

    def pause(self) -> None:
        """Let the probes return at once from now on; the counters are as good as final then."""
        self._pause(events.PAUSED)

    def _pause(self, how: int) -> None:
        self._count("paused", how)

    def _count(self, field: str, value: int) -> None:
        """Set one of the probes' counters; the others keep what they are."""
        values = self.counters()
        values[field] = value
        self.object.put(_COUNTERS, 0, values, replace=True)

    def probe_cpu_ns(self) -> int:
        """Kernel time spent in the probes so far; 0 where the kernel would not measure it."""
        return sum(info.run_time_ns for info in self.object.program_infos().values())

    def loaded(self) -> list[bytes]:
        """The names of the probes that the kernel holds."""
        return [
            self.object.program_name(program)
            for program, _ in self.object.programs()
            if self.object.program_fd(program) >= 0
        ]

    def requests(self, limit: int) -> npt.NDArray[np.void]:
        """`events.BLOCK_EVENT` of the requests under way, at most `limit` of them."""
        return self.object.table("requests", "<u8", events.BLOCK_EVENT, limit)[1]

    def async_requests(self, limit: int) -> npt.NDArray[np.void]:
        """`events.ASYNC_EVENT` of requests to io_uring and libaio that are not complete, at most `limit` of them."""
        return self.object.table("async_requests", _ASYNC_KEY, events.ASYNC_EVENT, limit)[1]

    def threads(self) -> npt.NDArray[np.void]:
        """`events.THREAD_STATE` of every watched thread, as of now."""
        states = self.object.array("threads", events.THREAD_STATE, events.THREADS_MAX)
        watched: npt.NDArray[np.void] = states[states["tid"] != 0]
        return watched

    def dirt(self, table: Literal["dirt", "uncached"]) -> npt.NDArray[np.void]:
        """`events.DIRTIED_EVENT`: the sums of a table that were not handed over yet."""
        places = self.object.array(table, events.DIRT, self._cpus * events.DIRT_SLOTS)
        sums: npt.NDArray[np.void] = places["sum"][places["inode"] != 0]
        return sums

    def thread_sums(self) -> npt.NDArray[np.void]:
        """`events.THREAD_SUM` of every thread that has any, those that ended included."""
        sums = self.object.array("thread_sums", events.THREAD_SUM, events.THREADS_MAX)
        used: npt.NDArray[np.void] = sums[sums["tid"] != 0]
        return used

    def call_sums(self) -> npt.NDArray[np.void]:
        """`events.CALL_SUM`, one for each thread, call and file."""
        sums = self.object.array("call_sums", events.CALL_SUM, events.CALL_SUMS)
        used: npt.NDArray[np.void] = sums[sums["tid"] != 0]
        return used

    def states(self) -> npt.NDArray[np.void]:
        """`events.STATE_EVENT` of every thread of the watched processes and of the caller; empty on older kernels.

        Raises:
            TraceError: the kernel refuses to go through its tasks.
        """
        program = self.object.program(_ITERATOR)
        if self.object.program_fd(program) < 0:
            return np.zeros(0, dtype=events.STATE_EVENT)
        content = self.object.iterate(program)
        whole = len(content) // events.STATE_EVENT.itemsize * events.STATE_EVENT.itemsize
        return np.frombuffer(content[:whole], dtype=events.STATE_EVENT)

    def close(self) -> None:
        """Detach and free everything; safe to call twice."""
        self._free()
        self.stop_measuring()
        self._library.libbpf_set_print(None)

    def unmap(self) -> None:
        """Let the memory of rings and lanes go, after the last drain; safe to call twice."""
        for ring in self.rings.values():
            ring.close()
        for lanes in self.lanes.values():
            self._lost += lanes.lost()
            lanes.close()
        self.rings, self.lanes = {}, {}

    def _free(self) -> None:
        self.detach()
        self.unmap()
        self.blind_spots, self._lost = [], 0
        self.object.close()

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
