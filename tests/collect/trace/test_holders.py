"""Who is watched because it held a lock of the kernel."""

from __future__ import annotations

import numpy as np

from culpa.collect.trace import events
from culpa.collect.trace.holders import MIN_WAITED_NS, MOST_LOOKS, Holders

LOCK, DISK = 3, 4
FRAMES = {
    LOCK: ["__schedule", "schedule", "schedule_preempt_disabled", "rwsem_down_write_slowpath", "down_write"],
    DISK: ["__schedule", "schedule", "io_schedule", "folio_wait_bit_common", "filemap_read"],
}
WAITER, HOLDER, BYSTANDER = 10, 20, 30


def waits(*rows: tuple[int, int, int], state: int = 2) -> np.ndarray:
    """Records of the waiter: process that ended each, stack, length (ns)."""
    found = np.zeros(len(rows), dtype=events.OFFCPU_EVENT)
    found["pid"], found["state"], found["off_ns"] = WAITER, state, 1_000
    for at, (waker, stack, ns) in enumerate(rows):
        found[at]["waker_pid"], found[at]["stack_id"], found[at]["on_ns"] = waker, stack, 1_000 + ns
    return found


def found(holders: Holders, *watched: int) -> frozenset[int]:
    """One look."""
    candidates = holders.candidates(lambda: watched)
    return holders.among(candidates, FRAMES.__getitem__) if candidates else frozenset()


def test_who_ends_waits_for_a_lock_is_found_once_they_add_up() -> None:
    """An interrupt borrows the context of bystanders: a wait for the disk tells nothing of them."""
    holders = Holders()
    half = (HOLDER, LOCK, MIN_WAITED_NS // 2)
    holders.take(waits(half, (BYSTANDER, DISK, 9 * MIN_WAITED_NS)))
    assert frozenset() == found(holders)
    holders.take(waits(half))
    assert frozenset({HOLDER}) == found(holders)
    assert frozenset() == found(holders)


def test_the_own_process_the_idle_task_and_waits_by_choice_are_not_counted() -> None:
    """Nor is who is watched already."""
    holders = Holders()
    long = 9 * MIN_WAITED_NS
    holders.take(waits((WAITER, LOCK, long), (0, LOCK, long), (HOLDER, -1, long)))
    holders.take(waits((HOLDER, LOCK, long), state=1))
    assert frozenset() == found(holders)
    holders.take(waits((HOLDER, LOCK, long)))
    assert frozenset() == found(holders, HOLDER)
    holders.take(waits((HOLDER, LOCK, long)))
    assert frozenset() == holders.candidates(lambda: ())


def test_it_is_not_looked_for_ever() -> None:
    """Where bystanders come and go all the time."""
    holders = Holders()
    for number in range(2 * MOST_LOOKS):
        holders.take(waits((BYSTANDER + number, DISK, 9 * MIN_WAITED_NS)))
        assert frozenset() == found(holders)
    holders.take(waits((HOLDER, LOCK, 9 * MIN_WAITED_NS)))
    assert frozenset() == found(holders)
