"""The two streams: data to stdout, sentences for a person to stderr. A reader that went away is no error."""

from __future__ import annotations

import os
import sys
from typing import Final

LINE_WIDTH: Final = 79


def out(text: str) -> None:
    """Print to stdout; a reader that went away is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout.fileno())


def err(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        _silence(sys.stderr.fileno())


def _silence(descriptor: int) -> None:
    """Nobody reads it any more: what is still to come goes nowhere, also at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Talk:
    """Sentences for a person, on stderr; the line that changes only where stderr is a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._live = False

    def say(self, sentence: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self.clear()
            err(f"culpa: {sentence}\n")

    def live(self, state: str) -> None:
        """The line that changes: how the window stands."""
        if self._terminal and not self._quiet:
            err(f"\r\x1b[K{state[:LINE_WIDTH]}")
            self._live = True

    def clear(self) -> None:
        """Take the line that changes away."""
        if self._live:
            err("\r\x1b[K")
            self._live = False
