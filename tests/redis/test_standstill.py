"""A server that stands still: at the end of the window, and after single events were no longer recorded."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import redis
from servers import EACH_SERVER, cause, everywhere, examined, needs_redis, port_of, recorded, serving

from culpa.collect import checkup
from culpa.collect.trace.tracer import usable
from culpa.diagnose.judge import judge

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


RECORDS_SECONDS, PULSES = 5.0, 10


def _asked_without_end(port: int, over: threading.Event) -> None:
    with redis.Redis(port=port) as client:
        while not over.is_set():
            client.ping()


@pytest.mark.root
@pytest.mark.trace
def test_what_was_only_summed_up_is_no_standstill_without_a_reason(tmp_path: Path) -> None:
    """Stopped a tenth of a second again and again, after records ended: why, nobody saw, nor that it had no reason."""
    if error := usable():
        pytest.skip(f"tracing is impossible here: {error}")
    over = threading.Event()
    with serving(tmp_path) as client:
        pid = int(client.info("server")["process_id"])

        def stop_and_go() -> None:
            for _ in range(PULSES):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.1)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.1)

        load = threading.Thread(target=_asked_without_end, args=(port_of(client), over))
        later = threading.Timer(RECORDS_SECONDS + 1, stop_and_go)
        load.start()
        later.start()
        window_ns = round((RECORDS_SECONDS + 3) * 1e9)
        capture = recorded(port_of(client), trace=True, for_ns=window_ns, budget_percent=0.1)
        over.set()
        later.join()
        load.join()
    evidence = capture.manifest.evidence
    assert evidence.sums_from_ns is not None
    assert evidence.sums_from_ns < capture.manifest.window.start_ns + RECORDS_SECONDS * 1e9
    verdict = judge(capture)
    assert "redis.stall.unattributed" not in {one.id for one in everywhere(verdict.causes)}
