"""`culpa record`: only watch, and save a capture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from culpa.cli import gathering
from culpa.cli.options import (
    DEFAULT_BUDGET_PERCENT,
    BudgetOption,
    DataOption,
    ForOption,
    HeaderOption,
    InsecureFlag,
    MaxRequestsOption,
    MethodOption,
    NoTraceFlag,
    PassiveFlag,
    RedactFlag,
    RepeatFlag,
    SlowerOption,
    TargetArgument,
    UserOption,
)
from culpa.errors import UsageError
from culpa.talk import Talk
from culpa.units import printable


def record(
    context: typer.Context,
    save: Annotated[Path, typer.Option("-o", "--save", metavar="FILE", help="where to save the capture")],
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
    redact: RedactFlag = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="no talk")] = False,
) -> None:
    """Only watch, and save a capture for `culpa why FILE`, here or elsewhere."""
    from culpa.capture import bundle
    from culpa.target import CaptureTarget

    talk = Talk(quiet=quiet)
    http = gathering.http_settings(header, data, method, insecure, max_requests, repeat)
    options = gathering.options(duration, passive, no_trace, budget, slower_than, http, user, output_to_stderr=False)
    wanted = gathering.target_of(context, target)
    if isinstance(wanted, CaptureTarget):
        raise UsageError(f"{wanted.display} is a capture already", way_out="judge it with: culpa why FILE")
    capture = gathering.gather(wanted, options, talk)
    bundle.save(gathering.redacted(capture) if redact else capture, save)
    talk.say(f"saved {printable(str(save))}; judge it with: culpa why {printable(str(save))}")
