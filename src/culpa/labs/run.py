"""One run of a lab, from its name to its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import msgspec

from culpa.collect.trace import tracer
from culpa.errors import LabError
from culpa.labs import catalogue, disturbance
from culpa.labs.lab import Conditions, Lab, LabResult, Parameters, Played, Repair, Stage


def run_lab(
    name: str, *, parameters: Parameters, trace: bool, progress: Callable[[str], None], fix: bool = False
) -> LabResult:
    """Run a lab and hold culpa's verdict against the truth; everything made for it is gone afterwards.

    Args:
        name: a name of the catalogue.
        parameters: amount of data, speed of the disk, seed.
        trace: whether culpa may use eBPF.
        progress: takes one line about each step.
        fix: whether a fix of the verdict is tried, and taken back.

    Raises:
        UsageError: no such lab.
        LabError: it cannot be run here, or one of its parts failed.
        KeyboardInterrupt: it was interrupted (also by SIGTERM or SIGHUP); everything is undone.
    """
    return run(catalogue.find(name), Conditions(parameters=parameters, trace=trace, progress=progress, fix=fix))


def run(lab: Lab, conditions: Conditions) -> LabResult:
    """`run_lab` for a lab at hand, with everything that can be set about a run."""
    reason = catalogue.why_not(lab)
    if reason is not None:
        raise LabError(f"the lab {lab.name} cannot run here: {reason}")
    if "trace" in lab.needs and not conditions.trace:
        raise LabError(f"the lab {lab.name} cannot be judged by samples", way_out="run it without --no-trace")
    conditions = replace(conditions, trace=conditions.trace and _can_trace(conditions.progress))
    started = time.monotonic()
    with disturbance.watched() as watch:
        played = lab.play(conditions)
        disturbed = watch.end()
    if conditions.fix:
        played = replace(played, stages=tuple(_told(stage) for stage in played.stages))
    result = _result(lab, conditions, played, seconds=time.monotonic() - started)
    return msgspec.structs.replace(result, disturbed=disturbed)


def _can_trace(progress: Callable[[str], None]) -> bool:
    """Whether eBPF works here; without it less can be demanded of a verdict, and the truth says so."""
    problem = tracer.usable()
    if problem is not None:
        progress(f"without tracing: {problem}")
    return problem is None


def _told(stage: Stage) -> Stage:
    """A stage that says why no fix was tried in it."""
    untried = Repair(sentence="no fix was tried: in this case nothing can be asked again and again")
    return stage if stage.repair is not None else msgspec.structs.replace(stage, repair=untried)


def _result(lab: Lab, conditions: Conditions, played: Played, *, seconds: float) -> LabResult:
    first, parameters = played.stages[0], conditions.parameters
    return LabResult(
        lab=lab.name,
        parameters={
            "keys": parameters.keys,
            "write_iops": parameters.write_iops,
            "seed": parameters.seed,
            "small": parameters.small,
            "trace": conditions.trace,
            "disk": played.disk,
            **played.drawn,
        },
        truth=first.truth,
        verdict=first.verdict,
        measured=first.measured,
        score=first.score,
        seconds=seconds,
        stages=played.stages,
        repair=first.repair,
    )
