"""How fast drained ring memory becomes events, and events become columns of the capture, per second of CPU."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from measure import Effort, Goal, Row, at_least, median_row

from culpa.collect.trace import events, tables
from culpa.collect.trace.lanes import Lanes
from culpa.collect.trace.ring import Records, Ring, record_dtype

MIN_EVENTS_PER_SECOND: Final = 5e6
MEMORY_BYTES: Final = 1 << 24
GET: Final = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:__rand_int__\r\n"
WRITE_NR: Final = 1
SOCKET_MODE: Final = 0o140777

Fill = Callable[[Records], None]


class FilledRing:
    """Ring memory in a file, laid out as the kernel does, full of finished records; `refill` makes it full again."""

    def __init__(self, event: np.dtype[np.void], fill: Fill) -> None:
        record = record_dtype(event)
        made = np.zeros(MEMORY_BYTES // record.itemsize, dtype=record)
        made["head"] = event.itemsize
        fill(made["event"])
        self._bytes = made.nbytes
        self._fd = os.memfd_create("culpa-bench-ring")
        os.ftruncate(self._fd, 2 * mmap.PAGESIZE + 2 * MEMORY_BYTES)
        os.pwrite(self._fd, made.tobytes(), 2 * mmap.PAGESIZE)
        self._ring = Ring(self._fd, MEMORY_BYTES, event)

    def refill(self) -> None:
        """Set the positions so that every record waits to be read."""
        os.pwrite(self._fd, bytes(8), 0)
        os.pwrite(self._fd, self._bytes.to_bytes(8, "little"), mmap.PAGESIZE)

    def drain(self, take: Callable[[Records], None]) -> int:
        """Everything that waits."""
        return self._ring.drain(take)

    def close(self) -> None:
        """Free it."""
        self._ring.close()
        os.close(self._fd)


class FilledLane:
    """One CPU's lane in files, full of finished records."""

    def __init__(self, event: np.dtype[np.void], fill: Fill) -> None:
        slots = 1 << (MEMORY_BYTES // event.itemsize).bit_length() - 1
        made = np.zeros(slots, dtype=event)
        fill(made)
        made["position"] = np.arange(1, slots + 1)
        self._files = (os.memfd_create("culpa-bench-lane"), os.memfd_create("culpa-bench-slots"))
        os.ftruncate(self._files[0], -(-events.LANE.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE)
        os.ftruncate(self._files[1], -(-made.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE)
        os.pwrite(self._files[1], made.tobytes(), 0)
        self._full = np.zeros(1, dtype=events.LANE)
        self._full["head"] = slots
        self._lanes = Lanes(*self._files, cpus=1, slots=slots, event=event)

    def refill(self) -> None:
        """Set the positions so that every record waits to be read."""
        os.pwrite(self._files[0], self._full.tobytes(), 0)

    def drain(self, take: Callable[[Records], None]) -> int:
        """Everything that waits."""
        return self._lanes.drain(take)

    def close(self) -> None:
        """Free it."""
        self._lanes.close()
        for file in self._files:
            os.close(file)


def _calls(made: Records) -> None:
    made["enter_ns"] = np.arange(len(made)) * 1000 + 1
    made["exit_ns"] = made["enter_ns"] + 500
    made["nr"], made["tid"], made["pid"], made["dev"], made["ino"], made["mode"] = WRITE_NR, 7, 7, 8, 99, SOCKET_MODE


def _switches(made: Records) -> None:
    made["off_ns"] = np.arange(len(made)) * 1000 + 1
    made["wake_ns"], made["on_ns"] = made["off_ns"] + 400, made["off_ns"] + 500
    made["state"], made["tid"], made["pid"], made["stack_id"] = 1, 7, 7, -1


def _messages(made: Records) -> None:
    made["enter_ns"] = np.arange(len(made)) * 1000 + 1
    made["exit_ns"], made["bytes"], made["captured"] = made["enter_ns"] + 500, len(GET), len(GET)
    made["payload"][:, : len(GET)] = np.frombuffer(GET, dtype=np.uint8)


def _rate(memory: FilledRing | FilledLane, take: Callable[[Records], object]) -> float:
    """Events a second of this thread's CPU."""
    memory.refill()
    made: list[object] = []
    began = time.process_time_ns()
    count = memory.drain(lambda found: made.append(take(found)))
    return count / (time.process_time_ns() - began) * 1e9


_KINDS: Final = (
    ("syscalls", FilledLane, events.SYSCALL_EVENT, _calls, lambda found: tables.syscalls(found.copy(), 0)),
    ("off-CPU", FilledLane, events.OFFCPU_EVENT, _switches, lambda found: tables.offcpu(found.copy(), wakes_seen=True)),
    ("messages", FilledRing, events.MESSAGE_EVENT, _messages, tables.messages),
)


def measure(effort: Effort) -> Iterator[Row]:
    """Drained memory to numpy copies, which has the goal, and to columns, which follows it while the trace runs."""
    repeats = effort.times(15, 5)
    for name, kind, event, fill, convert in _KINDS:
        memory = kind(event, fill)
        try:
            copying = [_rate(memory, lambda found: found.copy()) for _ in range(repeats)]
            converting = [_rate(memory, convert) for _ in range(repeats)]
        finally:
            memory.close()
        goal: Goal | None = at_least(MIN_EVENTS_PER_SECOND) if name != "messages" else None
        yield median_row(f"decode {name}: memory to events", copying, "1/s/core", goal)
        yield median_row(f"decode {name}: memory to columns of the capture", converting, "1/s/core")
