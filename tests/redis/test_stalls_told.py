"""The stalls that a verdict lists, against moments at which a server was stopped by the test itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from servers import examined, needs_redis, once_asked, serving

pytestmark = [pytest.mark.redis, needs_redis]

PAUSES, STOPPED_S, GOING_S = 8, 0.15, 0.25
WINDOW_NS = 4_500_000_000
ASKED_EVERY_S = 0.025
NOISE_S = 0.02
"""What the host adds to a wait now and then."""


@pytest.mark.root
@pytest.mark.trace
def test_each_stall_is_told_with_its_moment_and_its_cause(tmp_path: Path) -> None:
    """As many as there were stops in the window, at their moments, as long, and put down to the stopping."""
    stops: list[tuple[float, float]] = []

    def pause(pid: int) -> None:
        for _ in range(PAUSES):
            time.sleep(GOING_S)
            began = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            time.sleep(STOPPED_S)
            os.kill(pid, signal.SIGCONT)
            stops.append((began, time.monotonic()))

    with serving(tmp_path) as client:
        pid = int(client.info("server")["process_id"])
        with once_asked(client, lambda: pause(pid)):
            verdict = examined(client, trace=True, for_ns=WINDOW_NS)
    told = verdict.stalls
    assert told is not None
    inside = [stop for stop in stops if told.since + ASKED_EVERY_S < stop[0] and stop[1] < told.until]
    assert inside, "no stop in the window: NOT TESTED"
    for began, ended in inside:
        mine = [one for one in told.each if one.at < ended and one.at + one.seconds > began]
        assert len(mine) == 1
        (one,) = mine
        assert began - NOISE_S <= one.at <= began + ASKED_EVERY_S + NOISE_S
        assert ended <= one.at + one.seconds + NOISE_S
        assert one.at + one.seconds <= ended + NOISE_S
        assert "proc.stopped" in {part.id for part in one.causes}
        assert one.named_seconds >= 0.95 * one.seconds
    assert told.seconds == pytest.approx(sum(one.seconds for one in told.each))
    assert told.named_seconds + told.cpu_seconds <= told.seconds + 1e-6
