"""What no tracer on these tracepoints can go below: the same redis-server with programs attached that do nothing.

Each program is two instructions, `return 0`; what it adds to a request is the kernel's own price of the tracepoints:
the slow path of every system call while any sys_enter or sys_exit is traced, and the call into the program. The arms
rotate as in target_cost.py, and the untraced server is measured twice to tell how far the machine wanders by itself.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from measure import Effort, Row
from stand import BenchError, Load, Server, Stretch, redis_server
from target_cost import CASES, bounds, case_name, compared, cpu_losses, rounds

from culpa.collect.trace.libbpf import open_library
from culpa.collect.trace.tracer import usable

RAW_TRACEPOINT: Final = 17
"""BPF_PROG_TYPE_RAW_TRACEPOINT, include/uapi/linux/bpf.h."""
RETURN_ZERO: Final = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
"""`r0 = 0; exit`."""
ARMS: Final[dict[str, tuple[str, ...]]] = {
    "empty sys_exit": ("sys_exit",),
    "empty sys_enter and sys_exit": ("sys_enter", "sys_exit"),
    "empty sched_switch and sched_waking": ("sched_switch", "sched_waking"),
    "empty sys_* and sched_*": ("sys_enter", "sys_exit", "sched_switch", "sched_waking"),
}


@contextmanager
def attached(tracepoints: Sequence[str]) -> Iterator[None]:
    """A program that does nothing on each of these tracepoints; gone with its descriptor.

    Raises:
        BenchError: the kernel refuses one.
    """
    library = open_library()
    with ExitStack() as stack:
        for name in tracepoints:
            program = _load(library)
            stack.callback(os.close, program)
            link = library.bpf_raw_tracepoint_open(name.encode(), program)
            if link < 0:
                raise BenchError(f"cannot attach an empty program to {name}: {os.strerror(-link)}")
            stack.callback(os.close, link)
        yield


def _load(library: ctypes.CDLL) -> int:
    code, size = RETURN_ZERO, ctypes.c_size_t(len(RETURN_ZERO) // 8)
    program = int(library.bpf_prog_load(RAW_TRACEPOINT, b"nothing", b"GPL", code, size, None))
    if program < 0:
        raise BenchError(f"cannot load an empty program: {os.strerror(-program)}")
    return program


def measure(effort: Effort) -> Iterator[Row]:
    """All cases, one after the other."""
    problem = usable()
    if problem is not None:
        yield Row(name=f"floor of tracing (not measured: {problem})", value=None, unit="% more")
        return
    with redis_server() as server:
        for command, clients in CASES:
            yield from _case(server, command, clients, effort)


def _case(server: Server, command: str, clients: int, effort: Effort) -> Iterator[Row]:
    seconds, count = effort.choose(0.4, 0.2), effort.times(16, 3)
    with server.loader(command, clients) as load:
        names: dict[str, tuple[str, ...]] = {"untraced": (), **ARMS, "again": ()}
        arms: dict[str, Callable[[], Stretch]] = {
            name: partial(_stretch, load, seconds, tracepoints) for name, tracepoints in names.items()
        }
        found = rounds(load, arms, count)
    base = found.pop("untraced")
    for arm, stretches in found.items():
        what = f"{case_name(command, clients)}, {arm if arm in ARMS else 'untraced again'}"
        yield from compared(what, stretches, base)
        yield from bounds(what, cpu_losses(stretches, base))


def _stretch(load: Load, seconds: float, tracepoints: Sequence[str]) -> Stretch:
    with attached(tracepoints):
        return load.stretch(seconds)
