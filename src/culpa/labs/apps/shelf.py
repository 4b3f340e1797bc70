"""A shelf of figures that importers renew under a lock, for `serve.py`: `shelf.py IMPORTERS HOLD-ROUNDS`.

/locked   reads the shelf while nobody renews it
/copied   reads the copy that the last importer left
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


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """Two ways to the same figures."""
    importers, rounds = int(arguments[0]), int(arguments[1])
    shelf = Shelf()
    for _ in range(importers):
        threading.Thread(target=renew, args=(shelf, rounds), daemon=True).start()

    def answer(path: str) -> str | None:
        if path == "locked":
            return read_locked(shelf)
        return shelf.copy if path == "copied" else None

    return answer
