"""One process: which code its addresses are, and whose."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from culpa.collect.native import names
from culpa.collect.native.binaries import Binaries, Binary
from culpa.collect.native.cfi import Frame
from culpa.collect.native.maps import MAX_BYTES, Mapping, Mappings
from culpa.collect.native.perfmap import PerfMap, read_on, script_function
from culpa.collect.native.unwind import MACHINES, Machine, Snapshot, Step, Surroundings, unwind
from culpa.collect.procfs import parse_status, read_bounded, read_link

REFRESH_SECONDS: Final = 0.5
MAP_COST: Final = 20
RUNTIMES: Final = re.compile(
    r"(python|pypy|perl|ruby|php|php-fpm|php-cgi|lua|luajit|tclsh|node|nodejs|bun|deno|java|dotnet|mono|beam\.smp|"
    r"erl|Rscript|R|guile|bash|dash|sh|zsh|ksh|fish|busybox|gawk|mawk|awk)[\d.]*t?(-\d[\d.]*)?"
)
"""Programs that run other programs: their own functions say nothing about those."""
_SYSTEM: Final = re.compile(r"/(usr|lib|lib32|lib64|libx32|bin|sbin|nix/store|gnu/store|snap)/")
_PACKAGES: Final = re.compile(r"/(site|dist)-packages/|/node_modules/")
_STANDARD: Final = re.compile(r"<?(std|__gnu_cxx|__cxxabiv1|core|alloc)::")
"""Libraries whose functions are compiled into the program: C++ templates, Rust."""
_GO_STANDARD: Final = re.compile(r"(?!main\.)[^./]+(/[^.]*)?\.")
"""Packages of Go's own have no dot in the first part of their path."""
_INTERPRETER: Final = re.compile(r"(^Builtins_|^Builtin:)(InterpreterEntryTrampoline|InterpreterPushArgs)")
Kind = Literal["symbols", "lines", "jit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A frame's function (None: not known), the file it is in, and the line in that where it is known."""

    function: str | None
    path: str
    line: int | None
    library: bool
    source: Kind


class ProcessCode:
    """The code of one process, read as addresses turn up."""

    def __init__(self, pid: int, binaries: Binaries, proc_root: Path) -> None:
        self.folder = proc_root / str(pid)
        self._folder = str(self.folder)
        self._binaries = binaries
        exe = read_link(f"{self._folder}/exe") or ""
        self._exe = exe.removesuffix(" (deleted)")
        found = RUNTIMES.fullmatch(Path(self._exe).name)
        self.runtime = found[1] if found else None
        self._mappings = Mappings(read_bounded(f"{self._folder}/maps", MAX_BYTES) or b"")
        self._refreshed = time.monotonic()
        self._map: PerfMap | None = None
        self._map_due = 0.0
        self._places: dict[int, Place] = {}
        self.around = Surroundings(frame_at=self._frame, is_code=self._is_code, follows_call=self._follows_call)

    def frames(self, machine: Machine, snapshot: Snapshot, *, in_call: bool) -> list[Place]:
        """The frames of one of its threads, innermost first; they end where the chain cannot be followed."""
        steps = unwind(machine, snapshot, self.around, in_call=in_call)
        return [self._interpreted(self._place(step), step) for step in steps]

    @property
    def has_map(self) -> bool:
        """Whether it told what its compiled code is."""
        return self._map is not None

    def _mapping(self, address: int) -> Mapping | None:
        found = self._mappings.at(address)
        if found is None and time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            fresh = Mappings(read_bounded(f"{self._folder}/maps", MAX_BYTES) or b"")
            if len(fresh):
                self._mappings = fresh
                self._places.clear()
                found = fresh.at(address)
        return found

    def _is_code(self, address: int) -> bool:
        return self._mapping(address) is not None

    def _at(self, address: int) -> tuple[Mapping, Binary | None, int]:
        """The mapping of an address that lies in one, its file, and the address as that file counts."""
        mapping = self._mapping(address)
        assert mapping is not None
        if mapping.path == "[vdso]":
            return mapping, self._binaries.vdso(), address - mapping.start
        binary = self._binaries.of(mapping, self._folder) if mapping.of_file else None
        inner = binary.elf.address_of(address - mapping.start + mapping.offset) if binary else None
        return mapping, binary if inner is not None else None, inner or 0

    def _frame(self, address: int) -> Frame | None:
        if self._mapping(address) is None:
            return None
        _, binary, inner = self._at(address)
        return binary.frames.at(inner) if binary is not None else None

    def _follows_call(self, address: int) -> bool:
        mapping, binary, _ = self._at(address - 1)
        if binary is None:
            return self._jit(address - 1) is not None
        before = binary.elf.source.read(address - mapping.start + mapping.offset - 7, 7)
        return len(before) == 7 and _ends_in_call(before, binary.elf.machine)

    def _interpreted(self, place: Place, step: Step) -> Place:
        """The function that an interpreter's frame runs, in place of the interpreter: known or not, it is not this."""
        if self.runtime is None or place.function is None or not _INTERPRETER.search(place.function):
            return place
        self._read_map()
        entry = self._map.interpreted(step.locals) if self._map is not None else None
        script = _of_script(entry.name) if entry is not None else None
        return script or Place(function=None, path=place.path, line=None, library=False, source="jit")

    def _place(self, step: Step) -> Place:
        address = step.inside
        if address not in self._places:
            self._places[address] = self._looked_up(address)
        return self._places[address]

    def _looked_up(self, address: int) -> Place:
        if not self._is_code(address):  # the list was read anew meanwhile, and what lay there is gone
            return Place(function=None, path="[memory]", line=None, library=False, source="jit")
        mapping, binary, inner = self._at(address)
        if binary is None:
            return self._jit(address) or Place(
                function=None, path=mapping.path or "[memory]", line=None,
                library=self.runtime is not None and mapping.of_file, source="jit",
            )  # fmt: skip
        symbol = binary.symbol(inner)
        told = self._jit(address) if symbol is None and self.runtime is not None else None
        if told is not None:
            return told
        function = names.plain(symbol.name) if symbol is not None else None
        library = self._is_library(mapping, binary, inner, function)
        line = None if library else binary.line(inner)
        if line is None or _SYSTEM.match(line.path):  # a header's line, inlined: true, and of no use
            return Place(function=function, path=mapping.path, line=None, library=library, source="symbols")
        return Place(function=function, path=line.path, line=line.line, library=library, source="lines")

    def _is_library(self, mapping: Mapping, binary: Binary, address: int, function: str | None) -> bool:
        path = mapping.path
        if path != self._exe:
            return _SYSTEM.match(path) is not None or _PACKAGES.search(path) is not None or not path.startswith("/")
        if self.runtime is not None or binary.in_stub(address) or function in ("_start", "_init", "_fini"):
            return True
        if function is None:
            return False
        if ".gopclntab" in binary.elf.sections:
            return _GO_STANDARD.match(function) is not None
        static = not binary.elf.has_interpreter
        libc = static and (function.startswith("__") or function in self._binaries.libc_names())
        return libc or _STANDARD.match(function) is not None

    def _jit(self, address: int) -> Place | None:
        """What the process's own map of compiled code says."""
        self._read_map()
        entry = self._map.at(address) if self._map is not None else None
        if entry is None:
            return None
        name = names.plain(entry.name)
        compiled = Place(function=name, path="[compiled code]", line=None, library=True, source="jit")
        return _of_script(entry.name) or compiled

    def _read_map(self) -> None:
        """Read on in the map, which grows; seldom enough that it costs at most a twentieth of the time."""
        began = time.monotonic()
        if began < self._map_due:
            return
        status = parse_status(read_bounded(f"{self._folder}/status") or b"")
        inner = status.ns_pids[-1] if status is not None and status.ns_pids else Path(self._folder).name
        with suppress(OSError):  # the process has ended
            owner = Path(self._folder).stat().st_uid
            known = self._map or PerfMap()
            before = known.bytes
            self._map = read_on(f"{self._folder}/root/tmp/perf-{inner}.map", owner, known)
            if self._map is not None and (self._map is not known or self._map.bytes != before):
                self._places.clear()
        ended = time.monotonic()
        self._map_due = ended + max(REFRESH_SECONDS, MAP_COST * (ended - began))


def _of_script(name: str) -> Place | None:
    script = script_function(name)
    if script is None:
        return None
    own = script.path.startswith("/") and _PACKAGES.search(script.path) is None
    return Place(function=script.function, path=script.path, line=script.line, library=not own, source="jit")


def _ends_in_call(code: bytes, machine: int) -> bool:
    """Whether the bytes before a return address end in a call: x86's E8 and FF /2, arm64's BL and BLR."""
    if machine not in MACHINES:
        return False
    if MACHINES[machine].link is not None:
        word = int.from_bytes(code[-4:], "little")
        return word >> 26 == 0x25 or word & 0xFFFFFC1F == 0xD63F0000
    indirect = any(code[-size] == 0xFF and code[1 - size] >> 3 & 7 == 2 for size in (2, 3, 4, 6, 7))
    return code[-5] == 0xE8 or indirect
