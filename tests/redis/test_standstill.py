"""A server that stands still when the window ends is not waited for."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from servers import EACH_SERVER, cause, examined, needs_redis, serving

from culpa.collect import checkup

pytestmark = [pytest.mark.redis, needs_redis]

SOUND_SECONDS, WINDOW_SECONDS, STILL_SECONDS = 2.0, 3, 60.0


@pytest.mark.parametrize("program", EACH_SERVER)
def test_a_server_that_stands_still_at_the_end_is_told_within_seconds(tmp_path: Path, program: str) -> None:
    """Stopped by a signal within the window, for a minute if nobody frees it: seen as stopped, not waited for."""
    with serving(tmp_path, program=program) as client:
        pid = int(client.info("server")["process_id"])
        stop = threading.Timer(SOUND_SECONDS, os.kill, (pid, signal.SIGSTOP))
        free = threading.Timer(STILL_SECONDS, os.kill, (pid, signal.SIGCONT))
        began = time.monotonic()
        for timer in (stop, free):
            timer.start()
        verdict = examined(client, for_ns=WINDOW_SECONDS * 1_000_000_000)
        took = time.monotonic() - began
        for timer in (stop, free):
            timer.cancel()
        os.kill(pid, signal.SIGCONT)
    assert took < WINDOW_SECONDS + 3 * checkup.LAST_SECONDS < STILL_SECONDS / 2
    assert "slow" == verdict.state
    assert cause(verdict, verdict.causes[0].id)
    assert any("stood still" in spot.why for spot in verdict.blind_spots)
