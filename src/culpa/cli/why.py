"""`culpa why`: watch, or open a capture, judge it, and show the verdict."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from culpa.cli import gathering, output
from culpa.cli.options import (
    DEFAULT_BUDGET_PERCENT,
    BudgetOption,
    DataOption,
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
    SlowerOption,
    TargetArgument,
    UserOption,
)
from culpa.errors import EXIT_FINDING, CulpaError
from culpa.talk import Talk, out
from culpa.units import printable

if TYPE_CHECKING:
    from culpa.capture.bundle import Capture
    from culpa.diagnose.verdict import Cause


class FailOn(StrEnum):
    """Levels that `--fail-on` takes, weakest first."""

    note = "note"
    warning = "warning"
    critical = "critical"


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
    save: Annotated[Path | None, typer.Option("-o", "--save", metavar="FILE", help="keep the capture as well")] = None,
    json: JsonFlag = False,
    redact: RedactFlag = False,
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="exit 3 if a finding of this level or above was made")
    ] = None,
    quiet: QuietFlag = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="all facts with their sources, the blame tree")
    ] = False,
    no_color: NoColorFlag = False,
) -> None:
    """Watch, find what the time was spent waiting for, name the culprit, propose fixes."""
    from culpa.diagnose.judge import judge
    from culpa.report.envelope import to_json

    talk = Talk(quiet=quiet)
    http = gathering.http_settings(header, data, method, insecure, max_requests, repeat)
    options = gathering.options(duration, passive, no_trace, budget, slower_than, http, user, output_to_stderr=json)
    capture = gathering.gather(gathering.target_of(context, target), options, talk)
    if redact:
        capture = gathering.redacted(capture)
    failure = _saved(capture, save, talk)
    only = [capture]
    del capture
    verdict = judge(only.pop())  # which then holds the only reference, and may give it up
    if json:
        out(to_json(verdict))
    else:
        output.as_page(verdict, quiet=quiet, verbose=verbose, no_color=no_color)
    if failure is not None:
        raise failure
    if fail_on is not None and _reaches(verdict.causes, fail_on):
        raise typer.Exit(EXIT_FINDING)


def _saved(capture: Capture, path: Path | None, talk: Talk) -> CulpaError | None:
    """Save where asked; a failure is handed back, so that the verdict is not lost with it."""
    from culpa.capture.bundle import save
    from culpa.errors import CaptureError

    if path is None:
        return None
    try:
        save(capture, path)
    except CaptureError as error:
        return error
    talk.say(f"saved {printable(str(path))}")
    return None


def _reaches(causes: Iterable[Cause], level: FailOn) -> bool:
    """Whether a cause, or one in its `because`, is of that level or above."""
    order = list(FailOn)
    return any(
        order.index(FailOn(cause.level)) >= order.index(level) or _reaches(cause.because, level) for cause in causes
    )
