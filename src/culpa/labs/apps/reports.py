"""Reports made by a worker thread, for `serve.py`: `reports.py WORK-MS PAUSE-MS`.

/by_clock   looks whether the report is there, and sleeps PAUSE-MS before it looks again
/by_event   waits until the worker says that it is
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Report:
    """A report asked for; `text` is there when `ready` is set."""

    ready: threading.Event = field(default_factory=threading.Event)
    text: str = ""


def work(asked: queue.SimpleQueue[Report], seconds: float) -> None:
    """Make one report after the other; each takes `seconds` of computing."""
    while True:
        report = asked.get()
        end = time.monotonic() + seconds
        lines = 0
        while time.monotonic() < end:
            lines += 1
        report.text = f"{lines} lines" if lines else "empty"
        report.ready.set()


def wait_by_clock(report: Report, pause_s: float) -> None:
    """Sleep first, as such loops do."""
    while True:
        time.sleep(pause_s)
        if report.text:
            return


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """Two ways to wait for the same worker."""
    seconds, pause_s = int(arguments[0]) / 1000, int(arguments[1]) / 1000
    asked: queue.SimpleQueue[Report] = queue.SimpleQueue()
    threading.Thread(target=work, args=(asked, seconds), daemon=True).start()

    def answer(path: str) -> str | None:
        if path not in ("by_clock", "by_event"):
            return None
        report = Report()
        asked.put(report)
        if path == "by_clock":
            wait_by_clock(report, pause_s)
        else:
            report.ready.wait()
        return report.text

    return answer
