"""The signals that end a lab, caught so that nothing is left half made."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Endings:
    """SIGINT, SIGTERM and SIGHUP during a run: the first one raises KeyboardInterrupt, the others are ignored.

    While `deferred`, the first one waits: a program just forked must be known before anything is undone. Only the main
    thread can set handlers; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._active = threading.current_thread() is threading.main_thread()
        self._deferring = False
        self._pending = False
        self._ended = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle the signals for the time of a run."""
        before = {number: signal.signal(number, self._on_signal) for number in _ENDING} if self._active else {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold an ending back until the block is done."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt

    def ignore(self) -> None:
        """From here on nothing disturbs the undoing. Not by SIG_IGN: programs started meanwhile would inherit it."""
        self._ended = True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._ended:
            return
        self._ended = True
        if self._deferring:
            self._pending = True
        else:
            raise KeyboardInterrupt
