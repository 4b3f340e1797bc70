"""Commands that keep Redis' one thread from everybody else: what counts as one, and which stalls they explain.

Two witnesses: what was seen on the server's sockets, exact to the microsecond but blind to what Redis does between
reading a command and answering it; and its slow log, which times the command alone and is exact to the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from culpa.diagnose.moments import Moments

MIN_HOLD_NS = 1_000_000
"""Commands take microseconds; a hundred clients that each wait a millisecond longer notice."""
SLOW_LOG_FULL = 128
"""Entries in one window from which on others may be lost: the log's default length."""
LONGER_THAN_LOGGED, LOGGED_PART = 1.5, 4
"""The slow log leaves out the reading of the question and the writing of the answer: a little, or of a large answer
most of the time.
"""
FORKING = frozenset({"BGSAVE", "BGREWRITEAOF", "SYNC", "PSYNC"})
"""Commands that are as long as the fork they begin with, which is a cause of its own."""
BLOCKING = frozenset({"MIGRATE"})
"""Commands that wait for another server in the main thread: their waiting is their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One command that kept the main thread from everybody else.

    `start_ns` and `end_ns` bound when that was; from the slow log they are only known to the second, and `length_ns`
    lies somewhere between them. `arguments` counts the verb; `elements` and `bytes` are those of its key afterwards.
    """

    verb: str
    start_ns: int
    end_ns: int
    length_ns: int
    pattern: str | None = None
    arguments: int | None = None
    option: str | None = None
    type: str | None = None
    elements: int | None = None
    bytes: int | None = None
    exact: bool = True


def is_one_of_many(length_ns: int, *, messages: int, commands: float) -> bool:
    """Whether a time of `length_ns` is that of a pipeline of small commands, not of one long one.

    Only the first command in a message has its verb seen: so many messages began with that verb, and so many commands
    of it the server counted meanwhile.
    """
    return length_ns * max(1, messages) < MIN_HOLD_NS * commands


def accounted(holds: Sequence[Hold], logged: Sequence[Hold], *, threshold_ns: int) -> tuple[Hold, ...]:
    """Without those that the slow log would have and has not; one entry accounts for one of them.

    Between reading a command and answering it Redis also frees memory for it (eviction), expires keys and serves its
    timers: none of that is the command's.
    """
    kept, entries = [], sorted(logged, key=lambda entry: entry.end_ns)
    for hold in sorted(holds, key=lambda hold: hold.end_ns):
        if hold.length_ns > LONGER_THAN_LOGGED * threshold_ns:
            entry = next((one for one in entries if _tells_of(one, hold)), None)
            if entry is None:
                continue
            entries.remove(entry)
        kept.append(hold)
    return tuple(kept)


def explained(stalls: Moments, holds: Sequence[Hold]) -> Moments:
    """The stalls of the seconds in which these commands ended, as much of each stall as a command took."""
    items, starts, ends = [], [], []
    left = {number: hold.length_ns for number, hold in enumerate(holds)}
    longest_first = sorted(
        zip(stalls.item.tolist(), stalls.start_ns.tolist(), stalls.end_ns.tolist(), strict=True),
        key=lambda stall: stall[1] - stall[2],
    )
    for item, start, end in longest_first:
        fits = [n for n, hold in enumerate(holds) if left[n] > 0 and hold.start_ns < end and hold.end_ns > start]
        if not fits:
            continue
        # The entry whose length is nearest to the stall; what is left of it may explain another.
        best = min(fits, key=lambda n: abs(left[n] - (end - start)))
        taken = min(left[best], end - start)
        left[best] -= taken
        items.append(item)
        starts.append(end - taken)
        ends.append(end)
    return Moments.union(np.array(items, np.int64), np.array(starts, np.int64), np.array(ends, np.int64))


def _tells_of(entry: Hold, hold: Hold) -> bool:
    """Whether an entry of the slow log can be this command: its verb, its second, and most of its length."""
    near = entry.start_ns < hold.end_ns and hold.start_ns < entry.end_ns
    return entry.verb == hold.verb and near and entry.length_ns * LOGGED_PART >= hold.length_ns
