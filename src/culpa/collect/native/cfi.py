"""Call frame information of one ELF file: from an address to how its caller's registers are found.

Reads `.eh_frame_hdr` (a sorted table) and of `.eh_frame` only the entries asked for. Mirrors the Linux Standard Base's
description of both and section 6.4 of DWARF 5. Expressions, which only stubs and signal frames use, are not followed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from culpa.collect.native.elf import Elf, Section

MAX_HEADER_BYTES: Final = 64 << 20
MAX_ENTRY_BYTES: Final = 1 << 16
MAX_SCANNED_BYTES: Final = 4 << 20
MAX_REMEMBERED: Final = 32
_USUAL_HEADER: Final = b"\x01\x1b\x03\x3b"
"""Version 1; pc-relative, 32-bit signed; a 32-bit count; rows relative to the header, 32-bit signed."""
_ROW: Final = np.dtype([("start", "<i4"), ("entry", "<i4")])
_FORMATS: Final = {0x0: "<Q", 0x2: "<H", 0x3: "<I", 0x4: "<Q", 0xA: "<h", 0xB: "<i", 0xC: "<q"}
_PC_RELATIVE: Final = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """How the frame at one address is left: the caller's stack pointer is register `base` + `offset`.

    `saved` says at which distance from that the caller's registers lie; those in `lost` cannot be told any more. The
    numbers are DWARF's. `signal`: the kernel made this frame, so its caller was interrupted and made no call.
    """

    base: int
    offset: int
    saved: Mapping[int, int]
    lost: frozenset[int]
    ra: int
    signal: bool
    start: int


class _Unknown(Exception):
    """The entry uses what is not followed here, or is broken."""


class CallFrames:
    """The call frame information of one file; answers are kept."""

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._known: dict[int, Frame | None] = {}
        self._header_address = 0
        self._rows: npt.NDArray[np.void] = np.zeros(0, _ROW)
        header, frames = elf.sections.get(".eh_frame_hdr"), elf.sections.get(".eh_frame")
        raw = elf.bytes_of(".eh_frame_hdr", MAX_HEADER_BYTES)
        if frames is None:
            return
        self._shift = frames.offset - frames.address
        if header is None or raw[:4] != _USUAL_HEADER or len(raw) < 12:
            self._rows = self._scanned(frames)
            self._starts = np.ascontiguousarray(self._rows["start"])
            return
        (count,) = struct.unpack_from("<I", raw, 8)
        count = min(count, (len(raw) - 12) // _ROW.itemsize)
        self._rows = np.frombuffer(raw, dtype=_ROW, count=count, offset=12)
        self._starts = np.ascontiguousarray(self._rows["start"])
        self._header_address = header.address

    def at(self, address: int) -> Frame | None:
        """How to leave the frame at an address; None where the file does not say."""
        if address not in self._known:
            if len(self._known) > 100_000:
                self._known.clear()
            try:
                self._known[address] = self._look_up(address)
            except (_Unknown, struct.error, IndexError):
                self._known[address] = None
        return self._known[address]

    def _scanned(self, frames: Section) -> npt.NDArray[np.void]:
        """The table that a file without one (a statically linked program) would have, from a walk over all entries."""
        found: list[tuple[int, int]] = []
        if frames.size > MAX_SCANNED_BYTES:
            return np.zeros(0, _ROW)
        commons: dict[int, _Common] = {}
        address = frames.address
        while address < frames.address + frames.size - 4:
            try:
                fields, length = self._entry(address)
                (back,) = struct.unpack_from("<I", fields.data)
                if back:
                    common = address + 4 - back
                    if common not in commons:
                        commons[common] = self._common(common)
                    found.append((fields.pointer(commons[common].encoding, 4), address))
            except (_Unknown, struct.error, IndexError):
                break
            address += 4 + length
        inside = [row for row in sorted(found) if all(-(1 << 31) <= value < 1 << 31 for value in row)]
        return np.array(inside, dtype=_ROW)

    def _look_up(self, address: int) -> Frame | None:
        if len(self._rows) == 0:
            return None
        place = int(np.searchsorted(self._starts, address - self._header_address, side="right")) - 1
        if place < 0:
            return None
        entry = self._header_address + int(self._rows["entry"][place])
        fields, _ = self._entry(entry)
        (back,) = struct.unpack_from("<I", fields.data)
        common = self._common(entry + 4 - back)
        start = fields.pointer(common.encoding, 4)
        length = fields.pointer(common.encoding & 0xF, None)
        if not start <= address < start + length:
            return None
        if common.augmented:
            skip = fields.unsigned()
            fields.at += skip
        program = _Program(common)
        program.run(common.instructions, common.encoding, None, common.start)
        program.initial = program.state
        program.run(fields, common.encoding, address, start)
        return program.frame(start)

    def _entry(self, address: int) -> tuple[_Bytes, int]:
        offset = address + self._shift
        (length,) = struct.unpack("<I", self._elf.source.read(offset, 4))
        if not 4 <= length <= MAX_ENTRY_BYTES:
            raise _Unknown
        return _Bytes(self._elf.source.read(offset + 4, length), address + 4), length

    def _common(self, address: int) -> _Common:
        fields, _ = self._entry(address)
        fields.at = 4
        version = fields.byte()
        end = fields.data.index(0, fields.at) if 0 in fields.data[fields.at :] else len(fields.data)
        augmentation = fields.data[fields.at : end]
        fields.at = end + 1
        if version not in (1, 3):
            raise _Unknown
        code, data = fields.unsigned(), fields.signed()
        ra = fields.byte() if version == 1 else fields.unsigned()
        encoding = 0
        if augmentation[:1] == b"z":
            size = fields.unsigned()
            end = fields.at + size
            for letter in augmentation[1:]:
                if letter == ord("R"):
                    encoding = fields.byte()
                elif letter == ord("L"):
                    fields.byte()
                elif letter == ord("P"):
                    fields.pointer(fields.byte(), fields.at)
                elif letter not in b"SB":
                    raise _Unknown
            fields.at = end
        elif augmentation:
            raise _Unknown
        return _Common(
            code=code, data=data, ra=ra, encoding=encoding, augmented=augmentation[:1] == b"z",
            signal=b"S" in augmentation, instructions=fields, start=fields.at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """A common information entry: its factors, the column of the return address, its own instructions."""

    code: int
    data: int
    ra: int
    encoding: int
    augmented: bool
    signal: bool
    instructions: _Bytes
    start: int


@dataclass(slots=True)
class _Bytes:
    """A cursor in the bytes of an entry, which lie at `address`."""

    data: bytes
    address: int
    at: int = 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise _Unknown

    def signed(self) -> int:
        begin = self.at
        value = self.unsigned()
        bits = 7 * (self.at - begin)
        return value - (1 << bits) if value >> (bits - 1) else value

    def pointer(self, encoding: int, at: int | None) -> int:
        """A value in one of the encodings of exception headers; `at` is where it stands, if it may be relative."""
        if encoding & 0xF not in _FORMATS or encoding & 0x60:
            raise _Unknown
        if at is not None:
            self.at = at
        shape = _FORMATS[encoding & 0xF]
        (value,) = struct.unpack_from(shape, self.data, self.at)
        relative = self.address + self.at if at is not None and encoding & _PC_RELATIVE else 0
        self.at += struct.calcsize(shape)
        return int(value) + relative


@dataclass(frozen=True, slots=True)
class _State:
    base: int = -1
    offset: int = 0
    saved: Mapping[int, int] = field(default_factory=dict)
    lost: frozenset[int] = frozenset()


class _Program:
    """Runs call frame instructions up to an address."""

    def __init__(self, common: _Common) -> None:
        self._common = common
        self.state = _State()
        self.initial = _State()
        self._remembered: list[_State] = []

    def frame(self, start: int) -> Frame:
        """What holds where the instructions were stopped.

        Raises:
            _Unknown: the caller's stack pointer is an expression.
        """
        state, common = self.state, self._common
        if state.base < 0:
            raise _Unknown
        return Frame(
            base=state.base, offset=state.offset, saved=state.saved, lost=state.lost, ra=common.ra,
            signal=common.signal, start=start,
        )  # fmt: skip

    def run(self, code: _Bytes, encoding: int, until: int | None, start: int) -> None:
        """All instructions, or those for addresses up to `until`; `start` is where they count from.

        A common entry's instructions begin at byte `start`, and are for all addresses.
        """
        location = start
        if until is None:
            code.at = start
        while code.at < len(code.data):
            opcode = code.byte()
            high, low = opcode & 0xC0, opcode & 0x3F
            if high == 0x40:
                location += low * self._common.code
            elif opcode in (0x01, 0x02, 0x03, 0x04):
                location = self._advanced(code, opcode, encoding, location)
            else:
                self._apply(code, high, low)
            if until is not None and location > until:
                return

    def _advanced(self, code: _Bytes, opcode: int, encoding: int, location: int) -> int:
        if opcode == 0x01:
            return code.pointer(encoding, code.at)
        (step,) = struct.unpack_from({2: "<B", 3: "<H", 4: "<I"}[opcode], code.data, code.at)
        code.at += 1 << (opcode - 2)
        return location + int(step) * self._common.code

    def _apply(self, code: _Bytes, high: int, low: int) -> None:
        factor = self._common.data
        if high == 0x80:
            self._save(low, code.unsigned() * factor)
        elif high == 0xC0:
            self._restore(low)
        elif low in (0x05, 0x11, 0x2F):  # offset_extended, offset_extended_sf, GNU_negative_offset_extended
            register = code.unsigned()
            distance = code.signed() if low == 0x11 else code.unsigned()
            self._save(register, -distance * factor if low == 0x2F else distance * factor)
        elif low == 0x06:
            self._restore(code.unsigned())
        elif low in (0x07, 0x08):
            register = code.unsigned()
            self._forget(register) if low == 0x07 else self._keep(register)
        elif low == 0x09:
            self._forget(code.unsigned())
            code.unsigned()
        elif low == 0x0A:
            if len(self._remembered) >= MAX_REMEMBERED:
                raise _Unknown
            self._remembered.append(self.state)
        elif low == 0x0B:
            self.state = self._remembered.pop()
        elif low in (0x0C, 0x12):
            register = code.unsigned()
            offset = code.unsigned() if low == 0x0C else code.signed() * factor
            self.state = replace(self.state, base=register, offset=offset)
        elif low == 0x0D:
            self.state = replace(self.state, base=code.unsigned())
        elif low in (0x0E, 0x13):
            offset = code.unsigned() if low == 0x0E else code.signed() * factor
            self.state = replace(self.state, offset=offset)
        elif low == 0x0F:
            self._skip_expression(code)
            self.state = replace(self.state, base=-1)
        elif low in (0x10, 0x14, 0x15, 0x16):
            self._forget(code.unsigned())
            code.unsigned() if low == 0x14 else code.signed() if low == 0x15 else self._skip_expression(code)
        elif low == 0x2E:
            code.unsigned()
        elif low not in (0x00, 0x2D):
            raise _Unknown

    def _skip_expression(self, code: _Bytes) -> None:
        size = code.unsigned()
        code.at += size

    def _save(self, register: int, distance: int) -> None:
        state = self.state
        self.state = replace(state, saved={**state.saved, register: distance}, lost=state.lost - {register})

    def _keep(self, register: int) -> None:
        state = self.state
        saved = {number: distance for number, distance in state.saved.items() if number != register}
        self.state = replace(state, saved=saved, lost=state.lost - {register})

    def _forget(self, register: int) -> None:
        self._keep(register)
        self.state = replace(self.state, lost=self.state.lost | {register})

    def _restore(self, register: int) -> None:
        if register in self.initial.saved:
            self._save(register, self.initial.saved[register])
        else:
            self._keep(register)
