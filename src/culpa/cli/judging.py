"""From a capture to what the user gets: saved where asked, judged, shown, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from culpa.cli import lastverdict, output
from culpa.cli.options import FailOn
from culpa.errors import EXIT_FINDING, CulpaError
from culpa.talk import Talk, out
from culpa.units import printable

if TYPE_CHECKING:
    from culpa.capture.bundle import Capture
    from culpa.diagnose.verdict import Cause


def show(
    capture: Capture,
    *,
    save: Path | None,
    json: bool,
    quiet: bool,
    verbose: bool,
    no_color: bool,
    fail_on: FailOn | None,
    checklist: bool = False,
    remember: bool = False,
) -> None:
    """Judge it, and show the verdict. A caller that keeps no reference saves the memory of its messages.

    With `remember` it is kept as the last one, which `culpa fix` starts from.

    Raises:
        CulpaError: it could not be saved; the verdict was shown all the same.
        typer.Exit: a finding of the level `fail_on` or above was made.
    """
    from culpa.diagnose.judge import judge
    from culpa.report.envelope import to_json

    failure = _saved(capture, save, Talk(quiet=quiet))
    only = [capture]
    del capture
    verdict = judge(only.pop())
    text = to_json(verdict) if json or remember else ""
    if remember:
        lastverdict.keep(text)
    if json:
        out(text)
    else:
        output.as_page(verdict, quiet=quiet, verbose=verbose, no_color=no_color)
        if checklist and not quiet:
            output.as_checklist(verdict, no_color=no_color)
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
