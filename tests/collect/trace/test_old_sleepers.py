"""Threads that have slept for longer than the clocks agree, from records made by hand."""

from __future__ import annotations

import numpy as np

from culpa.capture import schema
from culpa.collect.trace import events, states

READER, SLEEPER = 10, 20
SECOND = 1_000_000_000


def test_a_thread_that_sleeps_since_boot_sleeps_since_the_clock_began() -> None:
    """The scheduler's clock is ahead by two seconds, the thread came onto its CPU in the first: not before time 0."""
    records = np.zeros(2, dtype=events.STATE_EVENT)
    records["tid"], records["nr"], records["state"] = (READER, SLEEPER), 230, 1
    records["now_ns"] = 1000 * SECOND
    records["arrival_ns"] = (1002 * SECOND, SECOND)
    found = states.table(records, READER, lambda _: 1, 0)
    assert [(SLEEPER, 0)] == found.select("tid", "since_ns").rows()
    assert found["since_ns"].dtype == schema.THREAD_STATES.schema["since_ns"]
