"""Waits in futex(2): for a lock, for whoever held it; for a condition, for whoever signalled it.

A waker is believed where it was in a futex call that wakes, on the word that the waiter waits on (private futexes: in
the same process; shared ones have other addresses elsewhere, so their moment must do).

A word is a *lock* where a thread that was handed it handed it on to one that had waited meanwhile, or that waits in a
loop with a timer (Python's interpreter lock), or where the waiters left a mutex's "contended" in it. A wait for a lock
is cut at every hand-over of that word: up to there whoever handed it over had held it. A wait on any other word is a
hand-over between threads, spent on what the signalling thread did.

A waiter that was moved to another word (FUTEX_CMP_REQUEUE, as condition variables do) waits for whoever moved it, and
from then on, on that other word, for whoever woke it there. One that waits on several words waits on the one on which
it was woken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from culpa import syscalls
from culpa.model.axis import NO_THREAD, Bools, Int64s, expand
from culpa.model.calls import FAR_NS, Calls, pick
from culpa.model.kinds import HOLDER_UNKNOWN, NONE, Kind
from culpa.model.objects import Thing
from culpa.model.pieces import Pieces
from culpa.model.timeline import Timeline
from culpa.model.wakes import Wakes

RETRY_NS = 1_000_000
"""A wait whose timer ran out goes on where the next one on the same word begins within this time."""
SLOT_BITS = 3
"""glibc's condition variable alternates between two words of 4 bytes in one place of 8 (pthread_cond_common.c)."""
MAX_CUTS = 32
"""Hand-overs by which one wait is cut; before these it follows the first of them, whose own waits lead further."""

