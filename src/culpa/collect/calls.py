"""System call numbers that the sampler must tell apart while it samples: those on an fd, and those that wait for work.

Numbers from arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. Names are the model's
business; on a machine that is not listed nothing is known, and every sleep counts as idle.
"""

from __future__ import annotations

from dataclasses import dataclass

_X86_64_ON_FD = frozenset(
    {
        0, 1, 3, 5, 8, 16, 17, 18, 19, 20, 40, 42, 43, 44, 45, 46, 47, 48, 72, 73, 74, 75, 77, 78, 187, 217, 221, 232,
        233, 275, 276, 277, 278, 281, 285, 288, 295, 296, 299, 306, 307, 326, 327, 328, 426, 441,
    }
)  # fmt: skip
_X86_64_IDLE = frozenset(
    {7, 23, 34, 35, 43, 61, 70, 128, 130, 202, 208, 219, 220, 230, 232, 247, 270, 271, 281, 288, 426, 441, 449}
)
_GENERIC_ON_FD = frozenset(
    {
        21, 22, 25, 29, 32, 46, 47, 57, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 75, 76, 77, 80, 82, 83, 84, 202,
        203, 206, 207, 210, 211, 212, 213, 223, 242, 243, 267, 269, 285, 286, 287, 426, 441,
    }
)  # fmt: skip
_GENERIC_IDLE = frozenset({4, 22, 72, 73, 95, 98, 101, 115, 128, 133, 137, 188, 192, 202, 242, 260, 426, 441, 449})


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The two classes on one machine. `known` is False where culpa has no numbers for it."""

    known: bool
    on_fd: frozenset[int]
    """The first argument is an fd."""
    idle: frozenset[int]
    """Asleep in it, a thread waits for work, a timer, a child or another thread."""


def calls_of(machine: str) -> Calls:
    """The classes for uname's machine."""
    if machine == "x86_64":
        return Calls(known=True, on_fd=_X86_64_ON_FD, idle=_X86_64_IDLE)
    if machine in {"aarch64", "riscv64", "loongarch64"}:
        return Calls(known=True, on_fd=_GENERIC_ON_FD, idle=_GENERIC_IDLE)
    return Calls(known=False, on_fd=frozenset(), idle=frozenset())
