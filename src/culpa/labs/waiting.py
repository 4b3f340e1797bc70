"""Waiting for what was set going."""

from __future__ import annotations

import time
from collections.abc import Callable

from culpa.errors import LabError

TIMEOUT_S = 30.0
POLL_S = 0.05


def wait_until(condition: Callable[[], bool], *, what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Poll until the condition holds.

    Raises:
        LabError: it did not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            raise LabError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(POLL_S)
