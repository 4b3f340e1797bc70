"""Source lines of a program that was compiled with them: `.debug_line` of DWARF 2 to 5, through pyelftools."""

from __future__ import annotations

import importlib.util
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from culpa.collect.native.elf import Elf

if TYPE_CHECKING:
    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.dwarfinfo import DWARFInfo

MAX_DEBUG_BYTES: Final = 128 << 20
MAX_UNIT_BYTES: Final = 4 << 20
"""A unit's line program is read whole: about a microsecond a byte."""
MAX_UNITS: Final = 20_000


def readable() -> bool:
    """Whether pyelftools is installed."""
    return importlib.util.find_spec("elftools") is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line of a source file, from 1."""

    path: str
    line: int


class Lines:
    """Address -> line for one file; units are read as they are asked for."""

    def __init__(self, elf: Elf) -> None:
        self._dwarf = _open(elf)
        self._units: dict[int, tuple[list[int], list[Place | None]]] = {}
        self._ranges: list[tuple[int, int, CompileUnit]] | None = None

    def at(self, address: int) -> Place | None:
        """The line that an instruction was made from; None where that is not told."""
        if self._dwarf is None:
            return None
        try:
            return self._look_up(self._dwarf, address)
        except _broken():
            self._dwarf = None
            return None

    def _look_up(self, dwarf: DWARFInfo, address: int) -> Place | None:
        if self._ranges is None:
            self._ranges = list(_unit_ranges(dwarf))
        unit = next((unit for low, high, unit in self._ranges if low <= address < high), None)
        if unit is None:
            return None
        if unit.cu_offset not in self._units:
            self._units[unit.cu_offset] = _table(dwarf, unit)
        starts, places = self._units[unit.cu_offset]
        at = bisect_right(starts, address) - 1
        return places[at] if at >= 0 else None


def _broken() -> tuple[type[Exception], ...]:
    """What pyelftools raises for a file that is not as it should be: it checks little itself."""
    from elftools.common.exceptions import DWARFError, ELFError

    return (
        DWARFError, ELFError, struct.error, ArithmeticError, AssertionError, AttributeError, EOFError, LookupError,
        NotImplementedError, RecursionError, TypeError, ValueError, OSError,
    )  # fmt: skip


def _open(elf: Elf) -> DWARFInfo | None:
    """The debug information of a file, where there is some, and no more than is wholesome."""
    sizes = {name: section.size for name, section in elf.sections.items() if name.startswith(".debug_")}
    packed = any(section.compressed for section in elf.sections.values())
    if not readable() or packed or ".debug_line" not in sizes or sum(sizes.values()) > MAX_DEBUG_BYTES:
        return None
    from elftools.elf.elffile import ELFFile

    descriptor = elf.source.duplicate()
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        try:
            return ELFFile(stream).get_dwarf_info(relocate_dwarf_sections=False, follow_links=False)
        except _broken():
            return None


def _unit_ranges(dwarf: DWARFInfo) -> Iterator[tuple[int, int, CompileUnit]]:
    """The addresses of each unit: its own [low, high), or its list of ranges."""
    from elftools.dwarf.ranges import BaseAddressEntry

    lists = dwarf.range_lists()
    for number, unit in enumerate(dwarf.iter_CUs()):
        if number >= MAX_UNITS:
            return
        attributes = unit.get_top_DIE().attributes
        low = attributes["DW_AT_low_pc"].value if "DW_AT_low_pc" in attributes else 0
        if "DW_AT_ranges" in attributes and lists is not None:
            base = low
            for entry in lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, unit):
                if isinstance(entry, BaseAddressEntry):
                    base = entry.base_address
                    continue
                shift = 0 if getattr(entry, "is_absolute", False) else base
                yield entry.begin_offset + shift, entry.end_offset + shift, unit
        elif "DW_AT_high_pc" in attributes:
            high = attributes["DW_AT_high_pc"]
            yield low, high.value if high.form == "DW_FORM_addr" else low + high.value, unit


def _table(dwarf: DWARFInfo, unit: CompileUnit) -> tuple[list[int], list[Place | None]]:
    """Start addresses, sorted, and the line of each; None ends a sequence."""
    program = dwarf.line_program_for_CU(unit)
    if program is None or program["unit_length"] > MAX_UNIT_BYTES:
        return [], []
    folder = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
    root = _text(folder.value) if folder is not None else "/"
    paths: dict[int, str] = {}
    rows: list[tuple[int, Place | None]] = []
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        if state.file not in paths:
            paths[state.file] = _path(program, state.file, root)
        ended = state.end_sequence or state.line == 0
        rows.append((state.address, None if ended else Place(path=paths[state.file], line=state.line)))
    # At one address the end of a sequence comes before the start of the next.
    rows.sort(key=lambda row: (row[0], row[1] is not None))
    return [address for address, _ in rows], [place for _, place in rows]


def _path(program: object, number: int, root: str) -> str:
    header = program.header  # type: ignore[attr-defined]  # pyelftools has no types
    first = 0 if header.version >= 5 else 1
    file = header.file_entry[number - first]
    folders = [_text(folder) for folder in header.include_directory]
    if header.version < 5:
        folders = [root, *folders]
    folder = folders[file.dir_index] if file.dir_index < len(folders) else root
    return os.path.normpath(PurePosixPath(root) / folder / _text(file.name))[:1000]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
