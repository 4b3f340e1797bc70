"""From user registers and a slice of the stack to the chain of return addresses.

Each step asks the file that the address lies in for its call frame information. Where there is none (code made at run
time, some programs) the step goes by the frame pointer, and is believed only if what it finds looks like a frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from culpa.collect.native.cfi import Frame

MAX_FRAMES: Final = 64
MAX_LOCALS: Final = 8
_WORD: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The registers of an architecture: the DWARF number of each in the order of its user ABI, and the special ones.

    `link` is the register that holds the return address of a function that has not saved it yet.
    """

    columns: tuple[int | None, ...]
    pc: int
    sp: int
    fp: int
    link: int | None
    mask: int


MACHINES: Final = {
    # struct pt_regs of x86 is r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss.
    62: Machine(
        columns=(15, 14, 13, 12, 6, 3, 11, 10, 9, 8, 0, 2, 1, 4, 5, None, 16, None, None, 7),
        pc=16,
        sp=7,
        fp=6,
        link=None,
        mask=(1 << 64) - 1,
    ),
    # struct user_pt_regs of arm64 is x0 .. x30 sp pc pstate; pointers may be signed in their upper bits.
    183: Machine(columns=tuple(range(33)), pc=32, sp=31, fp=29, link=30, mask=(1 << 48) - 1),
}
"""By e_machine of the ELF files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Registers in the order of the user ABI, None where not known, and the memory from the stack pointer on."""

    registers: Sequence[int | None]
    stack: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One frame: its address, and whether that is where the thread stopped (else the place a call returns to)."""

    address: int
    exact: bool
    locals: tuple[int, ...]
    """The words below the frame pointer, nearest first; none where the frame's rules are known from its file."""

    @property
    def inside(self) -> int:
        """An address within the instruction: a call may be the last one of its function."""
        return self.address if self.exact else self.address - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is known of the process: the frame information at an address, what is code, what follows a call."""

    frame_at: Callable[[int], Frame | None]
    is_code: Callable[[int], bool]
    follows_call: Callable[[int], bool]


def unwind(machine: Machine, snapshot: Snapshot, around: Surroundings, *, in_call: bool) -> list[Step]:
    """The frames of a thread, innermost first; the chain ends where the next step would be a guess.

    Args:
        in_call: it was in a system call: its address is the one after the call's instruction.
    """
    registers = _named(machine, snapshot.registers)
    base = registers.get(machine.sp, 0)
    steps: list[Step] = []
    exact = not in_call
    while len(steps) < MAX_FRAMES:
        address = registers.pop(machine.pc, 0) & machine.mask
        if not address or not around.is_code(address - (not exact)):
            break
        frame = around.frame_at(address - (not exact))
        stack = _Stack(snapshot.stack, base)
        steps.append(Step(address=address, exact=exact, locals=_locals(machine, registers, stack) if not frame else ()))
        if frame is None:
            found = _from_top(machine, registers, stack, around) if exact and len(steps) == 1 else None
            found = found or _by_frame_pointer(machine, registers, stack, around)
        else:
            found = _by_rules(machine, frame, registers, stack, innermost=len(steps) == 1)
        if found is None or found[machine.sp] <= registers[machine.sp] - (len(steps) == 1):
            break
        registers, exact = found, frame is not None and frame.signal
    return steps


def _named(machine: Machine, registers: Sequence[int | None]) -> dict[int, int]:
    places = zip(machine.columns, registers, strict=False)
    return {column: value for column, value in places if column is not None and value is not None}


@dataclass(frozen=True, slots=True)
class _Stack:
    content: bytes
    base: int

    def word(self, address: int) -> int | None:
        place = address - self.base
        if not 0 <= place <= len(self.content) - 8:
            return None
        return int(_WORD.unpack_from(self.content, place)[0])


def _by_rules(
    machine: Machine, frame: Frame, registers: dict[int, int], stack: _Stack, *, innermost: bool
) -> dict[int, int] | None:
    base = registers.get(frame.base)
    if base is None or frame.ra in frame.lost:
        return None
    canonical = (base + frame.offset) & ((1 << 64) - 1)
    found = {number: value for number, value in registers.items() if number not in frame.lost}
    for number, distance in frame.saved.items():
        value = stack.word(canonical + distance)
        found.pop(number, None)
        if value is not None:
            found[number] = value
    ra = found.pop(frame.ra, None) if frame.ra in frame.saved else registers.get(frame.ra) if innermost else None
    if ra is None:
        return None
    return found | {machine.sp: canonical, machine.pc: ra}


def _from_top(
    machine: Machine, registers: dict[int, int], stack: _Stack, around: Surroundings
) -> dict[int, int] | None:
    """A function without a frame of its own (yet): its return address is what lies on top of the stack, or in `link`.

    Going by the frame pointer would leave its caller out.
    """
    pointer = registers[machine.sp]
    ra = stack.word(pointer) if machine.link is None else registers.get(machine.link)
    if ra is None or not around.is_code((ra & machine.mask) - 1) or not around.follows_call(ra & machine.mask):
        return None
    return registers | {machine.pc: ra & machine.mask, machine.sp: pointer + 8 * (machine.link is None)}


def _locals(machine: Machine, registers: dict[int, int], stack: _Stack) -> tuple[int, ...]:
    pointer = registers.get(machine.fp, 0)
    words = (stack.word(pointer - 8 * place) for place in range(1, MAX_LOCALS + 1))
    return tuple(word for word in words if word is not None)


def _by_frame_pointer(
    machine: Machine, registers: dict[int, int], stack: _Stack, around: Surroundings
) -> dict[int, int] | None:
    """The frame pointer of the caller lies where this one points, the return address beside it."""
    pointer = registers.get(machine.fp)
    if pointer is None or pointer % 8 or pointer < registers[machine.sp]:
        return None
    above, ra = stack.word(pointer), stack.word(pointer + 8)
    if above is None or ra is None or above <= pointer:
        return None
    ra &= machine.mask
    if not around.is_code(ra - 1) or not around.follows_call(ra):
        return None
    return {machine.fp: above, machine.pc: ra, machine.sp: pointer + 16}
