"""A fix that is put in place and taken out again and again under one record, which is on disk before the first change.

The first time it is applied and the last time it is undone as any fix (`run.py`). In between the record stays open,
whichever way it stands, so that a culpa that is killed leaves something that `culpa fix --undo` takes back; and nothing
is written to disk meanwhile, which would disturb what is measured. Before each change it is seen that the target is the
same, and as it was left.
"""

from __future__ import annotations

import time
from typing import Final

from culpa.errors import CulpaError
from culpa.fix import run
from culpa.fix.catalogue import Remedy
from culpa.fix.hands import Connects, Hand, Refused, Unreachable
from culpa.fix.journal import Journal, Record
from culpa.fix.parameters import Parameters, target_of
from culpa.units import printable

PATIENCE_SECONDS: Final = 5.0
"""A server that is being restarted answers again within it, as a rule."""
PAUSE_SECONDS: Final = 0.25


class Disturbed(CulpaError):
    """The target is not as it was left: another value, another process, or it cannot be asked; no more is changed."""


class Switch:
    """One fix of one target, off at first."""

    def __init__(
        self, remedy: Remedy, parameters: Parameters, *, cause: str, seen_unix: float, journal: Journal,
        connects: Connects,
    ) -> None:  # fmt: skip
        self._remedy = remedy
        self._parameters = parameters
        self._cause = cause
        self._seen_unix = seen_unix
        self._journal = journal
        self._connects = connects
        self.is_on = False
        self.applied: run.Applied | None = None

    @property
    def record(self) -> Record | None:
        """None: nothing was changed so far."""
        return self.applied.record if self.applied else None

    def on(self) -> None:
        """Put it in place; the first time as any fix is applied.

        Raises:
            Disturbed: it is not as it was left.
            CulpaError: it was not put in place; says how it stands.
        """
        if self.applied is None:
            self.applied = run.apply(
                self._remedy, self._parameters, cause=self._cause, seen_unix=self._seen_unix, journal=self._journal,
                connects=self._connects,
            )  # fmt: skip
            if self.applied.record is None:
                what = f"{target_of(self._parameters)} is so already, there is nothing to compare it with"
                raise CulpaError(f"{what}; nothing was changed")
        else:
            self._turn(on=True)
        self.is_on = True

    def off(self) -> None:
        """Put the former values back, and keep the record open.

        Raises:
            Disturbed: it is not as it was left.
        """
        self._turn(on=False)
        self.is_on = False

    def check(self) -> None:
        """See that it is as it was left.

        Raises:
            Disturbed: it is not.
        """
        self._turn(on=self.is_on)

    def end(self) -> run.Undone | None:
        """Undo it; None where nothing was changed. A target that cannot be reached is asked again for a while."""
        if self.record is None:
            return None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            undone = self._undo(self.record)
            if undone.ended != "failed" or time.monotonic() > deadline:
                self.is_on = self.is_on and not undone.closed
                return undone
            time.sleep(PAUSE_SECONDS)

    def _undo(self, record: Record) -> run.Undone:
        try:
            return run.undo(record, journal=self._journal, connects=self._connects)
        except CulpaError as reason:
            sentence = f"{target_of(record.parameters)} could not be put back: {reason}; {record.id} stays open"
            return run.Undone(record=record, ended="failed", sentence=sentence)

    def _turn(self, *, on: bool) -> None:
        record = self.record
        assert record is not None
        try:
            with self._journal.locked(record.key):
                if record.id not in {one.id for one in self._journal.found().open}:
                    raise Disturbed(f"{record.id} was taken back by another culpa meanwhile")
                hand = run.hand_for(self._parameters, self._connects)
                try:
                    self._set(hand, record, on=on)
                finally:
                    hand.close()
        except (Refused, Unreachable) as reason:
            raise Disturbed(reason.what, way_out=reason.way_out) from reason

    def _set(self, hand: Hand, record: Record, *, on: bool) -> None:
        standing, sentence = hand.standing(record.identity, record.at_unix)
        if standing != "same":
            raise Disturbed(sentence)
        now, left = hand.read(), record.during if self.is_on else record.before
        foreign = {name: value for name, value in now.items() if name in left and value != left[name]}
        if foreign:
            name, value = next(iter(foreign.items()))
            what = f"somebody else has set {target_of(record.parameters)} meanwhile"
            raise Disturbed(f"{what}: {name} is {printable(value, 80)!r}, culpa left it {printable(left[name], 80)!r}")
        if on == self.is_on:
            return
        wanted = hand.plan(now) if on else hand.goal(record.before, record.during, now)
        hand.write(wanted)
        if not run.reached(hand, wanted):
            raise Disturbed(f"{target_of(record.parameters)} reads otherwise than it was set")
