"""When a window ends: each rule of `collect/window.py`, on a clock of the test's own."""

from __future__ import annotations

import pytest

from culpa.capture.manifest import EndedBy
from culpa.collect.window import ENOUGH_EVENTS, JUDGEABLE_EVENTS, Kind, Share, Window

SECOND = 1_000_000_000


def share(of: float, *, cause: str | None = "a", completed: int = 1, waited: float = 0.0) -> Share:
    """A judgement."""
    return Share(cause=cause, share=of, completed=completed, waited_ns=round(waited * SECOND))


def end_of(window: Window, judgements: dict[float, Share | None], until: float = 200.0) -> tuple[float, EndedBy]:
    """Let time pass in steps of 0.1 s, with judgements that cost nothing; when and why the window ended."""
    for tenth in range(int(until * 10)):
        now = tenth * SECOND // 10
        if tenth / 10 in judgements and window.wants_judgement(now):
            window.judged(now, judgements[tenth / 10], now)
        ended_by = window.ends(now)
        if ended_by is not None:
            return tenth / 10, ended_by
    raise AssertionError("never ended")


def window(kind: Kind, seconds: float | None = None) -> Window:
    """One that starts at 0."""
    return Window(start_ns=0, for_ns=None if seconds is None else round(seconds * SECOND), kind=kind)


@pytest.mark.parametrize("kind", ["url", "command", "watch"])
@pytest.mark.parametrize("seconds", [0.5, 20.0, 130.0])
def test_a_length_that_was_asked_for_is_kept(kind: Kind, seconds: float) -> None:
    """Neither a steady share nor a request ends it, and judging would be in vain."""
    asked = window(kind, seconds)
    asked.request_ended(0, 4 * SECOND)
    assert not asked.wants_judgement(5 * SECOND)
    assert end_of(asked, {}) == (seconds, "limit")


def test_steady_for_two_seconds_after_at_least_three() -> None:
    """Judged at 1, 2 and 3 s with the same result."""
    assert end_of(window("watch"), {t: share(0.8) for t in (1.0, 2.0, 3.0)}) == (3.0, "steady")


@pytest.mark.parametrize(
    "judgements",
    [
        {1.0: share(0.8), 2.0: share(0.7), 3.0: share(0.8)},
        {1.0: share(0.8), 2.0: share(0.8, cause="b"), 3.0: share(0.8)},
        {2.0: share(0.8), 3.0: share(0.8)},
        {1.0: share(0.8, completed=0), 2.0: share(0.8, completed=0), 3.0: share(0.8, completed=0, waited=2.9)},
        {1.0: share(0.8), 2.0: None, 3.0: share(0.8)},
        {},
    ],
)
def test_not_steady_lasts_fifteen_seconds(judgements: dict[float, Share | None]) -> None:
    """Another share, another cause, too short, too little seen, nothing to say, or never judged."""
    assert end_of(window("watch"), judgements) == (15.0, "limit")


def test_three_seconds_of_waiting_count_as_a_request() -> None:
    """A request that never ends is seen enough as well."""
    waited = {t: share(0.9, completed=0, waited=t) for t in (1.0, 2.0, 3.0)}
    assert end_of(window("watch"), waited) == (3.0, "steady")


def test_nothing_to_blame_can_be_steady() -> None:
    """A healthy target does not take 15 s."""
    assert end_of(window("watch"), {t: share(0.0, cause=None) for t in (1.0, 2.0, 3.0)}) == (3.0, "steady")


@pytest.mark.parametrize("kind", ["url", "watch"])
def test_too_much_to_judge_meanwhile_lasts_six_seconds(kind: Kind) -> None:
    """One event less, and it goes on: it may still become steady."""
    for events, expected in ((JUDGEABLE_EVENTS, None), (JUDGEABLE_EVENTS + 1, "limit")):
        asked = window(kind)
        asked.request_ended(0, SECOND)
        asked.judged(SECOND, share(0.8), SECOND)
        assert asked.ends(6 * SECOND - 1, events) is None
        assert asked.ends(6 * SECOND, events) == expected


def test_a_url_waits_for_its_first_request() -> None:
    """For 120 s at most, without judging meanwhile."""
    asked = window("url")
    assert not asked.wants_judgement(60 * SECOND)
    assert end_of(asked, {}) == (120.0, "limit")


def test_a_long_request_is_the_whole_picture() -> None:
    """It ends the window, and no further request is worth its load."""
    asked = window("url")
    assert asked.is_whole_picture(0, 4 * SECOND)
    assert not asked.is_whole_picture(0, 2 * SECOND)
    asked.request_ended(0, 4 * SECOND)
    asked.request_ended(5, 6)
    assert asked.ends(4 * SECOND) == "request"


def test_short_requests_end_steady_or_at_the_limit() -> None:
    """As any other target, once the first one was answered."""
    steady = window("url")
    steady.request_ended(0, SECOND // 2)
    assert end_of(steady, {t: share(0.8) for t in (1.0, 2.0, 3.0)}) == (3.0, "steady")
    restless = window("url")
    restless.request_ended(0, SECOND // 2)
    assert end_of(restless, {}) == (15.0, "limit")


def test_no_more_requests_end_the_window() -> None:
    """--max-requests, or a method that is sent once; three seconds are watched all the same."""
    asked = window("url")
    asked.request_ended(0, SECOND // 2)
    asked.requests_over()
    assert end_of(asked, {}) == (3.0, "request")


def test_judging_takes_a_quarter_of_the_time_at_most() -> None:
    """A judgement of 2 s is followed by 6 s without one."""
    asked = window("watch")
    asked.judged(SECOND, share(0.5), 3 * SECOND)
    assert not asked.wants_judgement(9 * SECOND - 1)
    assert asked.wants_judgement(9 * SECOND)


def test_a_command_lasts_until_its_limit() -> None:
    """Its exit is the session's to see."""
    assert end_of(window("command"), {}) == (120.0, "limit")


def test_a_flood_of_events_is_enough() -> None:
    """After three seconds and the first request; above a third of it nothing is judged while events come in."""
    asked = window("url")
    assert asked.ends(4 * SECOND, ENOUGH_EVENTS) is None
    asked.request_ended(0, SECOND // 2)
    assert asked.ends(2 * SECOND, ENOUGH_EVENTS) is None
    assert asked.ends(4 * SECOND, ENOUGH_EVENTS) == "limit"
    assert asked.wants_judgement(4 * SECOND, JUDGEABLE_EVENTS)
    assert not asked.wants_judgement(4 * SECOND, JUDGEABLE_EVENTS + 1)


def test_once_records_have_ended_enough_ends_the_window() -> None:
    """What there is to judge changes no more: it is judged once, and is enough with one request or 3 s of waiting."""
    for judgement, ends in (
        (share(0.8, completed=1), 3.0),
        (share(0.8, completed=0, waited=3.0), 3.0),
        (share(0.8, completed=0, waited=2.0), 15.0),
    ):
        watched = window("watch")
        watched.detail_over()
        assert end_of(watched, {t / 10: judgement for t in range(200)}) == (ends, "limit")
        watched.detail_over()
        assert not watched.wants_judgement(20 * SECOND)


def test_a_url_is_asked_to_the_end_of_its_first_request_on_sums_alone() -> None:
    """The request goes on after the records have ended, and so does the window."""
    asked = window("url")
    asked.detail_over()
    assert asked.ends(20 * SECOND) is None
    asked.request_ended(0, 21 * SECOND)
    assert asked.ends(21 * SECOND) == "limit"
