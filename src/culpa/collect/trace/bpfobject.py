"""A BPF object as libbpf holds it: its programs, its maps, and what stands in them.

Knows nothing of what the probes are for; that is `probes.py`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from culpa.collect.trace import libbpf
from culpa.errors import TraceError

MAX_STACK_FRAMES: Final = 127
_PREFIX: Final = "raw_tp/"


class BpfObject:
    """One object file at a time; close it. Programs are libbpf's pointers to them."""

    def __init__(self, library: ctypes.CDLL, log: list[str]) -> None:
        """Nothing is open yet; `log` is what libbpf prints, for the message of an error."""
        self._library = library
        self._log = log
        self._object: int | None = None

    def open(self, path: bytes, *, btf_path: bytes | None) -> None:
        """Open an object file in place of the one before, without loading anything.

        Args:
            path: the object file.
            btf_path: the description of the kernel's types; without one, that of the running kernel.

        Raises:
            TraceError: libbpf cannot read it.
        """
        self.close()
        options = libbpf.OpenOptions(bytes=ctypes.sizeof(libbpf.OpenOptions))
        if btf_path is not None:
            options.btf_path = btf_path
        opened = self._library.bpf_object__open_file(path, ctypes.byref(options))
        self._object = libbpf.checked(opened, "opening the probes", self._log)

    def load(self) -> None:
        """Have the kernel check and take the programs and maps.

        Raises:
            TraceError: it refuses.
        """
        libbpf.checked(self._library.bpf_object__load(self._object), "loading the probes", self._log)

    def close(self) -> None:
        """Let the kernel have everything back; safe to call twice."""
        if self._object is not None:
            self._library.bpf_object__close(self._object)
            self._object = None

    def programs(self) -> Iterator[tuple[int, str]]:
        """Each program on a raw tracepoint, with the name of that."""
        for program, section in self._sections():
            if section.startswith(_PREFIX):
                yield program, section.removeprefix(_PREFIX)

    def _sections(self) -> Iterator[tuple[int, str]]:
        program = self._library.bpf_object__next_program(self._object, None)
        while program:
            yield program, self._library.bpf_program__section_name(program).decode()
            program = self._library.bpf_object__next_program(self._object, program)

    def program(self, name: bytes) -> int:
        """The program of that name."""
        return int(self._library.bpf_object__find_program_by_name(self._object, name))

    def program_name(self, program: int) -> bytes:
        """What the program is called."""
        return bytes(self._library.bpf_program__name(program))

    def program_fd(self, program: int) -> int:
        """Its file descriptor; negative where it is not loaded."""
        return int(self._library.bpf_program__fd(program))

    def set_autoload(self, program: int, wanted: bool) -> None:
        """Whether `load` shall load it."""
        self._library.bpf_program__set_autoload(program, wanted)

    def program_infos(self) -> dict[str, libbpf.ProgramInfo]:
        """Run time and run count of each loaded program, by its name."""
        infos = {}
        for program, _ in self._sections():
            info, size = libbpf.ProgramInfo(), ctypes.c_uint32(ctypes.sizeof(libbpf.ProgramInfo))
            fd = self.program_fd(program)
            if fd >= 0 and not self._library.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)):
                infos[self.program_name(program).decode()] = info
        return infos

    def resize(self, name: str, entries: int) -> None:
        """Give a map its size, before the load."""
        libbpf.checked(self._library.bpf_map__set_max_entries(self._map(name), entries), f"sizing {name}")

    def _map(self, name: str) -> int:
        found = self._library.bpf_object__find_map_by_name(self._object, name.encode())
        return libbpf.checked(found, f"finding the map {name}")

    def fd(self, name: str) -> int:
        """The file descriptor of a map."""
        return int(self._library.bpf_map__fd(self._map(name)))

    def globals(self, name: str, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
        """The first values of the global variables in `name`, one record that is the memory itself; until the load."""
        size = ctypes.c_size_t()
        address = self._library.bpf_map__initial_value(self._map(name), ctypes.byref(size))
        if not address or size.value < dtype.itemsize:
            raise TraceError(f"cannot trace: {name} of the probes has the wrong size", way_out="reinstall culpa")
        memory = (ctypes.c_uint8 * dtype.itemsize).from_address(address)
        return np.ndarray(shape=(1,), dtype=dtype, buffer=memoryview(memory).cast("B"))

    def get(self, name: str, key: int, into: npt.NDArray[np.void]) -> bool:
        """Copy one record under a 32-bit key; False where there is none."""
        number = ctypes.c_uint32(key)
        found = self._library.bpf_map_lookup_elem(self.fd(name), ctypes.byref(number), into.ctypes.data)
        return bool(found == 0)

    def put(self, name: str, key: int, value: npt.NDArray[np.void], *, replace: bool) -> bool:
        """Write one record under a 32-bit key; False where the map is full, or holds the key and `replace` is off."""
        number = ctypes.c_uint32(key)
        flags = 0 if replace else 1
        result = self._library.bpf_map_update_elem(self.fd(name), ctypes.byref(number), value.ctypes.data, flags)
        return bool(result == 0)

    def push(self, name: str, number: int) -> None:
        """Lay a 32-bit number on a stack or at the end of a queue."""
        value = ctypes.c_uint32(number)
        pushed = self._library.bpf_map_update_elem(self.fd(name), None, ctypes.byref(value), 0)
        libbpf.checked(pushed, f"filling {name}")

    def table(
        self, name: str, key: npt.DTypeLike, dtype: np.dtype[np.void], limit: int
    ) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.void]]:
        """Keys and records of a hash map, each once, at most `limit` of them; `key` is the numpy type of its keys.

        After a key that a probe has removed meanwhile the kernel begins anew, so that no more than `limit` are passed.
        """
        fd, count, passed = self.fd(name), 0, set[bytes]()
        keys, found = np.zeros(limit, dtype=key), np.zeros(limit, dtype=dtype)
        previous, here = None, np.zeros(1, dtype=key)
        for _ in range(limit):
            if self._library.bpf_map_get_next_key(fd, previous, here.ctypes.data):
                break
            again = here.tobytes() in passed
            if not again and not self._library.bpf_map_lookup_elem(fd, here.ctypes.data, found[count:].ctypes.data):
                keys[count] = here[0]
                count += 1
                passed.add(here.tobytes())
            previous = here.ctypes.data
        return keys[:count], found[:count]

    def array(self, name: str, dtype: np.dtype[np.void], count: int) -> npt.NDArray[np.void]:
        """A copy of an array that can be mapped."""
        size = count * dtype.itemsize
        with mmap.mmap(self.fd(name), _pages(size), mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            copy: npt.NDArray[np.void] = np.frombuffer(memory[:size], dtype=dtype)
        return copy

    def fill_array(self, name: str, records: npt.NDArray[np.void]) -> None:
        """Write the first records of an array that can be mapped."""
        with mmap.mmap(self.fd(name), _pages(records.nbytes), mmap.MAP_SHARED) as memory:
            memory[: records.nbytes] = records.tobytes()

    def iterate(self, program: int) -> bytes:
        """All that an iterator program writes in one go.

        Raises:
            TraceError: the kernel refuses to run it.
        """
        link = libbpf.checked(self._library.bpf_program__attach_iter(program, None), "going through the tasks")
        try:
            fd = libbpf.checked(self._library.bpf_iter_create(self._library.bpf_link__fd(link)), "reading the tasks")
            with os.fdopen(fd, "rb", buffering=0) as file:
                return b"".join(iter(lambda: file.read(1 << 18), b""))
        finally:
            self._library.bpf_link__destroy(link)

    def stack(self, name: str, stack_id: int) -> list[int]:
        """Return addresses of one kernel stack, innermost first; empty if it is not kept any more."""
        frames = np.zeros(MAX_STACK_FRAMES, dtype="<u8")
        number = ctypes.c_uint32(stack_id)
        if self._library.bpf_map_lookup_elem(self.fd(name), ctypes.byref(number), frames.ctypes.data):
            return []
        return cast(list[int], frames[frames != 0].tolist())


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
