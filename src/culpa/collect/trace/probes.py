"""The loaded probes: open, set constants, load, attach, read their maps, close.

Owns every kernel resource of a trace. Nothing is pinned, so the kernel frees all of it when this process ends, however
it ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from culpa.capture.manifest import BlindSpot
from culpa.collect.trace import calls, events, kernel, libbpf
from culpa.collect.trace.lanes import Lanes
from culpa.collect.trace.ring import Ring
from culpa.collect.trace.ticks import open_ticks
from culpa.errors import TraceError

MAX_DEPTH: Final = 5
"""Steps of "woken by" from a process the user named: application, Redis, journal, device worker, and one to spare."""
MAX_GROWN: Final = 1024
"""Processes the probes may add by themselves."""
MAX_STACK_FRAMES: Final = 127
_PREFIX: Final = "raw_tp/"
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
        "balance_dirty_pages", "perf_event",
    }
)  # fmt: skip
"""Tracepoints whose probes write records; the others keep the watched set."""
_ITERATOR: Final = b"on_state"
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
        self._object: int | None = None
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
        try:
            self._load_best(follow)
        except BaseException:
            self.close()
            raise

    def _load_best(self, follow: bool) -> None:
        """Prefer the probes that read kernel objects directly; a kernel may know how, and yet not let them.

        The same is true of the program that goes through the tasks: whoever has it loses it before anything else.
        """
        self._open(kernel.OBJECT_NAME)
        names = frozenset(name for _, name in self._programs())
        known = kernel.kernel_types(self._library, names, self._btf_path).readable()
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
        stack = self._fd("free_slots")
        for slot in reversed(range(events.THREADS_MAX)):
            number = ctypes.c_uint32(slot)
            pushed = self._library.bpf_map_update_elem(stack, None, ctypes.byref(number), 0)
            libbpf.checked(pushed, "laying out the threads' places")
        values = self.counters()
        values["slots"] = events.THREADS_MAX
        self.put(_COUNTERS, 0, values, replace=True)

    def _open(self, name: str) -> None:
        self._free()
        path = os.fsencode(kernel.object_path(name))
        options = libbpf.OpenOptions(bytes=ctypes.sizeof(libbpf.OpenOptions))
        if self._btf_path != kernel.BTF_PATH:
            options.btf_path = os.fsencode(self._btf_path)
        opened = self._library.bpf_object__open_file(path, ctypes.byref(options))
        self._object = libbpf.checked(opened, "opening the probes", self._log)

    def _load(self, types: kernel.KernelTypes, follow: bool) -> None:
        self._choose(types, direct=types.direct)
        self._choose_iterator(exists=types.iterates)
        cpus = libbpf.checked(self._library.libbpf_num_possible_cpus(), "counting the CPUs")
        self._cpus = cpus
        self._set_constants(types, follow, cpus)
        self._size_maps(cpus)
        libbpf.checked(self._library.bpf_object__load(self._object), "loading the probes", self._log)
        self._map_memory(cpus)

    def _size_maps(self, cpus: int) -> None:
        """Give rings and lanes their sizes."""
        for ring in events.RINGS.values():
            self._resize(ring.map_name, ring.size)
        for lanes in events.LANES.values():
            self._resize(f"{lanes.name}_lanes", cpus)
            self._resize(f"{lanes.name}_slots", cpus * events.lane_slots(lanes, cpus))
        for name in ("seats", "strolls"):
            self._resize(name, cpus)
        self._resize("dirt", cpus * events.DIRT_SLOTS)

    def _resize(self, name: str, entries: int) -> None:
        libbpf.checked(self._library.bpf_map__set_max_entries(self._map(name), entries), f"sizing {name}")

    def _map_memory(self, cpus: int) -> None:
        for number, ring in events.RINGS.items():
            self.rings[number] = Ring(self._fd(ring.map_name), ring.size, ring.event)
        for number, spec in events.LANES.items():
            self.lanes[number] = Lanes(
                self._fd(f"{spec.name}_lanes"),
                self._fd(f"{spec.name}_slots"),
                cpus=cpus,
                slots=events.lane_slots(spec, cpus),
                event=spec.event,
            )

    def _programs(self) -> Iterator[tuple[int, str]]:
        for program, section in self._sections():
            if section.startswith(_PREFIX):
                yield program, section.removeprefix(_PREFIX)

    def _sections(self) -> Iterator[tuple[int, str]]:
        program = self._library.bpf_object__next_program(self._object, None)
        while program:
            yield program, self._library.bpf_program__section_name(program).decode()
            program = self._library.bpf_object__next_program(self._object, program)

    def _choose(self, types: kernel.KernelTypes, *, direct: bool) -> None:
        """Of the two versions of a probe load one, and none for a tracepoint that does not exist."""
        twofold = {self._name(program) for program, _ in self._programs() if self._is_direct(program)}
        for program, name in self._programs():
            alone = not {self._name(program), self._name(program) + _DIRECT} & twofold
            fits = alone or self._is_direct(program) == direct
            self._library.bpf_program__set_autoload(program, fits and name in types.parameters)
        tick = self._library.bpf_object__find_program_by_name(self._object, _TICK)
        self._library.bpf_program__set_autoload(tick, bool(self._stack_period_ns))
        for name in {name for _, name in self._programs()} - types.parameters.keys():
            if _FORMER_NAMES.get(name) not in types.parameters:
                self._unseen(name, "this kernel has no such tracepoint that can be read")

    def _choose_iterator(self, *, exists: bool) -> None:
        iterator = self._library.bpf_object__find_program_by_name(self._object, _ITERATOR)
        self._library.bpf_program__set_autoload(iterator, exists)
        if not exists:
            self.blind_spots.append(
                BlindSpot(
                    what="since when threads have been waiting that wait all the time",
                    why="this kernel lets no program go through its tasks",
                    way_out="a newer kernel",
                )
            )

    def _name(self, program: int) -> bytes:
        return bytes(self._library.bpf_program__name(program))

    def _is_direct(self, program: int) -> bool:
        return self._name(program).endswith(_DIRECT)

    def _is_sum(self, program: int) -> bool:
        return self._name(program).startswith(_SUM)

    def _unseen(self, name: str, why: str) -> None:
        if name in _UNSEEN:
            self.blind_spots.append(BlindSpot(what=_UNSEEN[name], why=f"{name}: {why}", way_out="a newer kernel"))

    def _set_constants(self, types: kernel.KernelTypes, follow: bool, cpus: int) -> None:
        settings = self._globals(".rodata.settings", events.SETTINGS)
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
        settings["stack_period_ns"] = self._stack_period_ns
        settings["call_kind"] = calls.kinds(platform.machine())

    def _map(self, name: str) -> int:
        found = self._library.bpf_object__find_map_by_name(self._object, name.encode())
        return libbpf.checked(found, f"finding the map {name}")

    def _fd(self, name: str) -> int:
        return int(self._library.bpf_map__fd(self._map(name)))

    def _globals(self, name: str, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
        """The first values of the global variables in `name`, one record that is the memory itself; until the load."""
        size = ctypes.c_size_t()
        address = self._library.bpf_map__initial_value(self._map(name), ctypes.byref(size))
        if not address or size.value < dtype.itemsize:
            raise TraceError(f"cannot trace: {name} of the probes has the wrong size", way_out="reinstall culpa")
        memory = (ctypes.c_uint8 * dtype.itemsize).from_address(address)
        return np.ndarray(shape=(1,), dtype=dtype, buffer=memoryview(memory).cast("B"))

    def attach(self) -> None:
        """Let the probes that write records run.

        Raises:
            TraceError: not one could be attached.
        """
        for program, name in self._programs():
            if not self._is_sum(program):
                self._attach(program, name)
        self._attach_ticks()
        if not self._links:
            raise TraceError("cannot trace: the kernel lets no probe be attached", way_out="run with --no-trace")

    def _attach(self, program: int, name: str) -> None:
        if self._library.bpf_program__fd(program) < 0:
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
        program, attached = self._library.bpf_object__find_program_by_name(self._object, _TICK), False
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
        with mmap.mmap(self._fd("thread_sums"), _pages(seeds.nbytes), mmap.MAP_SHARED) as memory:
            memory[: seeds.nbytes] = seeds.tobytes()
        values = self.counters()
        values["sums_from_ns"] = from_ns
        self.put(_COUNTERS, 0, values, replace=True)
        for program, name in self._programs():
            if self._is_sum(program):
                self._attach(program, name)

    def start_measuring(self) -> None:
        """Have the kernel measure the probes' run time, if it will."""
        if self._stats_fd < 0:
            with suppress(TraceError):
                self._stats_fd = libbpf.checked(
                    self._library.bpf_enable_stats(libbpf.STATS_RUN_TIME), "measuring the probes"
                )

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
        key = ctypes.c_uint32(0)
        found = self._library.bpf_map_lookup_elem(self._fd(_COUNTERS), ctypes.byref(key), values.ctypes.data)
        libbpf.checked(found, "reading the probes' counters")
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
        values = self.counters()
        values["paused"] = how
        self.put(_COUNTERS, 0, values, replace=True)

    def probe_cpu_ns(self) -> int:
        """Kernel time spent in the probes so far; 0 where the kernel would not measure it."""
        return sum(info.run_time_ns for info in self.program_infos().values())

    def program_infos(self) -> dict[str, libbpf.ProgramInfo]:
        """Run time and run count of each loaded probe, by its name."""
        infos = {}
        for program, _ in self._sections():
            info, size = libbpf.ProgramInfo(), ctypes.c_uint32(ctypes.sizeof(libbpf.ProgramInfo))
            fd = self._library.bpf_program__fd(program)
            if fd >= 0 and not self._library.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)):
                infos[self._name(program).decode()] = info
        return infos

    def loaded(self) -> list[bytes]:
        """The names of the probes that the kernel holds."""
        return [
            self._library.bpf_program__name(program)
            for program, _ in self._programs()
            if self._library.bpf_program__fd(program) >= 0
        ]

    def put(self, name: str, key: int, value: npt.NDArray[np.void], *, replace: bool) -> bool:
        """Write one record under a 32-bit key; False where the map is full, or holds the key and `replace` is off."""
        number = ctypes.c_uint32(key)
        flags = 0 if replace else 1
        result = self._library.bpf_map_update_elem(self._fd(name), ctypes.byref(number), value.ctypes.data, flags)
        return bool(result == 0)

    def table(
        self, name: str, key: str, dtype: np.dtype[np.void], limit: int
    ) -> tuple[list[int], npt.NDArray[np.void]]:
        """Keys and records of a hash map, at most `limit` of them; `key` is the numpy type of its keys."""
        fd = self._fd(name)
        keys: list[int] = []
        found = np.zeros(limit, dtype=dtype)
        previous, here = None, np.zeros(1, dtype=key)
        while len(keys) < limit and not self._library.bpf_map_get_next_key(fd, previous, here.ctypes.data):
            at = found[len(keys) :].ctypes.data
            if not self._library.bpf_map_lookup_elem(fd, here.ctypes.data, at):
                keys.append(int(here[0]))
            previous = here.ctypes.data
        return keys, found[: len(keys)]

    def threads(self) -> npt.NDArray[np.void]:
        """`events.THREAD_STATE` of every watched thread, as of now."""
        states = self._array("threads", events.THREAD_STATE, events.THREADS_MAX)
        watched: npt.NDArray[np.void] = states[states["tid"] != 0]
        return watched

    def dirt(self) -> npt.NDArray[np.void]:
        """`events.DIRTIED_EVENT`: the sums that were not handed over yet."""
        places = self._array("dirt", events.DIRT, self._cpus * events.DIRT_SLOTS)
        sums: npt.NDArray[np.void] = places["sum"][places["inode"] != 0]
        return sums

    def thread_sums(self) -> npt.NDArray[np.void]:
        """`events.THREAD_SUM` of every thread that has any, those that ended included."""
        sums = self._array("thread_sums", events.THREAD_SUM, events.THREADS_MAX)
        used: npt.NDArray[np.void] = sums[sums["tid"] != 0]
        return used

    def call_sums(self) -> npt.NDArray[np.void]:
        """`events.CALL_SUM`, one for each thread, call and file."""
        sums = self._array("call_sums", events.CALL_SUM, events.CALL_SUMS)
        used: npt.NDArray[np.void] = sums[sums["tid"] != 0]
        return used

    def _array(self, name: str, dtype: np.dtype[np.void], count: int) -> npt.NDArray[np.void]:
        """A copy of a mapped array."""
        size = count * dtype.itemsize
        with mmap.mmap(self._fd(name), _pages(size), mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            copy: npt.NDArray[np.void] = np.frombuffer(memory[:size], dtype=dtype)
        return copy

    def states(self) -> npt.NDArray[np.void]:
        """`events.STATE_EVENT` of every thread of the watched processes and of the caller; empty on older kernels.

        Raises:
            TraceError: the kernel refuses to go through its tasks.
        """
        program = self._library.bpf_object__find_program_by_name(self._object, _ITERATOR)
        if self._library.bpf_program__fd(program) < 0:
            return np.zeros(0, dtype=events.STATE_EVENT)
        link = libbpf.checked(self._library.bpf_program__attach_iter(program, None), "going through the tasks")
        try:
            fd = libbpf.checked(self._library.bpf_iter_create(self._library.bpf_link__fd(link)), "reading the tasks")
            with os.fdopen(fd, "rb", buffering=0) as file:
                content = b"".join(iter(lambda: file.read(1 << 18), b""))
        finally:
            self._library.bpf_link__destroy(link)
        whole = len(content) // events.STATE_EVENT.itemsize * events.STATE_EVENT.itemsize
        return np.frombuffer(content[:whole], dtype=events.STATE_EVENT)

    def stack(self, stack_id: int) -> list[int]:
        """Return addresses of one kernel stack, innermost first; empty if it is not kept any more."""
        frames = np.zeros(MAX_STACK_FRAMES, dtype="<u8")
        number = ctypes.c_uint32(stack_id)
        if self._library.bpf_map_lookup_elem(self._fd("stacks"), ctypes.byref(number), frames.ctypes.data):
            return []
        return cast(list[int], frames[frames != 0].tolist())

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
        if self._object is not None:
            self._library.bpf_object__close(self._object)
            self._object = None

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
