"""Files of code, opened once however many processes run them."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from culpa.collect.native.cfi import CallFrames
from culpa.collect.native.elf import Elf, NotElf, Source, Symbol, open_regular
from culpa.collect.native.lines import Lines, Place
from culpa.collect.native.maps import Mapping, Mappings
from culpa.collect.procfs import read_bounded

MAX_FILES: Final = 256
MAX_VDSO_BYTES: Final = 1 << 16
_LIBC: Final = re.compile(r"/(libc[.-]|ld-musl-)[^/]*$")
DEBUG_FOLDER: Final = "usr/lib/debug/.build-id"


class Binary:
    """One file of code: its frames, its symbols (its own, packed ones, or a separate file's) and its lines."""

    def __init__(self, elf: Elf, debug: Elf | None) -> None:
        self.elf = elf
        self.frames = CallFrames(elf)
        self._debug = debug
        self._packed: Elf | None = None
        self._unpacked = False
        self._lines: Lines | None = None
        self._symbols: dict[int, Symbol | None] = {}

    def symbol(self, address: int) -> Symbol | None:
        """The function at an address. One whose size is not told must begin where the frame information does."""
        if address not in self._symbols:
            self._symbols[address] = self._look_up(address)
        return self._symbols[address]

    def line(self, address: int) -> Place | None:
        """The source line at an address."""
        if self._lines is None:
            described = next(
                (elf for elf in (self.elf, self._debug) if elf and ".debug_line" in elf.sections), self.elf
            )
            self._lines = Lines(described)
        return self._lines.at(address)

    def in_stub(self, address: int) -> bool:
        """Whether an address lies in one of the stubs through which calls to other files go."""
        stubs = (section for name, section in self.elf.sections.items() if name.startswith(".plt"))
        return any(section.address <= address < section.address + section.size for section in stubs)

    def _look_up(self, address: int) -> Symbol | None:
        if not self._unpacked and ".symtab" not in self.elf.sections and self._debug is None:
            self._packed, self._unpacked = self.elf.embedded(), True
        for elf in (self._debug, self._packed, self.elf):
            found = elf.symbol(address) if elf is not None else None
            if found is not None and found.name and self._sure(found, address):
                return found
        return None

    def _sure(self, symbol: Symbol, address: int) -> bool:
        if symbol.size:
            return True
        frame = self.frames.at(address)
        return frame is not None and frame.start == symbol.start


class Binaries:
    """The files opened so far, by what the file system calls them, so that a replaced file is another one."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], Binary | None] = {}
        self._vdso: Binary | None = None
        self._libc_names: frozenset[str] | None = None

    def of(self, mapping: Mapping, process: str) -> Binary | None:
        """The file behind a mapping of a process (`process` is its /proc folder); None where it cannot be read.

        map_files leads to the very file that is mapped, also when it was deleted or replaced; where that needs more
        rights than there are, the path within the process's own root is taken, if it is the same inode; where the
        process has ended, this host's, if the device is the same too.
        """
        for path in (f"{process}/map_files/{mapping.range_name}", f"{process}/root{mapping.path}", mapping.path):
            with suppress(OSError, ValueError):  # gone, refused, or no name that can be opened: the next one
                status = Path(path).stat()
                if status.st_ino != mapping.inode or (path == mapping.path and status.st_dev != mapping.dev):
                    continue
                key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                if key not in self._known:
                    if len(self._known) >= MAX_FILES:
                        return None
                    self._known[key] = _opened(path, process)
                return self._known[key]
        return None

    def vdso(self) -> Binary | None:
        """The code that the kernel puts into every process, read from this one."""
        if self._vdso is None:
            own = next((mapping for mapping in _own_mappings() if mapping.path == "[vdso]"), None)
            self._vdso = _from_memory(own) if own is not None else None
        return self._vdso

    def libc_names(self) -> frozenset[str]:
        """What the C library calls its functions: in a program linked with it statically they are not its own."""
        if self._libc_names is None:
            path = next((mapping for mapping in _own_mappings() if _LIBC.search(mapping.path)), None)
            libc = self.of(path, "/proc/self") if path is not None else None
            self._libc_names = libc.elf.names() if libc is not None else frozenset()
        return self._libc_names

    def close(self) -> None:
        """Close all files."""
        for binary in self._known.values():
            if binary is not None:
                binary.elf.source.close()
        self._known.clear()


def _own_mappings() -> Mappings:
    return Mappings(read_bounded("/proc/self/maps") or b"")


def _from_memory(mapping: Mapping) -> Binary | None:
    try:
        with Path("/proc/self/mem").open("rb") as memory:
            memory.seek(mapping.start)
            return Binary(Elf(Source(memory.read(min(mapping.end - mapping.start, MAX_VDSO_BYTES)))), None)
    except (OSError, NotElf):
        return None


def _opened(path: str, process: str) -> Binary | None:
    source = open_regular(path)
    if source is None:
        return None
    try:
        elf = Elf(source)
    except NotElf:
        source.close()
        return None
    return Binary(elf, _debug_file(elf, process))


def _debug_file(elf: Elf, process: str) -> Elf | None:
    """The symbols that a distribution keeps in a file of its own, beside the process or on this host."""
    build_id = elf.build_id()
    if not build_id or ".symtab" in elf.sections:
        return None
    for root in (f"{process}/root/", "/"):
        source = open_regular(f"{root}{DEBUG_FOLDER}/{build_id[:2]}/{build_id[2:]}.debug")
        if source is None:
            continue
        with suppress(NotElf):  # what lies there under that name is not what it says
            debug = Elf(source)
            if debug.build_id() == build_id:
                return debug
        source.close()
    return None
