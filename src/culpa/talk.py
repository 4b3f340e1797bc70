"""The two streams: data to stdout, sentences for a person to stderr, and what the terminal behind them can show.

A reader that went away is no error. Data that cannot be written is one; a sentence that nobody can be told is not.
"""

from __future__ import annotations

import os
import sys
from typing import Final, TextIO

from culpa.errors import CulpaError

LINE_WIDTH: Final = 79
"""Of a page, and of the line that changes, where the terminal has no fewer columns."""
_NO_ESCAPES: Final = frozenset({"", "dumb", "unknown"})
"""Values of TERM for terminals that take escape sequences as text."""


def out(text: str) -> None:
    """Print to stdout.

    Raises:
        CulpaError: it cannot be written, other than because its reader went away.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout.fileno())
    except OSError as error:
        _silence(sys.stdout.fileno())
        reason = (error.strerror or str(error)).lower()
        raise CulpaError(
            f"cannot write to stdout: {reason}", way_out="send it elsewhere, or make room there"
        ) from error


def err(text: str) -> None:
    """Print to stderr, if it can be written to: what is said there is never worth a verdict."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr.fileno())


def _silence(descriptor: int) -> None:
    """Nobody reads it any more: what is still to come goes nowhere, also at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def takes_escapes(stream: TextIO) -> bool:
    """Whether a terminal is behind it that understands colours and clears a line."""
    return stream.isatty() and os.environ.get("TERM", "") not in _NO_ESCAPES


def columns(stream: TextIO) -> int:
    """How wide a line may be: what the terminal has, and never more than a page's own width."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal, or no file at all
        return LINE_WIDTH
    return min(found or LINE_WIDTH, LINE_WIDTH)  # 0: a terminal that does not know its size


class Talk:
    """Sentences for a person, on stderr; the line that changes only where stderr is a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = takes_escapes(sys.stderr)
        self._live = False

    def say(self, sentence: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self.clear()
            err(f"culpa: {sentence}\n")

    def live(self, state: str) -> None:
        """The line that changes: how the window stands."""
        if self._terminal and not self._quiet:
            err(f"\r\x1b[K{state[: columns(sys.stderr)]}")
            self._live = True

    def clear(self) -> None:
        """Take the line that changes away."""
        if self._live:
            err("\r\x1b[K")
            self._live = False
