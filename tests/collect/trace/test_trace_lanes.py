"""The lanes of the frequent records are read right: each CPU apart, across the end, and never beyond a busy record."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from culpa.collect.trace import events
from culpa.collect.trace.lanes import Lanes, finished
from culpa.collect.trace.ring import Records

CPUS, SLOTS = 3, 256
EVENT = events.OFFCPU_EVENT


class Memory:
    """Both arrays in files, as the kernel lays them out; `put` does what a probe on that CPU does."""

    def __init__(self) -> None:
        self.lanes_fd, self.slots_fd = os.memfd_create("lanes"), os.memfd_create("slots")
        os.ftruncate(self.lanes_fd, mmap.PAGESIZE)
        os.ftruncate(self.slots_fd, CPUS * SLOTS * EVENT.itemsize)

    def put(self, cpu: int, first: int, count: int, *, begun: int = 0) -> None:
        """Write records number `first` and on, whose `tid` is their number, and `begun` more that are not whole."""
        for number in range(first, first + count):
            record = np.zeros(1, dtype=EVENT)
            record["position"], record["tid"] = number + 1, number
            os.pwrite(self.slots_fd, record.tobytes(), (cpu * SLOTS + number % SLOTS) * EVENT.itemsize)
        self.set_lane(cpu, 0, first + count + begun)

    def set_lane(self, cpu: int, word: int, value: int) -> None:
        """Set a lane's head (word 0), tail (1) or losses (2)."""
        os.pwrite(self.lanes_fd, value.to_bytes(8, "little"), cpu * events.LANE.itemsize + word * 8)

    def tail(self, cpu: int) -> int:
        """How far a lane was read."""
        return int.from_bytes(os.pread(self.lanes_fd, 8, cpu * events.LANE.itemsize + 8), "little")


@pytest.fixture
def memory() -> Iterator[Memory]:
    """The memory of three lanes, closed afterwards."""
    made = Memory()
    yield made
    os.close(made.lanes_fd)
    os.close(made.slots_fd)


@pytest.fixture
def lanes(memory: Memory) -> Iterator[Lanes]:
    """These lanes, mapped."""
    with Lanes(memory.lanes_fd, memory.slots_fd, cpus=CPUS, slots=SLOTS, event=EVENT) as mapped:
        yield mapped


def drained(lanes: Lanes) -> list[int]:
    """The tids of everything one drain hands out."""
    found: list[int] = []
    lanes.drain(lambda view: found.extend(view["tid"].tolist()))
    return found


def test_every_lane_is_read_once(memory: Memory, lanes: Lanes) -> None:
    """What was drained is handed back, and does not come again."""
    memory.put(0, 0, 10)
    memory.put(2, 0, 3)
    assert lanes.pending() == 13
    assert drained(lanes) == [*range(10), *range(3)]
    assert (memory.tail(0), memory.tail(1), memory.tail(2)) == (10, 0, 3)
    assert drained(lanes) == []


def test_a_lane_goes_on_at_its_beginning(memory: Memory, lanes: Lanes) -> None:
    """Records on both sides of the end come in their order."""
    memory.set_lane(1, 1, 5 * SLOTS - 4)
    memory.put(1, 5 * SLOTS - 4, 9)
    assert drained(lanes) == list(range(5 * SLOTS - 4, 5 * SLOTS + 5))


def test_a_record_that_is_not_whole_stops_its_lane(memory: Memory, lanes: Lanes) -> None:
    """What an earlier round left in its place is not taken for it; the other lanes are read on."""
    memory.put(0, 0, SLOTS)
    assert len(drained(lanes)) == SLOTS
    memory.put(0, SLOTS, 4, begun=2)
    memory.put(1, 0, 1)
    assert drained(lanes) == [*range(SLOTS, SLOTS + 4), 0]
    assert lanes.pending() == 2
    memory.put(0, SLOTS + 4, 2)
    assert drained(lanes) == [SLOTS + 4, SLOTS + 5]


def test_nothing_is_freed_when_the_taker_fails(memory: Memory, lanes: Lanes) -> None:
    """An exception while taking leaves the records where they are."""
    memory.put(0, 0, 3)
    with pytest.raises(ZeroDivisionError):
        lanes.drain(lambda view: print(1 // 0))
    assert drained(lanes) == [0, 1, 2]


def test_losses_and_fill_are_told(memory: Memory, lanes: Lanes) -> None:
    """Losses are the sum over the CPUs, fill is that of the fullest lane."""
    memory.put(0, 0, SLOTS // 2)
    memory.set_lane(0, 2, 5)
    memory.set_lane(2, 2, 7)
    assert lanes.lost() == 12
    assert lanes.fill() == 0.5


def test_positions_wrap_at_32_bits() -> None:
    """The stream may be longer than a position can count."""
    records: Records = np.zeros(4, dtype=EVENT)
    records["position"] = [2**32 - 1, 0, 1, 2]
    assert len(finished(records, 2**32 - 2)) == 4


def test_lanes_are_shorter_where_there_are_many_cpus() -> None:
    """All lanes together stay within their bound, each is a power of two and never tiny."""
    for spec in events.LANES.values():
        for cpus in (1, 2, 7, 64, 200, 1024):
            slots = events.lane_slots(spec, cpus)
            assert slots & (slots - 1) == 0
            assert events.LEAST_SLOTS <= slots <= spec.slots
            assert slots == events.LEAST_SLOTS or slots * cpus <= spec.all_slots
