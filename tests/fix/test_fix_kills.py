"""Whenever culpa is killed, everything is as before after the undo."""

from __future__ import annotations

import pytest
from kills import kills
from servers import needs_redis

RUNS = 20
RUNS_OF_TRIALS = 6
"""`make soak` has a hundred of each."""


@pytest.mark.redis
@needs_redis
@pytest.mark.parametrize(("runs", "tried"), [(RUNS, 0.0), (RUNS_OF_TRIALS, 1.0)])
def test_whenever_it_is_killed_everything_can_be_taken_back(runs: int, tried: float) -> None:
    """Of all kinds that can be changed here, also within a trial; some kills have left something to take back."""
    count = kills(runs, seed=7, tried=tried)
    assert () == count.wrong
    assert 0 < count.left_open
