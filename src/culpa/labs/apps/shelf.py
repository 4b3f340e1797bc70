"""A shelf of figures that importers renew under a lock, for `serve.py`: `shelf.py IMPORTERS HOLD-ROUNDS [PAUSE-MS]`.

/locked   reads the shelf while nobody renews it
/copied   reads the copy that the last importer left
/patient  waits for PAUSE-MS, then reads the shelf while nobody renews it
/relaxed  waits for PAUSE-MS, then reads the copy
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PAUSE_S = 0.002


@dataclass
class Shelf:
    """Figures and their lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    figures: str = "none yet"
    copy: str = "none yet"


def renew(shelf: Shelf, rounds: int) -> None:
    """Compute new figures all the time, and hold the lock while doing so."""
    while True:
        with shelf.lock:
            shelf.figures = hashlib.pbkdf2_hmac("sha256", b"figures", b"shelf", rounds).hex()
            shelf.copy = shelf.figures
        time.sleep(PAUSE_S)


def read_locked(shelf: Shelf) -> str:
    """Wait until nobody renews."""
    with shelf.lock:
        return shelf.figures


def read_later(read: Callable[[], str], pause_s: float) -> str:
    """Leave it to the importers for a while first."""
    time.sleep(pause_s)
    return read()


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """Four ways to the same figures."""
    importers, rounds, pause_ms = map(int, [*arguments, "0"][:3])
    shelf = Shelf()
    for _ in range(importers):
        threading.Thread(target=renew, args=(shelf, rounds), daemon=True).start()

    def locked() -> str:
        return read_locked(shelf)

    def copied() -> str:
        return shelf.copy

    ways: dict[str, Callable[[], str]] = {
        "locked": locked,
        "copied": copied,
        "patient": lambda: read_later(locked, pause_ms / 1000),
        "relaxed": lambda: read_later(copied, pause_ms / 1000),
    }
    return lambda path: ways[path]() if path in ways else None
