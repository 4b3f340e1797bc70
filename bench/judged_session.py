"""One session as `culpa why PID --for SECONDS --json` runs it, with the clock read between its stages.

    python judged_session.py PID SECONDS

Prints one line of JSON, `Stages`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TypedDict

from culpa.collect.options import Options
from culpa.collect.session import record
from culpa.diagnose.judge import judge
from culpa.report.envelope import to_json
from culpa.target import parse_target
from culpa.units import NS_PER_SECOND


class Stages(TypedDict):
    """Seconds from the end of the window to the end of each stage, and what there was to judge."""

    events: int
    lost_events: int
    collected: float
    judged: float
    written: float


def main() -> None:
    """One session."""
    target = parse_target(sys.argv[1])
    options = Options(for_ns=int(float(sys.argv[2]) * NS_PER_SECOND))
    capture = record(target, options, progress=lambda _: None, enough=lambda _: None)
    end_ns = capture.manifest.window.end_ns

    def since_end() -> float:
        return (time.monotonic_ns() - end_ns) / NS_PER_SECOND

    collected = since_end()
    verdict = judge(capture)
    judged = since_end()
    to_json(verdict)
    cost = capture.manifest.cost
    found = Stages(
        events=cost.events, lost_events=cost.lost_events, collected=collected, judged=judged, written=since_end()
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
