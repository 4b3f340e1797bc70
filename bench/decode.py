"""How fast drained ring memory becomes events, and events become columns of the capture, per second of CPU."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt
from measure import Effort, Goal, Row, at_least, median_row

from culpa.collect.trace import events, tables
from culpa.collect.trace.ring import Records, Ring, record_dtype

MIN_EVENTS_PER_SECOND: Final = 5e6
RING_BYTES: Final = 1 << 24
GET: Final = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:__rand_int__\r\n"
WRITE_NR: Final = 1
SOCKET_MODE: Final = 0o140777


class FilledRing:
    """Ring memory in a file, laid out as the kernel does, full of finished records; `refill` makes it full again."""

    def __init__(self, made: npt.NDArray[np.void], event: np.dtype[np.void]) -> None:
        self._bytes = made.nbytes
        self._fd = os.memfd_create("culpa-bench-ring")
        os.ftruncate(self._fd, 2 * mmap.PAGESIZE + 2 * RING_BYTES)
        os.pwrite(self._fd, made.tobytes(), 2 * mmap.PAGESIZE)
        self.ring = Ring(self._fd, RING_BYTES, event)

    def refill(self) -> None:
        """Set the positions so that every record waits to be read."""
        os.pwrite(self._fd, bytes(8), 0)
        os.pwrite(self._fd, self._bytes.to_bytes(8, "little"), mmap.PAGESIZE)

    def close(self) -> None:
        """Free it."""
        self.ring.close()
        os.close(self._fd)


@contextmanager
def filled(event: np.dtype[np.void], fill: Callable[[Records], None]) -> Iterator[FilledRing]:
    """A ring of such events, as many as it holds."""
    record = record_dtype(event)
    made = np.zeros(RING_BYTES // record.itemsize, dtype=record)
    made["head"] = event.itemsize
    fill(made["event"])
    found = FilledRing(made, event)
    try:
        yield found
    finally:
        found.close()


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


def _rate(memory: FilledRing, take: Callable[[Records], object]) -> float:
    """Events a second of this thread's CPU."""
    memory.refill()
    made: list[object] = []
    began = time.process_time_ns()
    count = memory.ring.drain(lambda found: made.append(take(found)))
    return count / (time.process_time_ns() - began) * 1e9


_KINDS: Final = (
    ("syscalls", events.SYSCALL_EVENT, _calls, lambda found: tables.syscalls(found.copy(), 0)),
    ("off-CPU", events.OFFCPU_EVENT, _switches, lambda found: tables.offcpu(found.copy(), wakes_seen=True)),
    ("messages", events.MESSAGE_EVENT, _messages, tables.messages),
)


def measure(effort: Effort) -> Iterator[Row]:
    """Ring to numpy copies, which has the goal, and ring to columns, which follows it while the trace runs."""
    repeats = effort.times(15, 5)
    for name, event, fill, convert in _KINDS:
        with filled(event, fill) as memory:
            copying = [_rate(memory, lambda found: found.copy()) for _ in range(repeats)]
            converting = [_rate(memory, convert) for _ in range(repeats)]
        goal: Goal | None = at_least(MIN_EVENTS_PER_SECOND) if name != "messages" else None
        yield median_row(f"decode {name}: ring to events", copying, "1/s/core", goal)
        yield median_row(f"decode {name}: ring to columns of the capture", converting, "1/s/core")
