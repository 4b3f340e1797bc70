"""The terminal page: snapshots at 80 and 120 columns, one screen, and names that try to command the terminal.

`PYTHONPATH=src python tests/report/test_terminal.py` writes the snapshots anew, for a look at the difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import verdicts
from rich.cells import cell_len
from rich.text import Text

from culpa.diagnose.verdict import Verdict
from culpa.report.terminal import MAX_LINES, headline, render

SNAPSHOTS = Path(__file__).with_name("snapshots")
MAKERS: dict[str, Callable[[], Verdict]] = {
    "slow": verdicts.verdict,
    "healthy": verdicts.healthy,
    "unknown": verdicts.unknown,
    "busy": verdicts.busy,
    "hostile": verdicts.hostile,
}
CASES = [(name, width, verbose) for name in MAKERS for width in (80, 120) for verbose in (False, True)]
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Every control character but the newline, and every change of direction."""


def snapshot(name: str, width: int, verbose: bool) -> Path:
    return SNAPSHOTS / f"{name}-{width}{'-verbose' if verbose else ''}.txt"


@pytest.mark.parametrize(("name", "width", "verbose"), CASES)
def test_page_is_as_recorded(name: str, width: int, verbose: bool) -> None:
    """The page of each hand-made verdict is the recorded one, letter by letter."""
    expected = snapshot(name, width, verbose).read_text(encoding="utf-8")
    assert expected == render(MAKERS[name](), width=width, color=False, verbose=verbose)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("width", [80, 120, 200])
def test_page_fits_on_one_screen(name: str, width: int) -> None:
    """No row is wider than the terminal and there are at most 44, however much the verdict holds."""
    rows = render(MAKERS[name](), width=width, color=False).splitlines()
    assert len(rows) <= MAX_LINES
    assert max(cell_len(row) for row in rows) <= width


@pytest.mark.parametrize("width", [1, 40, 80])
@pytest.mark.parametrize("verbose", [False, True])
def test_no_control_character_reaches_the_terminal(width: int, verbose: bool) -> None:
    """Names with escape sequences, direction marks and newlines are shown escaped, in every part of the page."""
    page = render(verdicts.hostile(), width=width, color=False, verbose=verbose)
    assert UNSAFE.search(page) is None
    assert "\n" not in headline(verdicts.hostile())


def test_colour_adds_only_styles() -> None:
    """With colour the same text appears, and the only escape sequences are rich's own styles."""
    plain = render(verdicts.hostile(), width=80, color=False)
    coloured = render(verdicts.hostile(), width=80, color=True)
    assert "\x1b[" in coloured
    assert plain == "".join(f"{row.rstrip()}\n" for row in Text.from_ansi(coloured).plain.splitlines())
    assert not re.search(r"\x1b(?!\[[0-9;]*m)", coloured)


def test_markup_in_names_is_text() -> None:
    """`[bold]` and `:smile:` in a name are letters, not orders to rich."""
    assert "[bold]x[/bold]\\x0a:smile:" in render(verdicts.hostile(), width=120, color=False)


def test_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLUMNS, TERM and NO_COLOR are the command line's business; the page depends on its arguments alone."""
    before = render(verdicts.verdict(), width=80, color=True)
    for name, text in (("COLUMNS", "20"), ("TERM", "dumb"), ("NO_COLOR", "1"), ("FORCE_COLOR", "1")):
        monkeypatch.setenv(name, text)
    assert before == render(verdicts.verdict(), width=80, color=True)


def test_answer_comes_first() -> None:
    """The headline opens the page; each head is followed by who, proof, fix and saving, in that order."""
    page = render(verdicts.verdict(), width=80, color=False)
    order = ["GET http", "1 Every Redis", "who", "proof", "fix", "saves", "2 A read request", "ruled out", "not seen"]
    positions = [page.index(word) for word in order]
    assert sorted(positions) == positions


def test_what_is_left_out_is_counted() -> None:
    """Causes, suspects and blind spots that do not fit are counted on the page."""
    page = render(verdicts.hostile(), width=80, color=False)
    assert re.search(r"and \d+ more: --json", page)
    assert re.search(r"and \d+ more suspects", page)
    assert re.search(r"and \d+ more blind spots", page)


def write() -> None:
    """Record the pages as they are now."""
    SNAPSHOTS.mkdir(exist_ok=True)
    for name, width, verbose in CASES:
        page = render(MAKERS[name](), width=width, color=False, verbose=verbose)
        snapshot(name, width, verbose).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write()
