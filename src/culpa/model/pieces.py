"""The pieces of the wait graph while they are being explained: parallel columns, filled in by index."""

from __future__ import annotations

import numpy as np

from culpa.model.axis import NO_THREAD, Axis, Bools, Int64s, Integers
from culpa.model.kinds import NO_THING, NONE, Kind
from culpa.model.objects import Thing


class Things:
    """Interns what waits are spent on."""

    def __init__(self) -> None:
        self._ids: dict[Thing, int] = {}

    def intern(self, thing: Thing) -> int:
        """The thing's number, the same for equal things."""
        return self._ids.setdefault(thing, len(self._ids))

    def all(self) -> tuple[Thing, ...]:
        """Every thing, by number."""
        return tuple(self._ids)


class Pieces:
    """Columns of the pieces, narrow ones; everything starts as `unexplained` and is filled in by index arrays.

    `owner` is the tid of whoever's data the innermost level is about, where that is not the thread itself. `continues`
    marks pieces that are cut off the one before them only because another owner's data comes next. `rests`: of idle
    ones, those that a timer ended.
    """

    def __init__(self, axis: Axis, start: Int64s, end: Int64s, segment: Integers) -> None:
        count = len(start)
        self.axis = axis
        self.start, self.end = start, end
        self.segment: Integers = segment.astype(np.int32)
        self.lane: Integers = (start // axis.span).astype(np.int32)
        self.things = Things()
        self.call: Integers = np.full(count, NONE, np.int32)
        self.exchange: Integers = np.full(count, NONE, np.int32)
        self.request: Integers = np.full(count, NONE, np.int32)
        self.kind: Integers = np.full(count, Kind.UNEXPLAINED, np.int8)
        self.on: Integers = np.full(count, NO_THING, np.int32)
        self.via: Integers = np.full(count, NONE, np.int8)
        self.via_on: Integers = np.full(count, NO_THING, np.int32)
        self.next: Integers = np.full(count, NO_THREAD, np.int32)
        self.idle: Bools = np.zeros(count, bool)
        self.rests: Bools = np.zeros(count, bool)
        self.owner: Integers = np.full(count, NONE, np.int32)
        self.continues: Bools = np.zeros(count, bool)

    def label(self, index: Int64s, thing: Thing, kind: Kind | None = None) -> None:
        """Name what the pieces are spent on, and their kind where it is given."""
        if len(index) == 0:
            return
        self.on[index] = self.things.intern(thing)
        if kind is not None:
            self.kind[index] = kind

    def follow(self, index: Int64s, lanes: Int64s, kind: Kind) -> None:
        """Explain the pieces by what other threads did at the same moments."""
        self.next[index] = lanes
        self.kind[index] = kind

    def wrap(self, index: Int64s, kind: Kind, on: Int64s) -> None:
        """Put what the pieces are so far one level down, inside `kind` on the things `on`."""
        plain = self.via[index] == NONE
        self.via[index] = np.where(plain, self.kind[index], self.via[index])
        self.via_on[index] = np.where(plain, self.on[index], self.via_on[index])
        self.kind[index] = kind
        self.on[index] = on

    def begins(self) -> Bools:
        """Pieces that begin what they are part of: a call for what is wrapped in one, else a segment or another
        kind.
        """
        if not len(self.start):
            return np.zeros(0, bool)
        named = _differs(self.kind) | _differs(self.lane)
        wrapped = np.isin(self.kind, (Kind.FSYNC, Kind.IO))
        new: Bools = named | np.where(wrapped, _differs(self.call), _differs(self.segment))
        return new & (wrapped | ~self.continues)

    def begins_within(self) -> Bools:
        """Pieces that begin what they are one level down: another kind, another thing, or another wait."""
        if not len(self.start):
            return np.zeros(0, bool)
        new: Bools = _differs(self.via) | _differs(self.via_on) | _differs(self.segment)
        return new & ~self.continues


def _differs(values: Integers) -> Bools:
    return np.append(True, values[1:] != values[:-1])
