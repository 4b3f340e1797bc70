"""Look, apply, undo: the order in which things are read, noted and changed.

Apply: lock the target, read it, put the record on disk, set it, read it back. Undo: lock, see that it is the same
target and that nobody else has set it since, set the former values, read them back, close the record. A culpa that is
killed between any two steps leaves a record from which an undo finds out where it stands: every part has its former
value or the fix's, and what has neither is somebody else's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Literal

from msgspec.structs import replace

from culpa.errors import CulpaError, Interrupted
from culpa.fix.catalogue import Remedy
from culpa.fix.group_hand import GroupHand
from culpa.fix.hands import Connects, Hand, Identity, Refused, Unreachable
from culpa.fix.journal import Journal, Outcome, Record, key_of
from culpa.fix.kernel_hand import KernelHand
from culpa.fix.lasting import LastingFile, looked, put_back, standing, written
from culpa.fix.parameters import GroupSetting, KernelSetting, Parameters, RedisSetting, State, target_of
from culpa.fix.process_hand import ProcessHand
from culpa.fix.redis_hand import RedisHand
from culpa.fix.values import LONGEST_VALUE, can_be_noted
from culpa.units import printable

MONITOR: Final = "latency-monitor-threshold"
Ended = Outcome | Literal["changed", "failed"]
"""Of an undo: as a record's outcome, or the record stays open: somebody else has set it, or it could not be done."""


