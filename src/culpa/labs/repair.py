"""A fix of a verdict, tried as a user would: put in place by `culpa fix`, timed by the lab's own clock, and taken back.

Only what the run made itself is changed: its Redis servers, its processes, its control groups. A setting of the kernel
is one of the whole host, which a lab leaves as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from culpa.diagnose.verdict import Cause, Predicted, Verdict
from culpa.fix.parameters import GroupSetting, KernelSetting, Parameters, State
from culpa.fix.proposals import Proposal, proposals
from culpa.fix.trialviews import FixMeasured
from culpa.labs import ledger, leftovers, product
from culpa.labs.lab import Repair
from culpa.labs.places import PREFIX
from culpa.labs.site import Site
from culpa.units import format_seconds

VERDICT = "verdict.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The lab's own: seconds of a request `before` and `after`, and `settings`: what must read the same afterwards."""

    before: Callable[[], float]
    after: Callable[[], float]
    settings: Callable[[], object]
    say: Callable[[str], None]


def tried(site: Site, verdict: Verdict, clock: Clock) -> Repair:
    """Try the first fix that the verdict offers, for a cause above a note, and that culpa can apply to this run.

    Raises:
        NoVerdictError: `culpa fix` said something that is no answer.
        LabError: the lab could not measure.
    """
    offered = list(_offered(site, verdict))
    chosen = next((one for one, own in offered if own and one.parameters is not None), None)
    if chosen is None:
        return Repair(sentence=_none(offered))
    file = site.directory / VERDICT
    file.write_bytes(msgspec.json.encode(verdict))
    (look,) = product.look_at_fix(site, file, chosen.id).fixes
    plain = Repair(fix=chosen.id, cause=chosen.cause, sentence="", prediction=_prediction(verdict, chosen.cause))
    if look.state != "can" or look.target is None or look.before is None:
        why_not = look.why_not or "it is so already"
        return msgspec.structs.replace(plain, sentence=f"culpa does not apply it here: {why_not}")
    clock.say(f"culpa fix {chosen.id} --apply --verify")
    before, settings = clock.before(), clock.settings()
    site.ledger.note(ledger.Fix(fix=chosen.id.partition(".")[0], target=look.target, at_unix=time.time()))
    done = product.apply_fix(site, file, chosen.id)
    in_place = done.kept and done.record is not None
    after = clock.after() if in_place else None
    told = _taken_back(site, done, clock)
    undone = clock.settings() == settings and _reads(site, chosen.id) == look.before
    return msgspec.structs.replace(
        plain, before=before, after=after, verified=done.result, undone=undone, within=_within(plain.prediction, after),
        sentence=f"{_spoken(look.before)} -> {_spoken(look.after or {})}: {done.sentence}; {told}",
    )  # fmt: skip


def lines(repair: Repair) -> Iterator[str]:
    """What became of it, for a reader."""
    yield f"{repair.fix}: {repair.sentence}" if repair.fix else repair.sentence
    if repair.before is not None and repair.after is not None:
        yield f"measured {format_seconds(repair.before)} -> {format_seconds(repair.after)}{_held(repair)}"
    if repair.undone is not None:
        yield "everything reads as before" if repair.undone else "it does NOT read as before: culpa fix --undo"


def _offered(site: Site, verdict: Verdict) -> Iterator[tuple[Proposal, bool]]:
    """What is proposed for causes above a note, strongest first, and whether it would change only what the run made."""
    heads = {one.id for head in verdict.causes if head.level != "note" for one in (head, *head.because)}
    for one in proposals(verdict):
        if one.cause in heads:
            yield one, one.parameters is not None and _is_own(site, one.parameters)


def _is_own(site: Site, parameters: Parameters) -> bool:
    if isinstance(parameters, GroupSetting):
        return PREFIX in parameters.group
    if isinstance(parameters, KernelSetting) or parameters.pid is None:
        return False
    return leftovers.is_of_run(parameters.pid, site.places)


def _none(offered: list[tuple[Proposal, bool]]) -> str:
    """Why there is nothing to try."""
    if not offered:
        return "the verdict offers no fix"
    by_hand = [one.id for one, _ in offered if one.parameters is None]
    of_host = [one.id for one, own in offered if one.parameters is not None and not own]
    said = [f"culpa does not make it: {', '.join(by_hand)}"] if by_hand else []
    said += [f"the lab leaves what is not its own as it is: {', '.join(of_host)}"] if of_host else []
    return f"no fix was tried; {'; '.join(said)}"


def _taken_back(site: Site, done: FixMeasured, clock: Clock) -> str:
    """Undo it, unless that has happened; how that ended."""
    if done.record is None:
        return done.undone.sentence if done.undone is not None else done.state
    clock.say(f"culpa fix --undo {done.record.id}")
    return "; ".join(row.sentence for row in product.undo_fix(site, done.record.id).records)


def _reads(site: Site, fix: str) -> State | None:
    (look,) = product.look_at_fix(site, site.directory / VERDICT, fix).fixes
    return look.before


def _prediction(verdict: Verdict, cause: str) -> Predicted | None:
    return next((one.predicted for one in _everywhere(verdict.causes) if one.id == cause), None)


def _everywhere(causes: tuple[Cause, ...]) -> Iterator[Cause]:
    for cause in causes:
        yield cause
        yield from _everywhere(cause.because)


def _within(prediction: Predicted | None, after: float | None) -> bool | None:
    return None if prediction is None or after is None else prediction.low <= after <= prediction.high


def _held(repair: Repair) -> str:
    """The measured beside the predicted."""
    if repair.prediction is None:
        return ""
    likely, low, high = (format_seconds(one) for one in msgspec.structs.astuple(repair.prediction))
    return f", predicted {likely} ({low} to {high}): {'within' if repair.within else 'outside of'} that range"


def _spoken(state: State) -> str:
    return " and ".join(sorted(set(state.values()))) or "nothing"
