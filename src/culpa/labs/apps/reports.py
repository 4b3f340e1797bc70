"""Reports made by a worker, for `serve.py`: `reports.py WORK-MS PAUSE-MS`.

/by_clock   asks the worker, sleeps PAUSE-MS, then looks whether the report is there
/directly   makes the report in the thread that answers
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Report:
    """A report asked for; it is there when `text` is not empty."""

    text: str = ""


def make(report: Report, seconds: float) -> None:
    """Compute for some time."""
    end = time.monotonic() + seconds
    lines = 0
    while time.monotonic() < end:
        lines += 1
    report.text = f"{lines} lines"


def work(asked: queue.SimpleQueue[Report], seconds: float) -> None:
    """Make one report after the other."""
    while True:
        make(asked.get(), seconds)


def wait_by_clock(report: Report, pause_s: float) -> None:
    """Sleep first, as such loops do."""
    while True:
        time.sleep(pause_s)
        if report.text:
            return


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """Two ways to the same report."""
    seconds, pause_s = int(arguments[0]) / 1000, int(arguments[1]) / 1000
    asked: queue.SimpleQueue[Report] = queue.SimpleQueue()
    threading.Thread(target=work, args=(asked, seconds), daemon=True).start()

    def answer(path: str) -> str | None:
        report = Report()
        if path == "by_clock":
            asked.put(report)
            wait_by_clock(report, pause_s)
        elif path == "directly":
            make(report, seconds)
        return report.text or None

    return answer
