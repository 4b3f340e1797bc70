"""`culpa why`: watch, or open a capture, judge it, and show the verdict."""

from __future__ import annotations

import typer

from culpa.cli import gathering, judging
from culpa.cli.options import (
    DEFAULT_BUDGET_PERCENT,
    BudgetOption,
    DataOption,
    FailOnOption,
    ForOption,
    HeaderOption,
    InsecureFlag,
    JsonFlag,
    MaxRequestsOption,
    MethodOption,
    NoColorFlag,
    NoTraceFlag,
    PassiveFlag,
    QuietFlag,
    RedactFlag,
    RepeatFlag,
    SaveOption,
    SlowerOption,
    TargetArgument,
    UserOption,
    VerboseFlag,
)
from culpa.talk import Talk


def why(
    context: typer.Context,
    target: TargetArgument = None,
    duration: ForOption = None,
    passive: PassiveFlag = False,
    no_trace: NoTraceFlag = False,
    budget: BudgetOption = DEFAULT_BUDGET_PERCENT,
    slower_than: SlowerOption = None,
    header: HeaderOption = None,
    data: DataOption = None,
    method: MethodOption = None,
    insecure: InsecureFlag = False,
    max_requests: MaxRequestsOption = None,
    repeat: RepeatFlag = False,
    user: UserOption = None,
    save: SaveOption = None,
    json: JsonFlag = False,
    redact: RedactFlag = False,
    fail_on: FailOnOption = None,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
    no_color: NoColorFlag = False,
) -> None:
    """Watch, find what the time was spent waiting for, name the culprit, propose fixes."""
    from culpa.target import CaptureTarget

    talk = Talk(quiet=quiet)
    http = gathering.http_settings(header, data, method, insecure, max_requests, repeat)
    options = gathering.options(duration, passive, no_trace, budget, slower_than, http, user, output_to_stderr=json)
    chosen = gathering.target_of(context, target)
    capture = gathering.gather(chosen, options, talk)
    if redact:
        capture = gathering.redacted(capture)
    only = [capture]
    del capture
    judging.show(
        only.pop(), save=save, json=json, quiet=quiet, verbose=verbose, no_color=no_color, fail_on=fail_on,
        remember=not redact and not isinstance(chosen, CaptureTarget),
    )  # fmt: skip
