"""A verdict on a terminal: one screen, the answer first. The only place that knows rich."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final

from rich.console import Console
from rich.text import Text

from culpa.diagnose.verdict import Verdict
from culpa.report import page, wording
from culpa.report.page import Detail, Line

MAX_LINES: Final = 44
"""One screen."""
MIN_WIDTH, MAX_WIDTH = 40, 160

_DETAILS: Final = (
    Detail(heads=3, facts=6, becauses=3, fixes=2, ruled_out=12, blind_spots=4, rows=6, commands=3),
    Detail(heads=3, facts=5, becauses=2, fixes=2, ruled_out=12, blind_spots=3, rows=4, commands=3),
    Detail(heads=2, facts=5, becauses=1, fixes=1, ruled_out=12, blind_spots=2, rows=4, commands=3),
    Detail(heads=2, facts=4, becauses=1, fixes=1, ruled_out=12, blind_spots=2, rows=3, commands=2),
    Detail(heads=2, facts=3, becauses=1, fixes=1, ruled_out=8, blind_spots=1, rows=3, commands=2),
    Detail(heads=2, facts=2, becauses=1, fixes=1, ruled_out=8, blind_spots=1, rows=2, commands=1),
    Detail(heads=1, facts=2, becauses=1, fixes=1, ruled_out=6, blind_spots=1, rows=2, commands=1),
    Detail(heads=1, facts=1, becauses=0, fixes=1, ruled_out=4, blind_spots=1, rows=1, commands=1),
)
"""From rich to poor; the first that fits on a screen is shown."""
_VERBOSE: Final = Detail(
    heads=20, facts=50, becauses=20, fixes=20, ruled_out=50, blind_spots=100, rows=50, commands=20, sources=True,
    tree=True,
)  # fmt: skip

_LABEL_CELLS: Final = 10
_INDENT_CELLS: Final = 2
_STYLES: Final = {
    "slow": "bold red",
    "not-slow": "bold green",
    "unknown": "bold yellow",
    "head": "bold",
    "plain": "",
    "faint": "dim",
}
_LABEL_STYLE: Final = "cyan"


def headline(verdict: Verdict) -> str:
    """The one sentence of `-q`, safe to show."""
    return wording.sentence(verdict.headline)


def render(verdict: Verdict, *, width: int, color: bool, verbose: bool = False) -> str:
    """The whole page, every line at most `width` cells (between 40 and 160) and ended by a newline.

    Without `verbose` it has at most 44 lines at 80 cells: what does not fit is counted. `verbose` shows all facts with
    their sources, and the blame tree.
    """
    width = max(MIN_WIDTH, min(width, MAX_WIDTH))
    console = _console(width, color)
    if verbose:
        return _printed(console, _wrapped(console, page.lines(verdict, _VERBOSE), width, _VERBOSE.rows))
    rows: list[Text] = []
    for detail in _DETAILS:
        rows = list(_wrapped(console, page.lines(verdict, detail), width, detail.rows))
        if len(rows) <= MAX_LINES:
            break
    return _printed(console, rows)


def render_lines(lines: Iterable[Line], *, width: int, color: bool) -> str:
    """Other lines than the verdict's page, in the same dress; every line at most `width` cells."""
    width = max(MIN_WIDTH, min(width, MAX_WIDTH))
    console = _console(width, color)
    return _printed(console, _wrapped(console, lines, width, _VERBOSE.rows))


def _console(width: int, color: bool) -> Console:
    """A console that writes to memory and asks the environment nothing."""
    return Console(
        file=io.StringIO(), width=width, force_terminal=color, color_system="standard" if color else None,
        no_color=not color, highlight=False, markup=False, emoji=False, legacy_windows=False, _environ={},
    )  # fmt: skip


def _printed(console: Console, rows: Iterable[Text]) -> str:
    with console.capture() as printed:
        for row in rows:
            console.print(row, no_wrap=True, overflow="ignore", crop=False)
    return "".join(f"{line.rstrip()}\n" for line in printed.get().splitlines())


def _wrapped(console: Console, lines: Iterable[Line], width: int, most: int) -> Iterator[Text]:
    for line in lines:
        answer = line.style in ("slow", "not-slow", "unknown")
        yield from _rows(console, line, width, MAX_LINES if answer else most)


def _rows(console: Console, line: Line, width: int, most: int) -> Iterator[Text]:
    """One line of the page as at most `most` rows: label, text beside it, tail at the right edge of the first."""
    margin = _margin(line)
    room = width - margin.cell_len - (len(line.tail) + 2 if line.tail else 0)
    for position, piece in enumerate(_pieces(console, line, max(room, 10), most)):
        row = margin.copy() if position == 0 else Text(" " * margin.cell_len)
        row.append_text(piece)
        if position == 0 and line.tail:
            row.append(" " * (width - row.cell_len - len(line.tail)))
            row.append(line.tail, style=_STYLES["head"])
        yield row


def _pieces(console: Console, line: Line, room: int, most: int) -> list[Text]:
    """The text cut into rows of `room` cells; `…` ends the last one where some were left out."""
    pieces = list(Text(line.text, style=_STYLES[line.style]).wrap(console, room, overflow="fold"))
    for piece in pieces:
        piece.rstrip()
    if len(pieces) > most:
        pieces = pieces[:most]
        pieces[-1].truncate(room - 1)
        pieces[-1].append("…")
    return pieces or [Text()]


def _margin(line: Line) -> Text:
    """The label, or the space where it would stand; the headline and blank lines have none."""
    if line.style in ("slow", "not-slow", "unknown"):
        return Text()
    if not line.label and (line.tail or line.style == "head"):
        return Text(" " * (_INDENT_CELLS * line.indent))
    cells = len(line.label) + 1 if line.style == "head" else _LABEL_CELLS
    label = Text(" " * (_INDENT_CELLS * line.indent))
    return label.append(f"{line.label:<{cells}}", style=_LABEL_STYLE)
