"""Whenever culpa is killed, everything is as before after the undo."""

from __future__ import annotations

import pytest
from kills import kills
from servers import needs_redis

RUNS = 20
"""`make soak` has a hundred."""


@pytest.mark.redis
@needs_redis
def test_whenever_it_is_killed_everything_can_be_taken_back() -> None:
    """Of all kinds that can be changed here; some of the kills have left something to take back."""
    count = kills(RUNS, seed=7)
    assert () == count.wrong
    assert 0 < count.left_open