def hand_for(parameters: Parameters, connects: Connects) -> Hand:
    """What changes such a target."""
    if isinstance(parameters, RedisSetting):
        return RedisHand(parameters, connects)
    if isinstance(parameters, KernelSetting):
        return KernelHand(parameters)
    if isinstance(parameters, GroupSetting):
        return GroupHand(parameters)
    return ProcessHand(parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a fix stands now. `obstacle`: why it cannot be applied; `done`: it is so already."""

    before: State | None = None
    after: State | None = None
    undo: tuple[str, ...] = ()
    apply: tuple[str, ...] = ()
    lasts: str = ""
    obstacle: str = ""
    done: bool = False


def look(parameters: Parameters, seen_unix: float, connects: Connects) -> Look:
    """Read, and change nothing."""
    try:
        hand = hand_for(parameters, connects)
    except Refused as reason:
        return Look(obstacle=str(reason))
    obstacle: str | None = None
    try:
        obstacle = hand.stale(seen_unix) or hand.obstacle()
        before = hand.read()
        after = hand.plan(before)
        return Look(
            before=before, after=after, undo=hand.by_hand(before), apply=hand.by_hand(after), lasts=hand.lasts(),
            obstacle=obstacle or _unnotable(before) or "", done=before == after,
        )  # fmt: skip
    except Unreachable as reason:
        return Look(obstacle=obstacle or str(reason))
    finally:
        hand.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A fix that is in place. `record` None: it was so before."""

    record: Record | None
    undo: tuple[str, ...] = ()
    lasts: str = ""


def apply(
    remedy: Remedy, parameters: Parameters, *, cause: str, seen_unix: float, journal: Journal, connects: Connects,
    persist: bool = False,
) -> Applied:  # fmt: skip
    """Put a fix in place; with `persist` also in the configuration file that keeps it over a restart.

    Raises:
        CulpaError: it was not put in place, or not wholly; says which, and how to get out.
    """
    hand = hand_for(parameters, connects)
    try:
        reason = hand.stale(seen_unix)
        if reason is not None:
            raise CulpaError(f"{reason}; nothing was changed", way_out="make a new verdict, and take the fix from that")
        if (obstacle := hand.obstacle()) is not None:
            raise CulpaError(f"{remedy.id} cannot be applied here: {obstacle}")
        identity = hand.identity()
        with journal.locked(key_of(parameters, identity)):
            _see_free(parameters, identity, journal)
            return _apply(remedy, parameters, cause, identity, hand, journal, persist=persist)
    finally:
        hand.close()


def _see_free(parameters: Parameters, identity: Identity, journal: Journal) -> None:
    """No other fix has this setting in its hands, nor has a check-up.

    Raises:
        CulpaError: one has.
    """
    key = key_of(parameters, identity)
    for record in journal.found().open:
        if record.key == key and (record.parameters.setting == parameters.setting or _twins(record, parameters)):
            what = f"the fix {record.id} ({record.fix}) of {target_of(record.parameters)} is in place"
            way_out = f"take that back first: culpa fix --undo {record.id}"
            raise CulpaError(f"{what}; nothing was changed", way_out=way_out)
    lent = journal.directory.parent / f"redis-{identity.run_id}.undo"
    if identity.run_id and parameters.setting == MONITOR and lent.exists():
        what = f"culpa redis --latency-monitor has changed {MONITOR} of that server for a while; nothing was changed"
        raise CulpaError(what, way_out="wait until it has ended; if it was killed, run culpa redis on the server again")


def _twins(record: Record, parameters: Parameters) -> bool:
    """Two forms of one limit."""
    return parameters.setting in record.before


def _apply(
    remedy: Remedy, parameters: Parameters, cause: str, identity: Identity, hand: Hand, journal: Journal, *,
    persist: bool,
) -> Applied:  # fmt: skip
    before = hand.read()
    if (why := _unnotable(before)) is not None:
        raise CulpaError(f"{why}; nothing was changed", way_out="set it by hand")
    during = hand.plan(before)
    file, content = looked(parameters, hand) if persist else (None, b"")
    if before == during and file is None:
        return Applied(record=None)
    record = journal.create(
        Record(
            id="f0", fix=remedy.id, cause=cause, parameters=parameters, identity=identity, before=before, during=during,
            at_unix=time.time(), file=file,
        )
    )  # fmt: skip
    if content:
        try:
            journal.keep(record, content)
        except CulpaError as reason:
            journal.close(record, "refused", reason.what)
            raise
    open_still = f"the fix may be in place or not, its record is {record.id}"
    way_out = f"culpa fix --undo {record.id}, or by hand: {_lines(hand.by_hand(before))}"
    try:
        hand.write(during)
        now = hand.read()
    except Refused as reason:
        raise _taken_back(record, hand, journal, str(reason)) from reason
    except Unreachable as reason:
        raise CulpaError(f"{reason.what}; {open_still}", way_out=way_out) from reason
    except KeyboardInterrupt as reason:
        raise Interrupted(f"interrupted; {open_still}", way_out=way_out) from reason
    wrong = {name: value for name, value in now.items() if value != during.get(name, next(iter(during.values())))}
    if wrong:
        name, value = next(iter(wrong.items()))
        said = f"{target_of(parameters)} was set and reads {value!r} ({name})"
        raise _taken_back(record, hand, journal, said)
    if file is not None:
        record = _kept(record, file, hand, journal)
    return Applied(record=record, undo=hand.by_hand(before), lasts=hand.lasts())


def _kept(record: Record, file: LastingFile, hand: Hand, journal: Journal) -> Record:
    """The configuration file written as well."""
    try:
        record = replace(record, file=written(file, record.parameters, hand, record.during))
        journal.amend(record)
    except (Refused, Unreachable) as reason:
        raise _taken_back(record, hand, journal, str(reason)) from reason
    return record


def _file_back(record: Record, journal: Journal) -> None:
    """The configuration file as before, where there is one.

    Raises:
        Refused: it cannot be written.
        CulpaError: its former bytes are not there.
    """
    if record.file is not None and standing(record.file) != "before":
        put_back(record.file, journal.kept(record) if record.file.before else b"")


def _taken_back(record: Record, hand: Hand, journal: Journal, why: str) -> CulpaError:
    """A fix that was refused, or half of it, or changed to something else than was asked: as before, if that can be."""
    try:
        goal = hand.goal(record.before, record.during, hand.read())
        if not reached(hand, goal):
            hand.write(goal)
        _file_back(record, journal)
        if reached(hand, goal):
            journal.close(record, "refused", why)
            return CulpaError(f"{why}; it is as it was before")
    except (Refused, Unreachable) as reason:
        why = f"{why}; {reason.what}"
    way_out = f"culpa fix --undo {record.id}, or by hand: {_lines(hand.by_hand(record.before))}"
    return CulpaError(f"{why}; it is not as it was before", way_out=way_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """How an undo ended. `by_hand`: what a person can do where the record stays open."""

    record: Record
    ended: Ended
    sentence: str
    by_hand: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        """Whether there is nothing left to do."""
        return self.ended not in ("changed", "failed")


def undo(record: Record, *, journal: Journal, connects: Connects, anyway: bool = False, keep: bool = False) -> Undone:
    """Put back what a record says, unless somebody else has set it since (`anyway`: even then).

    Args:
        record: an open one.
        journal: where it lies.
        connects: reaches Redis servers.
        anyway: whoever has set it.
        keep: change nothing, and close the record: what is set stays.

    Raises:
        CulpaError: another culpa is at work on it, or the record could not be closed.
    """
    with journal.locked(record.key):
        if record.id not in {one.id for one in journal.found().open}:
            return Undone(record=record, ended="as-before", sentence=f"{record.id} was taken back by another culpa")
        if keep:
            told = f"{target_of(record.parameters)} stays as it is; {record.id} is closed"
            return _closed(journal, record, "kept", told)
        try:
            hand = hand_for(record.parameters, connects)
        except Refused as reason:
            return Undone(record=record, ended="failed", sentence=reason.what)
        try:
            return _undo(record, hand, journal, anyway=anyway)
        except (Refused, Unreachable) as reason:
            return Undone(
                record=record, ended="failed", by_hand=hand.by_hand(record.before),
                sentence=f"{target_of(record.parameters)} could not be put back: {reason}; {record.id} stays open",
            )  # fmt: skip
        finally:
            hand.close()


def _undo(record: Record, hand: Hand, journal: Journal, *, anyway: bool) -> Undone:
    what = target_of(record.parameters)
    how, sentence = hand.standing(record.identity, record.at_unix)
    if how == "gone" and record.file is None:
        return _closed(journal, record, "gone", sentence)
    if how == "unclear":
        return Undone(
            record=record, ended="failed", by_hand=hand.by_hand(record.before),
            sentence=f"{sentence}; nothing was changed, {record.id} stays open",
        )  # fmt: skip
    if record.file is not None and standing(record.file) == "changed" and not anyway:
        return Undone(
            record=record, ended="changed", by_hand=hand.by_hand(record.before),
            sentence=f"somebody else has changed {printable(record.file.path)} since; nothing was changed, "
            f"{record.id} stays open",
        )  # fmt: skip
    now = hand.read()
    goal = hand.goal(record.before, record.during, now)
    foreign = {
        name: value for name, value in now.items()
        if name in record.before and value not in (record.before[name], record.during.get(name))
    }  # fmt: skip
    if foreign and not anyway:
        name, value = next(iter(foreign.items()))
        return Undone(
            record=record, ended="changed", by_hand=hand.by_hand(goal),
            sentence=f"somebody else has set {what} since: {_spelt(name, value)}, the fix made it "
            f"{printable(record.during.get(name, ''), 80)!r}, before that it was "
            f"{printable(record.before[name], 80)!r}; nothing was changed, {record.id} stays open",
        )  # fmt: skip
    is_before = record.file is None or standing(record.file) == "before"
    if is_before and all(now.get(name) == value for name, value in goal.items()):
        return _closed(journal, record, "as-before", f"{what} is as it was before")
    hand.write(goal)
    if not reached(hand, goal):
        raise Unreachable("it reads otherwise than it was set")
    _file_back(record, journal)
    if record.file is not None:
        what = f"{printable(record.file.path)} is as it was before; {what}"
    values = sorted({printable(value, 80) for value in goal.values()} - {"0"}) or ["0"]
    return _closed(journal, record, "undone", f"{what} is {' and '.join(values) or repr('')} again")


def _closed(journal: Journal, record: Record, outcome: Outcome, sentence: str) -> Undone:
    told = journal.close(record, outcome, sentence)
    return Undone(record=record, ended=outcome, sentence=f"{sentence} ({told})" if told else sentence)


def reached(hand: Hand, goal: State) -> bool:
    """Whether it reads as it shall; parts that have ended meanwhile are not missed."""
    now = hand.read()
    return all(now[name] == value for name, value in goal.items() if name in now)


def _unnotable(state: State) -> str | None:
    for name, value in state.items():
        if not can_be_noted(value):
            return f"{name} has a value of more than {LONGEST_VALUE} characters, or of others than can be noted"
    return None


def _spelt(name: str, value: str) -> str:
    return f"{name} is {printable(value, 80)!r}"


def _lines(commands: tuple[str, ...]) -> str:
    return " && ".join(commands[:4]) + (f" and {len(commands) - 4} more" if len(commands) > 4 else "")
