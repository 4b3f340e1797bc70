"""The score over all labs: how often culpa is right, how fast, and how far its confidence can be trusted.

The structs are `culpa.bench/1`. A case is one stage of a lab: one diagnosis held against one truth.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from culpa.diagnose.verdict import Node, Predicted, Verdict
from culpa.errors import LabError, UsageError
from culpa.labs import catalogue, run, standstills
from culpa.labs.lab import Family, Lab, LabResult, Measured, Parameters, Score, Stage, Standstills, Truth
from culpa.labs.product import NoVerdictError
from culpa.labs.rates import Calibration, calibration, quantile, wilson
from culpa.labs.standstills import Attribution
from culpa.units import format_seconds

SCHEMA = "culpa.bench/1"
KEYS = (2_000, 6_000)
WRITE_IOPS = (500, 1_200)
"""Ranges that a case's parameters are drawn from."""

Rate = tuple[float, float, float] | None
"""Value and its Wilson 95 % interval; null where nothing was tried."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A cause above a note that culpa named first or beside others; `right`: it is true, demanded or not."""

    id: str
    confidence: float
    right: bool


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One diagnosis without its verdict.

    `seconds`: from culpa's start to its verdict; `explained`: the share of the root's time that has an explanation.
    Both are null where it gave none. `disturbed`: what disturbed the run from outside. `standstills`: of check-ups.
    """

    lab: str
    stage: str
    family: Family
    parameters: dict[str, int | str | bool]
    truth: Truth
    heads: tuple[Head, ...]
    measured: Measured | None
    score: Score
    seconds: float | None
    explained: float | None
    disturbed: tuple[str, ...] = ()
    standstills: Standstills | None = None


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A lab that was to run and did not."""

    lab: str
    why: str


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The cases with so many true causes: `name` is sound, one cause, or several causes. Those of the first two beside
    which something conspicuous went on are told once more, as red herrings.
    """

    name: str
    cases: int
    top1: Rate
    all_named: Rate
    false_alarm_rate: Rate


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """All cases and what they add up to. `false_alarm_rate`: cases with a head that is not true.

    `median_seconds`, `p95_seconds`: from culpa's start to its verdict where it looked as long as it had to;
    `checkup_median_seconds`: of check-ups, which look for a time that is set before.

    `predictions`: cases that were repaired and measured again, with a prediction; `prediction_within`: those in which
    what was measured lies in the predicted range; `widest_prediction`: the widest of these ranges as its upper bound
    over its lower one, null where there is none or a lower bound is 0.
    """

    schema: str = SCHEMA
    seed: int
    trace: bool
    cases: tuple[Case, ...]
    skipped: tuple[Skipped, ...]
    top1: Rate
    all_named: Rate
    who: Rate
    on: Rate
    path: Rate
    false_alarm_rate: Rate
    groups: tuple[Group, ...]
    median_seconds: float | None
    p95_seconds: float | None
    median_explained: float | None
    least_explained: float | None
    median_prediction_error: float | None
    calibration: tuple[Calibration, ...]
    predictions: int = 0
    prediction_within: Rate = None
    widest_prediction: float | None = None
    standstills: Attribution | None = None
    checkup_median_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which labs to run.

    `sound`: only those in which nothing is wrong. `sample`: so many of them, drawn at random; None: all. `runs`: so
    many runs, each of a lab drawn anew from those; None: each once.
    """

    seed: int
    family: str | None = None
    sound: bool = False
    sample: int | None = None
    runs: int | None = None
    trace: bool = True


def run_bench(plan: Plan, *, progress: Callable[[str], None], labs: Sequence[Lab] = catalogue.LABS) -> Bench:
    """Run the labs of a plan, one after the other; what cannot run here is counted as skipped, by name.

    Raises:
        UsageError: no such lab is of that family.
        KeyboardInterrupt: it was interrupted; everything is undone.
    """
    drawn = random.Random(plan.seed)  # noqa: S311 - parameters, not secrets
    cases: list[Case] = []
    skipped: list[Skipped] = []
    for lab in _chosen(plan, labs, drawn):
        parameters = _parameters(drawn)
        progress(f"{lab.name}: {parameters.keys} keys, {parameters.write_iops} writes a second, seed {parameters.seed}")
        try:
            found = list(_cases(lab, run.run_lab(lab.name, parameters=parameters, trace=plan.trace, progress=_silent)))
        except NoVerdictError as error:
            progress(f"  {error}")
            found = [_failed(lab, parameters)]
        except LabError as error:
            skipped.append(Skipped(lab=lab.name, why=str(error)))
            progress(f"  skipped: {error}")
            continue
        cases += found
        for case in found:
            progress(f"  {case.stage}: {_said(case)}")
    return summed(plan, cases, skipped)


