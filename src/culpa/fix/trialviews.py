"""What `culpa fix --verify --json` and `--try --json` print, and the sentences that say what can be told from it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from culpa.fix.alternation import CONFIDENCE, Contrast
from culpa.fix.run import Undone
from culpa.fix.switch import Switch
from culpa.fix.trial import Measured, Mode, Result, Side
from culpa.fix.views import FixView, RecordView, UndoneView, of_record, of_undone
from culpa.units import format_seconds, format_share

ALTERNATE: Final = "culpa fix ID --try 60s turns it off and on, and can tell"


class SideView(msgspec.Struct, frozen=True, kw_only=True):
    """All answers with the fix, or without; seconds. p50 from 1, p99 from 100 answers, else null."""

    answers: int
    errors: int
    p50: float | None
    p99: float | None


class ContrastView(msgspec.Struct, frozen=True, kw_only=True):
    """A change by the fix as a share: -0.25 is a quarter less. `low`, `high`: the 95 % interval.

    `chance`: how often the drawn order of blocks alone gives one as large; null where there was no such order.
    """

    change: float
    low: float
    high: float
    chance: float | None


class FixMeasured(msgspec.Struct, frozen=True, kw_only=True):
    """`culpa fix ID --apply --verify --json`, and `--try`.

    `p50`, `p99` null: too little was measured to tell. `drift_p50`, `drift_p99`: how much it changed from the first
    half of the time before the fix to the second. `record`: the fix is in place, or its undo failed.
    """

    schema: Literal["culpa.fix-measured/1"] = "culpa.fix-measured/1"
    fix: FixView
    mode: Mode
    asked: str
    result: Result
    sentence: str
    off: SideView
    on: SideView
    p50: ContrastView | None
    p99: ContrastView | None
    pairs: int
    block_seconds: float
    drift_p50: float | None
    drift_p99: float | None
    kept: bool
    state: str
    record: RecordView | None
    undone: UndoneView | None


def of_measured(view: FixView, measured: Measured, switch: Switch, asked: str) -> FixMeasured:
    """A trial that ended."""
    in_place = switch.record is not None and (measured.kept or (measured.undone and not measured.undone.closed))
    undone = of_undone([measured.undone], ()).records[0] if measured.undone else None
    return FixMeasured(
        fix=view, mode=measured.mode, asked=asked, result=measured.result, sentence=_sentence(measured),
        off=_side(measured.off), on=_side(measured.on), p50=_contrast(measured.p50), p99=_contrast(measured.p99),
        pairs=measured.pairs, block_seconds=round(measured.block_seconds, 3),
        drift_p50=_change(measured.drift_p50), drift_p99=_change(measured.drift_p99), kept=measured.kept,
        state=_state(measured.undone, switch), record=of_record(switch.record) if in_place and switch.record else None,
        undone=undone,
    )  # fmt: skip


def _sentence(measured: Measured) -> str:
    undone = "so it was undone at once" if measured.undone and measured.undone.closed else "see below how it stands"
    match measured.result:
        case "worse" | "errors" if measured.why:
            return f"{measured.why}; {undone}"
        case "worse":
            return f"it is slower with the fix: {_proved(measured, rose=True)}"
        case "stopped":
            return f"{measured.why}; what was measured until then proves nothing"
        case "gain":
            return f"the fix makes it faster: {_proved(measured, rose=False)}"
        case "fell":
            return f"it is faster since the fix; that it is so by the fix, and no drift, is not proved: {ALTERNATE}"
        case "no-difference" if measured.mode == "try":
            return f"no difference was proved; what there may be lies within {_within(measured)}"
        case "no-difference":
            return f"no difference beyond noise; drift may hide a small one: {ALTERNATE}"
        case _:
            return _too_little(measured)


def _too_little(measured: Measured) -> str:
    few = f"{measured.off.answers} answers without the fix and {measured.on.answers} with it"
    if measured.mode == "verify":
        return f"{few} are too few for an interval: a difference cannot be told from drift; measure longer with --for"
    blocks = f"{measured.pairs} pairs of blocks" if measured.pairs != 1 else "1 pair of blocks"
    return f"{few}, in {blocks}, are too few for an interval: a difference cannot be told from drift; try it longer"


def _proved(measured: Measured, *, rose: bool) -> str:
    named = (("p50", measured.p50), ("p99", measured.p99))
    moved = [(name, one) for name, one in named if one and _is(one, rose=rose)]
    return " and ".join(f"{name} by {format_share(abs(one.ratio - 1))}" for name, one in moved)


def _is(one: Contrast, *, rose: bool) -> bool:
    return one.rose if rose else one.fell


def _within(measured: Measured) -> str:
    parts = [f"{_span(one)} of the {name}" for name, one in (("p50", measured.p50), ("p99", measured.p99)) if one]
    return " and ".join(parts)


def _state(undone: Undone | None, switch: Switch) -> str:
    if undone is not None:
        return undone.sentence
    record = switch.record
    return f"the fix is in place as {record.id}" if record else "nothing was changed"


def percent(share: float) -> str:
    """A change, with its sign: `-24 %`, `+0.4 %`."""
    return f"{100 * share:+.1f} %" if abs(share) < 0.0995 else f"{100 * share:+.0f} %"


def contrast_in_words(one: ContrastView | None) -> str:
    """A change and its interval."""
    if one is None:
        return "too few answers for an interval"
    chance = f"; by the order alone in {format_share(one.chance)}" if one.chance is not None else ""
    interval = f"{format_share(CONFIDENCE)} interval {percent(one.low)} to {percent(one.high)}"
    return f"{percent(one.change)} ({interval}{chance})"


def side_in_words(side: SideView) -> str:
    """Quantiles and counts."""
    p50 = f"p50 {format_seconds(side.p50)}" if side.p50 is not None else "no p50"
    p99 = f", p99 {format_seconds(side.p99)}" if side.p99 is not None else ""
    errors = f", {side.errors} failed" if side.errors else ""
    return f"{p50}{p99} ({side.answers:,} answers{errors})"


def _span(one: Contrast) -> str:
    return f"{percent(one.low - 1)} to {percent(one.high - 1)}"


def _side(side: Side) -> SideView:
    return SideView(answers=side.answers, errors=side.errors, p50=side.p50, p99=side.p99)


def _contrast(one: Contrast | None) -> ContrastView | None:
    if one is None:
        return None
    return ContrastView(change=one.ratio - 1, low=one.low - 1, high=one.high - 1, chance=one.chance)


def _change(ratio: float | None) -> float | None:
    return None if ratio is None else ratio - 1
