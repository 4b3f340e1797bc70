"""Fixes in words: a list, a preview, what was done, and what is left to do, as lines for a terminal.

Values that come from a server or a verdict are made printable here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from culpa.fix.parameters import State
from culpa.fix.trialviews import FixMeasured, contrast_in_words, percent, side_in_words
from culpa.fix.views import FixApplied, FixList, FixLog, FixUndone, FixView, RecordView, UndoneView
from culpa.units import format_seconds, printable

LABEL_CELLS: Final = 10
_STATES: Final = {
    "can": "can be applied", "cannot": "cannot be applied here", "done": "is so already",
    "by-hand": "by hand, culpa does not do it", "refused": "refused",
}  # fmt: skip
_OUTCOMES: Final = {
    None: "in place", "undone": "taken back", "as-before": "was as before", "gone": "gone with its target",
    "kept": "kept on purpose", "refused": "was not taken",
}  # fmt: skip
_MODES: Final = {"verify": "measured before and after", "try": "measured off and on"}
MOST_VALUES: Final = 4


def listing(fixes: FixList, width: int) -> Iterator[str]:
    """Every fix in a few lines."""
    yield from _field("from", f"the verdict of {fixes.seen}: {fixes.headline}", width)
    for fix in fixes.fixes:
        yield ""
        yield f"{printable(fix.id, 60)}  {_STATES[fix.state]}"
        yield from _field("for", f"{fix.title} ({fix.cause})", width)
        yield from _sets(fix, width)
        if fix.target is None:
            yield from _field("do", fix.does, width)
        if fix.why_not:
            yield from _field("why not", fix.why_not, width)
    if not fixes.fixes:
        yield "The verdict proposes no fix."
    yield from _still_open(fixes.open, fixes.strange, width)
    ready = next((fix.id for fix in fixes.fixes if fix.state == "can"), None)
    if ready is not None:
        yield ""
        yield from _field("next", f"culpa fix {ready}", width)


def preview(fix: FixView, width: int) -> Iterator[str]:
    """One fix in full; nothing was changed."""
    yield f"{printable(fix.id, 60)}  {_STATES[fix.state]}"
    yield from _field("for", f"{fix.title} ({fix.cause})", width)
    if fix.target is not None:
        yield from _field("target", fix.target, width)
    if fix.before is not None and fix.after is not None:
        yield from _field("now", _values(fix.before), width)
        yield from _field("then", _values(fix.after), width)
    yield from _field("do" if fix.target is None else "does", fix.does, width)
    yield from _field("costs", fix.costs, width)
    yield from _field("may lose", fix.loses, width)
    yield from _field("lasts", fix.lasts, width)
    yield from _commands("by hand", fix.apply)
    yield from _commands("undo", fix.undo)
    yield from _field("why not", fix.why_not, width)
    yield "Nothing was changed." + (f" To apply it: culpa fix {fix.id} --apply" if fix.state == "can" else "")


def applied(done: FixApplied, width: int) -> Iterator[str]:
    """What was just set, and how to take it back."""
    if done.record is None:
        yield f"{done.fix.target} is {_values(done.fix.after or {})} already. Nothing was changed."
        return
    record = done.record
    yield f"{record.fix} is in place as {record.id}."
    yield from _field("set", f"{record.target} from {_values(record.before)} to {_values(record.during)}", width)
    yield from _field("may lose", done.fix.loses, width)
    kept = f"over a restart: {record.file} was written, what it was before is kept until the undo"
    yield from _field("lasts", kept if record.file else done.fix.lasts, width)
    yield from _field("undo", f"culpa fix --undo {record.id}", width)
    yield from _commands("by hand", record.by_hand)


def undone(done: FixUndone, width: int) -> Iterator[str]:
    """What was taken back, and the way out for what was not."""
    for one in done.records:
        yield from _field(one.record, one.sentence, width)
        yield from _ways_out(one, width)
        yield from _commands("by hand", one.by_hand)
    yield from _odd(done.strange, width)


def measured(done: FixMeasured, width: int) -> Iterator[str]:
    """What was measured without a fix and with it, what that proves, and how it stands now."""
    yield f"{printable(done.fix.id, 60)}  {_MODES[done.mode]}"
    yield from _sets(done.fix, width)
    if done.pairs:
        blocks = f"{done.pairs} pairs of blocks of {format_seconds(done.block_seconds)}, one off and one on"
        yield from _field("trial", f"{blocks}, in a drawn order", width)
    yield from _field("asked", done.asked, width)
    yield from _field("without", side_in_words(done.off), width)
    yield from _field("with", side_in_words(done.on), width)
    if not done.undone or done.p50 or done.p99:
        yield from _field("p50", contrast_in_words(done.p50), width)
        yield from _field("p99", contrast_in_words(done.p99), width)
    if done.drift_p50 is not None:
        p99 = f", p99 {percent(done.drift_p99)}" if done.drift_p99 is not None else ""
        yield from _field("drift", f"by itself, before the fix: p50 {percent(done.drift_p50)}{p99}", width)
    yield from _field("result", done.sentence, width)
    yield from _field("state", done.state, width)
    if done.undone is not None:
        yield from _ways_out(done.undone, width)
        yield from _commands("by hand", done.undone.by_hand)
    elif done.record is not None:
        yield from _field("may lose", done.fix.loses, width)
        yield from _field("undo", f"culpa fix --undo {done.record.id}", width)
        yield from _commands("by hand", done.record.by_hand)


def log(history: FixLog, width: int) -> Iterator[str]:
    """Every record there is, oldest first."""
    for one in history.records:
        ended = f" at {one.ended}" if one.ended else ""
        yield from _field(one.id, f"{one.applied} {one.fix}: {_OUTCOMES[one.outcome]}{ended}", width)
        yield from _field("", f"{one.target} from {_values(one.before)} to {_values(one.during)}", width)
        if one.note and one.outcome not in ("undone", "as-before"):
            yield from _field("", one.note, width)
    if not history.records:
        yield "No fix was applied yet."
    yield from _odd(history.strange, width)


def _sets(fix: FixView, width: int) -> Iterator[str]:
    """What it changes, as far as that is known."""
    if fix.target is not None and fix.before is not None and fix.after is not None:
        yield from _field("sets", f"{fix.target} from {_values(fix.before)} to {_values(fix.after)}", width)
    elif fix.target is not None:
        yield from _field("sets", fix.target, width)


def _ways_out(one: UndoneView, width: int) -> Iterator[str]:
    """Of a record that stays open."""
    if one.ended == "changed":
        yield from _field("", f"to put it back all the same: culpa fix --undo {one.record} --anyway", width)
        yield from _field("", f"to leave it as it is:        culpa fix --undo {one.record} --keep", width)
    if one.ended == "failed":
        yield from _field("", f"to try it again: culpa fix --undo {one.record}", width)
        yield from _field("", f"to give it up, and leave it as it is: culpa fix --undo {one.record} --keep", width)


def _still_open(records: Iterable[RecordView], strange: Iterable[str], width: int) -> Iterator[str]:
    for record in records:
        yield ""
        yield f"{record.id}  is in place since {record.applied}: {record.fix}"
        yield from _field("set", f"{record.target} from {_values(record.before)} to {_values(record.during)}", width)
        yield from _field("undo", f"culpa fix --undo {record.id}", width)
    yield from _odd(strange, width)


def _odd(strange: Iterable[str], width: int) -> Iterator[str]:
    for sentence in strange:
        yield from _field("beware", sentence, width)


def _values(state: State) -> str:
    """Values without what says nothing: the same ones once, and of two forms the one that holds."""
    if len(set(state.values())) == 1:
        return _value(next(iter(state.values())))
    if all(not name[0].isdigit() for name in state):
        return ", ".join(f"{name}={_value(value)}" for name, value in state.items() if value != "0")
    parts = [f"{name.partition('@')[0]}: {_value(value)}" for name, value in state.items()]
    more = f" and {len(parts) - MOST_VALUES} more" if len(parts) > MOST_VALUES else ""
    return ", ".join(parts[:MOST_VALUES]) + more


def _value(value: str) -> str:
    return printable(value, 80) or "nothing"


def _field(label: str, text: str, width: int) -> Iterator[str]:
    """A label and a wrapped text; nothing where there is no text."""
    lines = textwrap.wrap(printable(text, 1000), max(20, width - LABEL_CELLS - 2), break_on_hyphens=False)
    for number, line in enumerate(lines):
        yield f"  {'' if number else label:{LABEL_CELLS - 1}} {line}"


def _commands(label: str, commands: tuple[str, ...]) -> Iterator[str]:
    """Lines for a shell, whole, so that they can be copied."""
    for number, command in enumerate(commands[: 4 * MOST_VALUES]):
        yield f"  {'' if number else label:{LABEL_CELLS - 1}} {printable(command, 5000)}"
    if len(commands) > 4 * MOST_VALUES:
        yield f"  {'':{LABEL_CELLS - 1}} and {len(commands) - 4 * MOST_VALUES} more: see --json"
