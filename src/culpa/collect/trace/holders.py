"""Whoever lets go a lock of the kernel that a watched thread waits for is watched as well.

The probes follow wakers of interruptible waits only: most others are ended by an interrupt, which borrows anybody's
context. A kernel stack that waits for a mutex or an rwsem tells that its waker held that (kernel/locking/). Stacks are
looked at where the waits that one process ended add up to something.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Final

import numpy as np

from culpa.collect.trace.ring import Records

UNINTERRUPTIBLE: Final = 2
MIN_WAITED_NS: Final = 10_000_000
"""Waits that one process ended, together: below it is not worth to look at their stacks."""
MOST_LOOKS: Final = 50
MOST_WAKERS: Final = 1000
"""Processes of which it is counted how long the waits were that they ended."""
INNERMOST: Final = 6
"""Functions of a stack among which the lock's must be."""
_WAITS_FOR_LOCK = re.compile(r"__mutex_lock|\w*rwsem_down_\w+|rwbase_(read|write)_lock")


class Holders:
    """Counts who ended uninterruptible waits, and finds the holders of locks among them."""

    def __init__(self) -> None:
        self._waited_ns: dict[int, int] = {}
        self._stacks: dict[int, set[int]] = defaultdict(set)
        self._watched: set[int] = set()
        self._looks = 0

    def take(self, waits: Records) -> None:
        """Count drained `events.OFFCPU_EVENT` records."""
        told = (waits["state"] & UNINTERRUPTIBLE != 0) & (waits["stack_id"] >= 0) & (waits["off_ns"] != 0)
        told &= (waits["waker_pid"] != 0) & (waits["waker_pid"] != waits["pid"])
        if self._looks >= MOST_LOOKS or not told.any():
            return
        ended, stacks = waits["waker_pid"][told], waits["stack_id"][told]
        pairs, at = np.unique(np.stack([ended, stacks], axis=1), axis=0, return_inverse=True)
        sums = np.bincount(at.reshape(-1), weights=(waits["on_ns"] - waits["off_ns"])[told].astype(np.float64))
        for (pid, stack_id), ns in zip(pairs.tolist(), sums.tolist(), strict=True):
            if pid not in self._watched and (pid in self._waited_ns or len(self._waited_ns) < MOST_WAKERS):
                self._waited_ns[pid] = self._waited_ns.get(pid, 0) + int(ns)
                self._stacks[pid].add(stack_id)

    def candidates(self, watched: Callable[[], Collection[int]]) -> frozenset[int]:
        """Processes that are not watched and that ended waits which are long enough together."""
        if self._looks >= MOST_LOOKS or max(self._waited_ns.values(), default=0) < MIN_WAITED_NS:
            return frozenset()
        self._watched.update(self._waited_ns.keys() & set(watched()))
        for pid in self._watched & self._waited_ns.keys():
            del self._waited_ns[pid]
        return frozenset(pid for pid, ns in self._waited_ns.items() if ns >= MIN_WAITED_NS)

    def among(self, candidates: Collection[int], frames: Callable[[int], list[str]]) -> frozenset[int]:
        """Those of the candidates that held a lock; all of them are counted anew.

        Args:
            candidates: processes, as `candidates` tells.
            frames: the functions of a stack, innermost first.
        """
        self._looks += 1
        stacks = {pid: self._stacks.pop(pid) for pid in candidates}
        for pid in candidates:
            del self._waited_ns[pid]
        return frozenset(
            pid for pid, found in stacks.items() if any(_waits_for_lock(frames(number)) for number in found)
        )


def _waits_for_lock(frames: list[str]) -> bool:
    return any(_WAITS_FOR_LOCK.match(name) for name in frames[:INNERMOST])