def summed(plan: Plan, cases: Sequence[Case], skipped: Sequence[Skipped] = ()) -> Bench:
    """What the cases add up to."""
    seconds = [case.seconds for case in cases if case.seconds is not None and case.standstills is None]
    checkups = [case.seconds for case in cases if case.seconds is not None and case.standstills is not None]
    explained = [case.explained for case in cases if case.explained is not None]
    errors = [case.score.prediction_error for case in cases if case.score.prediction_error is not None]
    ranges = [case.score.predicted for case in cases if case.score.predicted is not None]
    return Bench(
        seed=plan.seed,
        trace=plan.trace,
        cases=tuple(cases),
        skipped=tuple(skipped),
        top1=_rate(case.score.top1 for case in cases),
        all_named=_rate(case.score.all_named for case in cases),
        who=_rate(case.score.who for case in cases if case.truth.who),
        on=_rate(case.score.on for case in cases if case.truth.on),
        path=_rate(case.score.path for case in cases if case.truth.path),
        false_alarm_rate=_rate(bool(case.score.false_alarms) for case in cases),
        groups=tuple(_groups(cases)),
        median_seconds=round(median(seconds), 3) if seconds else None,
        p95_seconds=quantile(seconds, 0.95),
        median_explained=round(median(explained), 4) if explained else None,
        least_explained=min(explained, default=None),
        median_prediction_error=round(median(errors), 4) if errors else None,
        calibration=calibration((head.confidence, head.right) for case in cases for head in case.heads),
        predictions=len(ranges),
        prediction_within=_rate(case.score.within for case in cases if case.score.within is not None),
        widest_prediction=_widest(ranges),
        standstills=standstills.summed(
            [(case.lab, bool(case.truth.causes), case.standstills) for case in cases if case.standstills is not None]
        ),
        checkup_median_seconds=round(median(checkups), 3) if checkups else None,
    )


def table(bench: Bench) -> Iterator[str]:
    """The score as lines of text."""
    yield f"{len(bench.cases)} cases, seed {bench.seed}, {'with' if bench.trace else 'without'} tracing"
    for name in ("top1", "all_named", "who", "on", "path", "false_alarm_rate"):
        yield f"  {name.replace('_', ' '):18} {_spoken(getattr(bench, name))}"
    for group in bench.groups:
        right = f"first right {_spoken(group.top1)}, all named {_spoken(group.all_named)}"
        yield f"  {group.name:18} {group.cases} cases: {right}, false alarms {_spoken(group.false_alarm_rate)}"
    if bench.median_seconds is not None and bench.p95_seconds is not None:
        within = f"median {format_seconds(bench.median_seconds)}, p95 {format_seconds(bench.p95_seconds)}"
        yield f"  {'time to verdict':18} {within}"
    if bench.checkup_median_seconds is not None:
        yield f"  {'of check-ups':18} median {format_seconds(bench.checkup_median_seconds)}"
    if bench.median_explained is not None and bench.least_explained is not None:
        shares = f"median {bench.median_explained:.1%}, least {bench.least_explained:.1%} of the root's time"
        yield f"  {'explained':18} {shares}"
    if bench.median_prediction_error is not None:
        yield f"  {'prediction error':18} median {bench.median_prediction_error:.0%} of the saving"
    if bench.prediction_within is not None:
        yield f"  {'predicted range':18} {_ranges_spoken(bench)}"
    if bench.standstills is not None:
        yield from standstills.lines(bench.standstills)
    for step in bench.calibration:
        yield f"  {f'sure {step.low:.1f} to {step.high:.1f}':18} {step.right} of {step.named} right"
    for case in bench.cases:
        if not case.score.found or case.score.false_alarms or case.score.within is False:
            yield f"  {case.lab}, {case.stage}: {_said(case)}"
    for skipped in bench.skipped:
        yield f"  {skipped.lab} skipped: {skipped.why}"


def _chosen(plan: Plan, labs: Sequence[Lab], drawn: random.Random) -> list[Lab]:
    among = [lab for lab in labs if not (plan.sound and lab.fires)]
    found = [lab for lab in among if plan.family in (None, lab.family)]
    if not found:
        families = ", ".join(sorted({lab.family for lab in among}))
        raise UsageError(f"no such lab is of the family {plan.family!r}", way_out=f"choose one of {families}")
    if plan.sample is not None:
        found = drawn.sample(found, min(plan.sample, len(found)))
    return found if plan.runs is None else drawn.choices(found, k=plan.runs)


def _parameters(drawn: random.Random) -> Parameters:
    return Parameters(
        keys=drawn.randint(*KEYS), write_iops=drawn.randint(*WRITE_IOPS), seed=drawn.randrange(1, 1 << 31)
    )


