"""A print shop's spool, for `serve.py`: `prints.py FOLDER`, with a file for each spooled job.

/now    deletes the oldest job
/later  hands the oldest job to a thread that deletes it, unless that one still has its hands full
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """What can be asked; the jobs were spooled before anybody does."""
    waiting = sorted(Path(arguments[0]).iterdir())
    handed: queue.SimpleQueue[Path] = queue.SimpleQueue()
    idle = threading.Event()
    idle.set()

    def delete_all() -> None:
        while True:
            handed.get().unlink()
            idle.set()

    threading.Thread(target=delete_all, daemon=True).start()

    def now() -> str:
        if waiting:
            waiting.pop(0).unlink()
        return f"{len(waiting)} jobs left"

    def later() -> str:
        if waiting and idle.is_set():
            idle.clear()
            handed.put(waiting.pop(0))
        return f"{len(waiting)} jobs left"

    ways = {"now": now, "later": later}
    return lambda path: ways[path]() if path in ways else None
