"""What `culpa fix --json` prints; the words of `telling.py` are made of the same.

`before`, `after`, `during`: names and values as they are read. `apply`, `undo`, `by_hand`: lines for a shell. Times are
RFC 3339 in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from culpa.fix.hands import Server
from culpa.fix.journal import Found, Outcome, Record
from culpa.fix.parameters import RedisSetting, State, target_of
from culpa.fix.proposals import Proposal
from culpa.fix.run import Applied, Ended, Look, Undone, hand_for

FixState = Literal["can", "cannot", "done", "by-hand", "refused"]
"""It can be applied; it cannot, here or now; it is so already; it is for a person; the verdict's word is not taken."""


class FixView(msgspec.Struct, frozen=True, kw_only=True):
    """One fix as it stands now. Null: not known, or not one that culpa applies."""

    id: str
    cause: str
    title: str
    state: FixState
    why_not: str
    target: str | None
    before: State | None
    after: State | None
    does: str
    costs: str
    loses: str
    lasts: str
    apply: tuple[str, ...]
    undo: tuple[str, ...]
    reversible: bool


class RecordView(msgspec.Struct, frozen=True, kw_only=True):
    """One record: a fix in place (`outcome` null), or how it ended. `file`: what keeps it over a restart."""

    id: str
    fix: str
    cause: str
    target: str
    before: State
    during: State
    applied: str
    outcome: Outcome | None
    ended: str | None
    note: str
    by_hand: tuple[str, ...]
    file: str | None = None


class FixList(msgspec.Struct, frozen=True, kw_only=True):
    """`culpa fix --json`, and with an ID, in which case it holds that one alone."""

    schema: Literal["culpa.fix-list/1"] = "culpa.fix-list/1"
    headline: str
    seen: str
    fixes: tuple[FixView, ...]
    open: tuple[RecordView, ...]
    strange: tuple[str, ...]


class FixApplied(msgspec.Struct, frozen=True, kw_only=True):
    """`culpa fix ID --apply --json`. `record` null: it was so already."""

    schema: Literal["culpa.fix-applied/1"] = "culpa.fix-applied/1"
    fix: FixView
    record: RecordView | None


class UndoneView(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one record. `changed` and `failed`: it stays open, and `by_hand` is the way out."""

    record: str
    fix: str
    target: str
    ended: Ended
    sentence: str
    by_hand: tuple[str, ...]


class FixUndone(msgspec.Struct, frozen=True, kw_only=True):
    """`culpa fix --undo --json`."""

    schema: Literal["culpa.fix-undone/1"] = "culpa.fix-undone/1"
    records: tuple[UndoneView, ...]
    still_open: int
    strange: tuple[str, ...]


class FixLog(msgspec.Struct, frozen=True, kw_only=True):
    """`culpa fix --log --json`, oldest first."""

    schema: Literal["culpa.fix-log/1"] = "culpa.fix-log/1"
    records: tuple[RecordView, ...]
    strange: tuple[str, ...]


def of_proposal(proposal: Proposal, now: Look | None) -> FixView:
    """One fix; `now` None: it is for a person, or refused."""
    known = proposal.remedy
    if known is None or proposal.parameters is None or now is None:
        return FixView(
            id=proposal.id, cause=proposal.cause, title=proposal.title,
            state="refused" if proposal.refused else "by-hand", why_not=proposal.refused, target=None, before=None,
            after=None, does=proposal.change, costs=proposal.risk, loses="", lasts="", apply=(), undo=(),
            reversible=False,
        )  # fmt: skip
    state: FixState = "cannot" if now.obstacle else "done" if now.done else "can"
    return FixView(
        id=proposal.id, cause=proposal.cause, title=proposal.title, state=state, why_not=now.obstacle,
        target=target_of(proposal.parameters), before=now.before, after=now.after, does=known.does, costs=known.costs,
        loses=known.loses, lasts=now.lasts, apply=now.apply, undo=now.undo, reversible=True,
    )  # fmt: skip


def of_record(record: Record) -> RecordView:
    """One record; what a person would do about it only while it is open."""
    by_hand: tuple[str, ...] = ()
    if record.outcome is None:
        by_hand = hand_for(record.parameters, _nobody).by_hand(record.before)
    return RecordView(
        id=record.id, fix=record.fix, cause=record.cause, target=target_of(record.parameters), before=record.before,
        during=record.during, applied=_time(record.at_unix), outcome=record.outcome,
        ended=_time(record.closed_unix) if record.closed_unix is not None else None, note=record.note, by_hand=by_hand,
        file=record.file.path if record.file is not None else None,
    )  # fmt: skip


def of_applied(view: FixView, applied: Applied) -> FixApplied:
    """A fix that was just applied."""
    return FixApplied(fix=view, record=of_record(applied.record) if applied.record else None)


def of_undone(undone: list[Undone], strange: tuple[str, ...]) -> FixUndone:
    """Records that were taken back, or not."""
    rows = tuple(
        UndoneView(
            record=one.record.id, fix=one.record.fix, target=target_of(one.record.parameters), ended=one.ended,
            sentence=one.sentence, by_hand=one.by_hand,
        )
        for one in undone
    )  # fmt: skip
    return FixUndone(records=rows, still_open=sum(not one.closed for one in undone), strange=strange)


def of_found(found: Found) -> FixLog:
    """The whole history, with what is in place."""
    records = sorted((*found.open, *found.closed), key=lambda one: one.number)
    return FixLog(records=tuple(of_record(one) for one in records), strange=found.strange)


def _nobody(parameters: RedisSetting) -> Server:
    """For a hand that is only asked how a person would do it."""
    raise AssertionError(parameters.server)


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
