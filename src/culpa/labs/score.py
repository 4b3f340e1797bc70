"""A verdict held against the truth of a lab (pure). The measures are those of the contract, "Labs and the score"."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Iterator

from culpa.diagnose.verdict import Cause, Node, On, Predicted, Verdict
from culpa.labs.lab import Measured, Score, Truth, TruthOn, TruthStep, TruthWho


def score(verdict: Verdict, truth: Truth, measured: Measured, *, acquit: bool = True) -> Score:
    """Compare; where the truth demands nothing of a kind, that kind is right.

    Args:
        verdict: what culpa said.
        truth: how it is.
        measured: seconds of a request by the lab's own clock.
        acquit: whether the verdict on a sound case must say that nothing is wrong. Samples see too little of a fast
            request for that; of them only silence is demanded.
    """
    heads = [cause for cause in verdict.causes if cause.level != "note"]
    named = list(_with_becauses(verdict.causes))
    ids = {cause.id for cause in named}
    predicted = _predicted(verdict, truth, measured)
    return Score(
        top1=_top1(verdict, heads, truth, acquit=acquit),
        all_named=ids.issuperset(truth.causes),
        who=all(_who_named(named, wanted) for wanted in truth.who)
        and all(_named_together(named, cause, truth.bystanders) for cause in {w.cause for w in truth.bystanders}),
        on=all(_on_named(named, wanted) for wanted in truth.on),
        path=_descends(verdict.blame, truth.path),
        false_alarms=tuple(head.id for head in heads if head.id not in {*truth.causes, *truth.may}),
        prediction_error=_prediction_error(verdict, predicted, measured),
        predicted=predicted,
        within=_within(predicted, measured),
    )


def _top1(verdict: Verdict, heads: list[Cause], truth: Truth, *, acquit: bool) -> bool:
    """The first head is the first cause, or any of several without an order; where nothing is wrong, there is no head
    and enough was seen to say so.
    """
    if not truth.causes:
        return not heads and (verdict.state == "not-slow" or not acquit)
    return bool(heads) and heads[0].id in (truth.causes if truth.any_order else truth.causes[:1])


def _with_becauses(causes: Iterable[Cause]) -> Iterator[Cause]:
    for cause in causes:
        yield cause
        yield from _with_becauses(cause.because)


def _who_named(named: list[Cause], wanted: TruthWho) -> bool:
    return any(
        cause.id == wanted.cause
        and cause.who is not None
        and (cause.who.comm == wanted.comm if wanted.pid is None else cause.who.pid == wanted.pid)
        for cause in named
    )


def _named_together(named: list[Cause], cause_id: str, wanted: tuple[TruthWho, ...]) -> bool:
    """Whether the evidence of one cause of that id names all these processes as `comm[pid]`."""
    names = [f"{one.comm}[{one.pid}]" for one in wanted if one.cause == cause_id]
    facts = [[evidence.fact for evidence in cause.evidence] for cause in named if cause.id == cause_id]
    return any(all(any(name in fact for fact in of_cause) for name in names) for of_cause in facts)


def _on_named(named: list[Cause], wanted: TruthOn) -> bool:
    return any(cause.id == wanted.cause and cause.on is not None and _matches(cause.on, wanted) for cause in named)


def _matches(on: On, wanted: TruthOn) -> bool:
    path_right = wanted.path is None or on.path == wanted.path or (on.path is not None and on.path == wanted.or_path)
    peer_right = wanted.peer is None or on.peer == wanted.peer
    device_right = wanted.device is None or on.device == wanted.device
    command_right = wanted.command is None or (on.command or "").partition(" ")[0] == wanted.command
    code_right = wanted.code is None or _is_line_of(on.code, wanted)
    return path_right and peer_right and device_right and command_right and code_right


def _is_line_of(code: str | None, wanted: TruthOn) -> bool:
    """Whether `file:line`, with anything after a space, lies in the wanted lines."""
    file, _, line = (code or "").partition(" ")[0].rpartition(":")
    in_range = line.isdecimal() and wanted.first_line <= int(line) <= wanted.last_line
    return in_range and os.path.normpath(file) == wanted.code


def _descends(node: Node, steps: tuple[TruthStep, ...]) -> bool:
    """Whether some way from this node down meets all steps in their order."""
    left = steps[1:] if steps and _is_step(node, steps[0]) else steps
    return not left or any(_descends(child, left) for child in node.children)


def _is_step(node: Node, step: TruthStep) -> bool:
    return (
        (step.kind is None or node.kind == step.kind)
        and (step.pid is None or (node.who is not None and node.who.pid == step.pid))
        and (step.comm is None or (node.who is not None and node.who.comm == step.comm))
        and (step.path is None or (node.on is not None and node.on.path == step.path))
        and (step.device is None or (node.on is not None and node.on.device == step.device))
    )


def _predicted(verdict: Verdict, truth: Truth, measured: Measured) -> Predicted | None:
    """What is predicted without the cause that the fix removes; None where nothing was repaired, and where the longest
    request was measured: what is predicted is the median.
    """
    if measured.after_fix is None or measured.longest or not truth.causes:
        return None
    return next((cause.predicted for cause in verdict.causes if cause.id == truth.causes[0]), None)


def _prediction_error(verdict: Verdict, predicted: Predicted | None, measured: Measured) -> float | None:
    """|predicted saving - measured saving| / measured saving."""
    observed = verdict.observed.p50 if verdict.observed is not None else None
    if predicted is None or observed is None or measured.after_fix is None:
        return None
    saved = measured.before - measured.after_fix
    return abs((observed - predicted.p50) - saved) / saved if saved > 0 else None


def _within(predicted: Predicted | None, measured: Measured) -> bool | None:
    if predicted is None or measured.after_fix is None:
        return None
    return predicted.low <= measured.after_fix <= predicted.high
