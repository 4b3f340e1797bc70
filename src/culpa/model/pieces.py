"""The pieces of the wait graph while they are being explained: parallel columns, filled in by index."""

from __future__ import annotations

import numpy as np

from culpa.model.axis import NO_THREAD, Axis, Bools, Int64s
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
    """Columns of the pieces; everything starts as `unexplained` and is filled in by index arrays.

    `owner` is the tid of whoever's data the innermost level is about, where that is not the thread itself. `continues`
    marks pieces that are cut off the one before them only because another owner's data comes next.
    """

    def __init__(self, axis: Axis, start: Int64s, end: Int64s, segment: Int64s) -> None:
        count = len(start)
        self.axis = axis
        self.start, self.end, self.segment = start, end, segment
        self.lane = start // axis.span
        self.things = Things()
        self.call = np.full(count, NONE, np.int64)
        self.exchange = np.full(count, NONE, np.int64)
        self.request = np.full(count, NONE, np.int64)
        self.kind = np.full(count, Kind.UNEXPLAINED, np.int64)
        self.on = np.full(count, NO_THING, np.int64)
        self.via = np.full(count, NONE, np.int64)
        self.via_on = np.full(count, NO_THING, np.int64)
        self.next = np.full(count, NO_THREAD, np.int64)
        self.owner = np.full(count, NONE, np.int64)
        self.continues = np.zeros(count, bool)

    def label(self, index: Int64s, thing: Thing, kind: Kind | None = None) -> None:
        """Name what the pieces are spent on, and their kind where it is given."""
        if len(index) == 0:
            return
        self.on[index] = self.things.intern(thing)
        if kind is not None:
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


def _differs(values: Int64s) -> Bools:
    return np.append(True, values[1:] != values[:-1])
