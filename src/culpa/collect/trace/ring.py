"""BPF ring buffer memory as numpy views: no copy and no call per event.

Layout as in kernel/bpf/ringbuf.c: one writable page with the consumer's position, one read-only page with the
producer's, then the data, mapped twice in a row so that a record never wraps. Each record has an 8-byte header: its
length with a busy bit and a discard bit, and a page offset. As every ring here carries one record size, the stretch
between the two positions is one strided array.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import numpy as np
import numpy.typing as npt

BUSY = np.uint32(1 << 31)
DISCARDED = np.uint32(1 << 30)
HEADER_BYTES = 8

Records = npt.NDArray[np.void]


def record_dtype(event: np.dtype[np.void]) -> np.dtype[np.void]:
    """Header and event as they lie in the ring, padded to a multiple of 8."""
    size = HEADER_BYTES + (event.itemsize + 7) // 8 * 8
    return np.dtype(
        {"names": ["head", "event"], "formats": ["<u4", event], "offsets": [0, HEADER_BYTES], "itemsize": size}
    )


def finished(records: Records) -> tuple[Records, int]:
    """The events of the leading records that no producer is still writing.

    Args:
        records: `record_dtype` rows, oldest first.

    Returns:
        A view (or, if some were discarded, a copy) of their events, and how many records these and the discarded were.
    """
    heads = records["head"]
    busy = np.flatnonzero(heads & BUSY)
    count = int(busy[0]) if busy.size else len(heads)
    kept = (heads[:count] & DISCARDED) == 0
    events = records["event"][:count]
    return (events if kept.all() else events[kept]), count


class Ring:
    """One ring buffer, mapped; `drain` hands each finished stretch to a function and then frees it."""

    def __init__(self, map_fd: int, size: int, event: np.dtype[np.void]) -> None:
        """Map the ring behind `map_fd`, whose data part has `size` bytes.

        Raises:
            OSError: the kernel refuses the mapping.
        """
        page = mmap.PAGESIZE
        self._record = record_dtype(event)
        self._size = size
        self._barrier = threading.Lock()
        self._consumer_map = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        try:
            self._producer_map = mmap.mmap(map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        except OSError:
            self._consumer_map.close()
            raise
        self._consumer = np.frombuffer(self._consumer_map, dtype="<u8", count=1)
        self._producer = np.frombuffer(self._producer_map, dtype="<u8", count=1)
        self._data = np.frombuffer(self._producer_map, dtype=np.uint8, offset=page)

    def pending(self) -> int:
        """Records not drained yet, as of now."""
        return (int(self._producer[0]) - int(self._consumer[0])) // self._record.itemsize

    def fill(self) -> float:
        """The part of the ring in use, 0..1."""
        return (int(self._producer[0]) - int(self._consumer[0])) / self._size

    def drain(self, take: Callable[[Records], None]) -> int:
        """Give `take` a view of the finished events, then hand their memory back to the kernel.

        `take` must copy what it keeps. Returns how many events it was given. If `take` raises, nothing is freed.
        """
        start, count = int(self._consumer[0]), self.pending()
        if count == 0:
            return 0
        self._order()
        at = start & (self._size - 1)
        raw = self._data[at : at + count * self._record.itemsize]
        events, used = finished(raw.view(self._record))
        self._order()
        if len(events):
            take(events)
        self._order()
        self._consumer[0] = start + used * self._record.itemsize
        return len(events)

    def _order(self) -> None:
        """A memory barrier: positions, headers and data must be read, and the position written, in that order."""
        with self._barrier:
            pass

    def close(self) -> None:
        """Unmap; safe to call twice. No view of the ring may be used afterwards."""
        self._consumer = self._producer = np.zeros(1, dtype="<u8")
        self._data = np.zeros(0, dtype=np.uint8)
        for memory in (self._producer_map, self._consumer_map):
            with suppress(BufferError):  # a view lives on in a traceback: unmapped when that goes
                memory.close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
