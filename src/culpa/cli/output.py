"""What a subcommand writes to stdout: a verdict as a page, or a value as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from culpa.talk import columns, out, takes_escapes

if TYPE_CHECKING:
    import msgspec

    from culpa.diagnose.verdict import Verdict


def as_json(value: msgspec.Struct | Sequence[msgspec.Struct]) -> None:
    """A typed value, indented."""
    from culpa.capture.encoding import encode_json

    out(encode_json(value, indent=2).decode() + "\n")


def as_page(verdict: Verdict, *, quiet: bool, verbose: bool, no_color: bool) -> None:
    """The page as it suits the terminal, if there is one; with `quiet` its headline only."""
    from culpa.report import terminal

    if quiet:
        out(terminal.headline(verdict) + "\n")
        return
    color = _color(no_color)
    out(terminal.render(verdict, width=columns(sys.stdout), color=color, verbose=verbose))


def as_checklist(verdict: Verdict, *, no_color: bool) -> None:
    """The list for a slow Redis, below the page."""
    from culpa.report import checklist, terminal

    page = terminal.render_lines(checklist.lines(verdict), width=columns(sys.stdout), color=_color(no_color))
    out("\n" + page)


def _color(no_color: bool) -> bool:
    return takes_escapes(sys.stdout) and not no_color and not os.environ.get("NO_COLOR")
