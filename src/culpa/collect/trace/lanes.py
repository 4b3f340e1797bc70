"""The lanes of the frequent records: memory that the probes fill without a lock, one part a CPU, as numpy views.

Two maps of the kernel, both mapped here: an array of lanes, which say how far each CPU has written and how far this
side has read, and an array of records. bpf/lanes.bpf.c is the other side.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType

import numpy as np
import numpy.typing as npt

from culpa.collect.trace.events import LANE
from culpa.collect.trace.ring import Records


class Lanes:
    """The lanes of one kind of record, mapped; `drain` hands each finished stretch to a function and then frees it."""

    def __init__(self, lanes_fd: int, slots_fd: int, *, cpus: int, slots: int, event: np.dtype[np.void]) -> None:
        """Map both arrays: `cpus` lanes, and `cpus` times `slots` records, `slots` a power of two.

        Raises:
            OSError: the kernel refuses the mapping.
        """
        self._slots = slots
        self._barrier = threading.Lock()
        self._lanes_map = mmap.mmap(lanes_fd, _pages(cpus * LANE.itemsize), mmap.MAP_SHARED)
        try:
            self._slots_map = mmap.mmap(
                slots_fd, _pages(cpus * slots * event.itemsize), mmap.MAP_SHARED, mmap.PROT_READ
            )
        except OSError:
            self._lanes_map.close()
            raise
        lanes = np.frombuffer(self._lanes_map, dtype=LANE, count=cpus)
        self._head, self._tail, self._lost = lanes["head"], lanes["tail"], lanes["lost"]
        self._records = np.frombuffer(self._slots_map, dtype=event, count=cpus * slots).reshape(cpus, slots)

    def pending(self) -> int:
        """Records not drained yet, as of now."""
        return int((self._head - self._tail).sum())

    def fill(self) -> float:
        """The part of the fullest lane in use, 0..1."""
        return float((self._head - self._tail).max()) / self._slots

    def lost(self) -> int:
        """Records that found no room so far."""
        return int(self._lost.sum())

    def drain(self, take: Callable[[Records], None]) -> int:
        """Give `take` views of the finished records, then hand their memory back to the probes.

        `take` must copy what it keeps. Returns how many records it was given. If `take` raises, nothing it was given
        is freed.
        """
        return sum(self._drain_lane(cpu, take) for cpu in range(len(self._head)))

    def _drain_lane(self, cpu: int, take: Callable[[Records], None]) -> int:
        total = 0
        for start, end in self._stretches(int(self._tail[cpu]), int(self._head[cpu])):
            self._order()
            at = start & (self._slots - 1)
            found = finished(self._records[cpu, at : at + end - start], start)
            self._order()
            if len(found):
                take(found)
            self._order()
            self._tail[cpu] = start + len(found)
            total += len(found)
            if len(found) < end - start:
                break
        return total

    def _stretches(self, tail: int, head: int) -> Iterator[tuple[int, int]]:
        """From `tail` to `head`, cut where the lane ends and begins anew."""
        while tail < head:
            end = min(head, (tail & -self._slots) + self._slots)
            yield tail, end
            tail = end

    def _order(self) -> None:
        """A memory barrier: positions and records must be read, and the tail written, in that order."""
        with self._barrier:
            pass

    def close(self) -> None:
        """Unmap; safe to call twice. No view of a record may be used afterwards."""
        self._head = self._tail = self._lost = np.zeros(1, dtype="<u8")
        self._records = self._records[:0].copy()
        for memory in (self._slots_map, self._lanes_map):
            with suppress(BufferError):  # a view lives on in a traceback: unmapped when that goes
                memory.close()

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def finished(records: Records, start: int) -> Records:
    """The leading records that are whole: each carries its place in the stream, the first of them `start` + 1."""
    expected = np.arange(start + 1, start + 1 + len(records)).astype(np.uint32)
    unfinished: npt.NDArray[np.intp] = np.flatnonzero(records["position"] != expected)
    return records[: unfinished[0]] if unfinished.size else records


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