def _cases(lab: Lab, result: LabResult) -> Iterator[Case]:
    for stage in result.stages:
        yield Case(
            lab=lab.name,
            stage=stage.name,
            family=lab.family,
            parameters=result.parameters,
            truth=stage.truth,
            heads=tuple(_heads(stage)),
            measured=stage.measured,
            score=stage.score,
            seconds=round(stage.seconds, 3),
            explained=_explained(stage.verdict),
            disturbed=result.disturbed,
            standstills=stage.standstills,
        )


def _failed(lab: Lab, parameters: Parameters) -> Case:
    """culpa gave no verdict: everything demanded was missed."""
    nothing = Score(
        top1=False, all_named=False, who=False, on=False, path=False, false_alarms=(), prediction_error=None
    )
    return Case(
        lab=lab.name,
        stage="no verdict",
        family=lab.family,
        parameters={"keys": parameters.keys, "write_iops": parameters.write_iops, "seed": parameters.seed},
        truth=Truth(causes=lab.fires),
        heads=(),
        measured=None,
        score=nothing,
        seconds=None,
        explained=None,
    )


def _groups(cases: Sequence[Case]) -> Iterator[Group]:
    by_name: dict[str, list[Case]] = {"sound": [], "one cause": [], "several causes": []}
    for case in cases:
        by_name[("sound", "one cause", "several causes")[min(len(case.truth.causes), 2)]].append(case)
    by_name["red herrings"] = [case for case in cases if case.family == "herring"]
    for name, found in by_name.items():
        if found:
            yield Group(
                name=name,
                cases=len(found),
                top1=_rate(case.score.top1 for case in found),
                all_named=_rate(case.score.all_named for case in found),
                false_alarm_rate=_rate(bool(case.score.false_alarms) for case in found),
            )


def _heads(stage: Stage) -> Iterator[Head]:
    true = {*stage.truth.causes, *stage.truth.may}
    for cause in stage.verdict.causes:
        if cause.level != "note":
            yield Head(id=cause.id, confidence=cause.confidence, right=cause.id in true)


def _explained(verdict: Verdict) -> float | None:
    """The share of the root's time that does not end in a leaf `unexplained`; null without any time."""
    if not verdict.root.seconds:
        return None
    return round(1 - _unexplained(verdict.blame) / verdict.root.seconds, 4)


def _unexplained(node: Node) -> float:
    if node.kind == "unexplained":
        return node.seconds
    return sum(_unexplained(child) for child in node.children)


def _widest(ranges: Sequence[Predicted]) -> float | None:
    if not ranges or any(one.low <= 0 for one in ranges):
        return None
    return round(max(one.high / one.low for one in ranges), 2)


def _ranges_spoken(bench: Bench) -> str:
    """How many measured times lie within what was predicted, and how wide that was."""
    held = sum(case.score.within is True for case in bench.cases)
    holds = f"holds in {held} of {bench.predictions}: {_spoken(bench.prediction_within)}"
    if bench.widest_prediction is None:
        return f"{holds}; one begins at 0"
    return f"{holds}; the widest a factor of {bench.widest_prediction:.1f}"


def _rate(hits: Iterator[bool]) -> Rate:
    found = list(hits)
    return wilson(sum(found), len(found))


def _said(case: Case) -> str:
    named = ", ".join(head.id for head in case.heads) or "nothing named"
    named += f" in {format_seconds(case.seconds)}" if case.seconds is not None else ""
    missed = f"; missed: {', '.join(case.score.missed)}" if case.score.missed else ""
    outside = f"; {_missed_range(case)}" if case.score.within is False else ""
    stood = f"; {standstills.spoken(case.standstills)}" if case.standstills is not None else ""
    false = f"; false: {', '.join(case.score.false_alarms)}" if case.score.false_alarms else ""
    disturbed = "".join(f"; disturbed: {sentence}" for sentence in case.disturbed)
    return named + missed + false + outside + stood + disturbed


def _missed_range(case: Case) -> str:
    """A prediction that does not hold."""
    one, measured = case.score.predicted, case.measured
    if one is None or measured is None or measured.after_fix is None:
        return ""
    low, high = format_seconds(one.low), format_seconds(one.high)
    return f"predicted {format_seconds(one.p50)} ({low} to {high}), measured {format_seconds(measured.after_fix)}"


def _spoken(rate: Rate) -> str:
    return "not tried" if rate is None else f"{rate[0]:.1%} ({rate[1]:.1%} to {rate[2]:.1%})"


def _silent(_: str) -> None:
    """A lab's own words are too many beside the score."""