_WHOLE, _ON_FIRST, _ON_OTHER = range(3)
"""A wait on one word; the part of one on the word it began on, and on the word to which it was moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Futexes:
    """Waits on futex words, in order of the axis: the word, and what their calls said; `moved`: the next one is the
    rest of it, on another word.
    """

    wakes: Wakes
    pid: Int64s
    word: Int64s
    agreed: Bools
    timed_out: Bools
    contended: Bools
    moved: Bools


class LockWaits:
    """Explains waits in futex calls."""

    def __init__(self, timeline: Timeline, calls: Calls) -> None:
        self._axis = timeline.axis
        self._waits = waits = _futexes(timeline, calls)
        self._wakes = waits.wakes
        pids, of_pid = np.unique(waits.pid, return_inverse=True)
        _, of_word = np.unique(waits.word, return_inverse=True)
        keys, self._key = np.unique(of_word * len(pids) + of_pid, return_inverse=True)
        self._places = len(keys)
        self._by = np.where(waits.agreed, waits.wakes.waker, NO_THREAD)
        self._lay_hand_overs()
        self._is_lock = self._locks()[self._key] if len(self._key) else np.zeros(0, bool)
        self._let_go(timeline, calls)
        self._go_on(calls)

    def _lay_hand_overs(self) -> None:
        """Agreed wake-ups, sorted by word and moment."""
        agreed = np.flatnonzero(self._waits.agreed)
        order = agreed[np.argsort(self._point(agreed, self._wakes.end[agreed]), kind="stable")]
        self._handed, self._at = order, self._point(order, self._wakes.end[order])

    def _point(self, rows: Int64s, points: Int64s) -> Int64s:
        """Moments on a line on which each word has its own stretch."""
        key: Int64s = self._key[rows]
        return key * self._axis.span + points % self._axis.span

    def _locks(self) -> Bools:
        """Which words are locks."""
        lock = np.zeros(self._places, bool)
        lock[self._key[self._waits.contended]] = True
        timed = np.zeros(self._places, bool)
        timed[self._key[self._waits.timed_out]] = True
        rows, wakes = self._handed, self._wakes
        if len(rows) > 1:
            before, after = rows[:-1], rows[1:]
            same = self._key[before] == self._key[after]
            passed_on = same & (wakes.waker[after] == wakes.lane[before])
            waited = self._point(after, wakes.start[after]) < self._at[:-1]
            lock[self._key[after[passed_on & (waited | timed[self._key[after]])]]] = True
        return lock

    def _let_go(self, timeline: Timeline, calls: Calls) -> None:
        """A timer ran out while the lock's holder was about to let go: its call found nobody left to wake.

        Python asks for its interpreter lock in this way: after the timer it demands the lock and gets it at once.
        """
        waits, wakes, span = self._waits, self._wakes, self._axis.span
        if len(wakes.segment) == 0:
            return
        pids, slots = np.unique(waits.pid), np.unique(waits.word >> SLOT_BITS)
        place = _place(slots, pids, waits.word, waits.pid)
        ran_out = ~waits.agreed & waits.timed_out & np.isin(place, place[self._is_lock])
        self._is_lock |= ran_out
        calling = np.flatnonzero(calls.among(calls.spans.row, syscalls.FUTEX))
        command = calls.futex_command(calls.spans.row[calling])
        calling = calling[np.isin(command, list(syscalls.FUTEX_WAKES))]
        lane = calls.spans.start[calling] // span
        letting = _place(slots, pids, calls.arg(calls.spans.row[calling], 0), timeline.pid[lane])
        calling, letting = calling[letting >= 0], letting[letting >= 0]
        at = letting * span + calls.spans.end[calling] % span
        order = np.argsort(at, kind="stable")
        calling, at = calling[order], at[order]
        rows = np.flatnonzero(ran_out)
        wanted = place[rows] * span + wakes.end[rows] % span
        found = np.searchsorted(at, wanted)
        for later in (1, 0):
            there = np.where(found + later < len(at), found + later, NONE)
            begun = pick(calls.spans.start, pick(calling, there, NONE), NONE)
            by, soon = begun // span, begun % span <= wakes.end[rows] % span + RETRY_NS
            same = pick(at, there, NONE) // span == place[rows]
            held = (there >= 0) & soon & same & (by != wakes.lane[rows])
            self._by[rows[held]] = by[held]

    def _go_on(self, calls: Calls) -> None:
        """A wait whose timer ran out and that began anew was ended by whoever ended the last one of the row.

        One after which the thread woke another was a wait of its own: it rested, and had something to hand over then.
        """
        waits, wakes = self._waits, self._wakes
        self._until = wakes.end
        if len(wakes.segment) < 2:
            return
        near = (wakes.lane[1:] == wakes.lane[:-1]) & (wakes.start[1:] - wakes.end[:-1] <= RETRY_NS)
        same = waits.word[1:] >> SLOT_BITS == waits.word[:-1] >> SLOT_BITS
        rests = self._wakes_another(calls, wakes.end[:-1], wakes.start[1:]) & ~self._is_lock[:-1]
        goes_on = np.append(near & same & (self._by[:-1] < 0) & waits.timed_out[:-1] & ~rests, False)
        last = np.flatnonzero(~goes_on)
        end = last[np.searchsorted(last, np.arange(len(goes_on)))]
        self._until = wakes.end[end]
        self._by = self._by[end]
        self._is_lock = self._is_lock[end]

    def _wakes_another(self, calls: Calls, start: Int64s, end: Int64s) -> Bools:
        """Stretches of the axis in which the thread called for others to be woken, and some were; those that want a
        lock, which it lets go of to wait, do not count.
        """
        spans = calls.spans
        calling = np.flatnonzero(calls.among(spans.row, syscalls.FUTEX) & (calls.ret(spans.row) > 0))
        calling = calling[np.isin(calls.futex_command(spans.row[calling]), list(syscalls.FUTEX_WAKES))]
        locks = np.unique(self._waits.word[self._is_lock])
        at = spans.start[calling[~np.isin(calls.arg(spans.row[calling], 0), locks)]]
        found: Bools = np.searchsorted(at, end) > np.searchsorted(at, start)
        return found

    def cuts(self) -> Int64s:
        """Where locks were handed over, on the lanes of those who waited, and waiters moved to another word."""
        rows = np.flatnonzero(self._is_lock)
        stop = np.searchsorted(self._at, self._point(rows, self._wakes.end[rows]), side="left")
        first = np.searchsorted(self._at, self._point(rows, self._wakes.start[rows]), side="right")
        owner, event = expand(np.maximum(first, stop - MAX_CUTS), stop)
        handed_over = self._axis.move(self._wakes.end[self._handed[event]], self._wakes.lane[rows[owner]])
        return np.concatenate([handed_over, self._wakes.end[self._waits.moved]])

    def explain(self, pieces: Pieces, index: Int64s, serving: Bools) -> None:
        """Follow each wait to whoever ended it.

        Args:
            index: pieces that are interruptible waits.
            serving: which of them lie within a request that the thread serves. Outside one a thread that others of
                its process wake waits for its next piece of work.
        """
        row = self._wakes.row_of(pieces.segment[index])
        index, serving, row = index[row >= 0], serving[row >= 0], row[row >= 0]
        row += pieces.start[index] >= self._wakes.end[row]
        lock = self._is_lock[row]
        by = self._by[row]
        by[lock] = self._holder(pieces, index[lock], row[lock])
        self._name_locks(pieces, index[lock], row[lock], by[lock])
        known = by >= 0
        pieces.follow(index[known & lock], by[known & lock], Kind.LOCK)
        pieces.follow(index[known & ~lock], by[known & ~lock], Kind.PEER)
        pieces.idle[index[known & ~lock & ~serving]] = True
        pieces.idle[index[lock]] = False
        ran_out = index[~known & ~lock & self._waits.timed_out[row]]
        pieces.rests[ran_out] = pieces.kind[ran_out] == Kind.IDLE
        pieces.kind[ran_out[pieces.kind[ran_out] == Kind.UNEXPLAINED]] = Kind.SLEEP

    def _holder(self, pieces: Pieces, index: Int64s, row: Int64s) -> Int64s:
        """Whoever handed the lock over at the end of each piece or next after it, before the thread had it."""
        event = np.searchsorted(self._at, self._point(row, pieces.end[index]), side="left")
        inside = event < np.searchsorted(self._at, self._point(row, self._until[row]), side="right")
        handed = pick(self._handed, np.where(inside, event, NONE), NONE)
        return np.where(handed >= 0, pick(self._wakes.waker, handed, NO_THREAD), self._by[row])

    def _name_locks(self, pieces: Pieces, index: Int64s, row: Int64s, by: Int64s) -> None:
        for known, stage in ((by >= 0, None), (by < 0, HOLDER_UNKNOWN)):
            slots, inverse = np.unique(self._waits.word[row[known]] >> SLOT_BITS << SLOT_BITS, return_inverse=True)
            things = [Thing(lock=f"{slot:#x}", stage=stage) for slot in slots.tolist()]
            numbers = np.array([pieces.things.intern(thing) for thing in things], dtype=np.int64)
            pieces.on[index[known]] = numbers[inverse] if len(numbers) else NONE
            pieces.kind[index[known]] = Kind.LOCK


def _futexes(timeline: Timeline, calls: Calls) -> _Futexes:
    wakes = Wakes.of(timeline, calls, syscalls.FUTEX | syscalls.FUTEX_MANY)
    many = calls.among(wakes.call, syscalls.FUTEX_MANY)
    wakes = wakes.only(many | np.isin(calls.futex_command(wakes.call), list(syscalls.FUTEX_WAITS)))
    wakes, part = _moved(timeline, calls, wakes)
    many = calls.among(wakes.call, syscalls.FUTEX_MANY)
    pid, command = timeline.pid[wakes.lane], calls.futex_command(wakes.call)
    waking = np.isin(calls.futex_command(wakes.act), list(syscalls.FUTEX_WAKES))
    ours = pick(timeline.pid, wakes.waker, NONE) == pid
    on_other = part == _ON_OTHER
    # It returns which of its words it was woken on; the kernel wakes it in the context of whoever called for that.
    on_other |= many & (calls.ret(wakes.call) >= 0) & (calls.exit_ns(wakes.call) < FAR_NS) & waking
    word = np.where(on_other, calls.arg(wakes.act, 0), calls.arg(wakes.call, 0))
    shared = [many | (calls.arg(rows, 1) & syscalls.FUTEX_PRIVATE == 0) for rows in (wakes.call, wakes.act)]
    same_word = ours & (calls.arg(wakes.act, 0) == word) & (on_other | ~many)
    mutex = (command == syscalls.FUTEX_WAIT) & (calls.arg(wakes.call, 2) == syscalls.FUTEX_CONTENDED)
    unlocked = (part == _ON_OTHER) & (calls.futex_command(wakes.act) == syscalls.FUTEX_UNLOCK_PI)
    return _Futexes(
        wakes=wakes,
        pid=pid,
        word=word,
        agreed=waking & (same_word | (~ours & shared[0] & shared[1])),
        timed_out=calls.ret(wakes.call) == -syscalls.ETIMEDOUT,
        contended=(mutex & (part != _ON_OTHER)) | unlocked | np.isin(command, list(syscalls.FUTEX_LOCKS)),
        moved=part == _ON_FIRST,
    )


def _moved(timeline: Timeline, calls: Calls, wakes: Wakes) -> tuple[Wakes, Int64s]:
    """The waits; one that went on on another word as two, cut where it was moved. The second array says which is which.

    A wait that returned 0 was woken by a call on the word it then waited on. If that is not the word it began to wait
    on, the first call since then that moves waiters away from there moved it.
    """
    moving = np.flatnonzero(np.isin(calls.futex_command(calls.spans.row), list(syscalls.FUTEX_MOVES)))
    if len(moving) == 0 or len(wakes.segment) == 0:
        return wakes, np.full(len(wakes.segment), _WHOLE, np.int64)
    by = _mover(timeline, calls, wakes, moving)
    twice = np.repeat(np.arange(len(by)), np.where(by == NONE, 1, 2))
    again = np.append(False, twice[1:] == twice[:-1])
    part = np.where(again, _ON_OTHER, np.where(by == NONE, _WHOLE, _ON_FIRST)[twice])
    found, first, second = wakes.only(twice), np.flatnonzero(part == _ON_FIRST), np.flatnonzero(again)
    mover = by[twice[first]]
    moved = timeline.axis.move(calls.spans.end[mover], found.lane[first])
    found.end[first] = found.start[second] = moved
    found.waker[first] = calls.spans.start[mover] // timeline.axis.span
    found.act[first] = calls.spans.row[mover]
    return found, part


def _mover(timeline: Timeline, calls: Calls, wakes: Wakes, moving: Int64s) -> Int64s:
    """For each wait the call, of those in `moving`, that moved it to the word on which it was woken, else `NONE`."""
    span = timeline.axis.span
    pid, word, acted_on = timeline.pid[wakes.lane], calls.arg(wakes.call, 0), calls.arg(wakes.act, 0)
    waking = np.isin(calls.futex_command(wakes.act), list(syscalls.FUTEX_WAKES))
    ours = pick(timeline.pid, wakes.waker, NONE) == pid
    elsewhere = waking & ours & (calls.ret(wakes.call) == 0) & (acted_on != word)
    slots, pids = np.unique(word >> SLOT_BITS), np.unique(pid)
    place = _place(slots, pids, calls.arg(calls.spans.row[moving], 0), timeline.pid[calls.spans.start[moving] // span])
    moving, place = moving[place >= 0], place[place >= 0]
    order = np.argsort(place * span + calls.spans.end[moving] % span, kind="stable")
    moving, at = moving[order], (place * span + calls.spans.end[moving] % span)[order]
    of_wait = _place(slots, pids, word, pid) * span
    first = np.searchsorted(at, of_wait + wakes.start % span, side="right")
    there = np.append(at, np.iinfo(np.int64).max)[first] < of_wait + wakes.end % span
    return np.where(elsewhere & there, np.append(moving, NONE)[first], NONE)


def _place(slots: Int64s, pids: Int64s, word: Int64s, pid: Int64s) -> Int64s:
    """A number for each (process, slot of a word) among those given, `NONE` for others."""
    slot = np.minimum(np.searchsorted(slots, word >> SLOT_BITS), len(slots) - 1)
    process = np.minimum(np.searchsorted(pids, pid), len(pids) - 1)
    known = (slots[slot] == word >> SLOT_BITS) & (pids[process] == pid)
    return np.where(known, slot * len(pids) + process, NONE)
