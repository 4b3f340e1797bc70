"""Which commands held up a Redis server: what its sockets show, held against its slow log."""

from __future__ import annotations

import numpy as np
import pytest

from culpa.diagnose.moments import Moments
from culpa.diagnose.redisholds import Hold, accounted, explained, is_one_of_many, number_of

MS = 1_000_000
SECOND = 1_000_000_000
THRESHOLD_NS = 10 * MS


def hold(verb: str, at_ms: int, length_ms: float, *, exact: bool = True) -> Hold:
    """A command that ended so long after the window began; of the slow log, in that second or the one before."""
    end, length = at_ms * MS, int(length_ms * MS)
    if exact:
        return Hold(verb=verb, start_ns=end - length, end_ns=end, length_ns=length)
    return Hold(verb=verb, start_ns=end - SECOND - length, end_ns=end + SECOND, length_ns=length, exact=False)


def test_what_the_slow_log_has_is_the_commands_own() -> None:
    """Each long command with its entry stays, however the entries are ordered."""
    seen = [hold("KEYS", 500, 40), hold("KEYS", 3500, 42)]
    logged = [hold("KEYS", 3500, 41, exact=False), hold("KEYS", 500, 39, exact=False)]
    assert accounted(seen, logged, threshold_ns=THRESHOLD_NS) == tuple(seen)


def test_an_eviction_before_a_write_is_not_the_write() -> None:
    """SADD is answered after 27 ms, and the slow log, which would have it from 10 ms on, has nothing of the kind."""
    seen = [hold("SADD", 500, 27), hold("SADD", 900, 2), hold("KEYS", 1300, 30)]
    logged = [hold("KEYS", 1300, 30, exact=False)]
    assert accounted(seen, logged, threshold_ns=THRESHOLD_NS) == (seen[1], seen[2])


def test_one_entry_accounts_for_one_command() -> None:
    """One slow SADD does not make all the others slow."""
    seen = [hold("SADD", at_ms, 27) for at_ms in (500, 900, 1300)]
    assert 1 == len(accounted(seen, [hold("SADD", 900, 26, exact=False)], threshold_ns=THRESHOLD_NS))


def test_an_entry_of_another_second_or_far_too_short_accounts_for_nothing() -> None:
    """The log's second and its length have to fit."""
    seen = [hold("SADD", 5000, 80)]
    assert accounted(seen, [hold("SADD", 500, 80, exact=False)], threshold_ns=THRESHOLD_NS) == ()
    assert accounted(seen, [hold("SADD", 5000, 11, exact=False)], threshold_ns=THRESHOLD_NS) == ()


def test_a_long_answer_is_the_commands_own() -> None:
    """The log leaves out the writing of the answer: 15 ms stand there, 45 were seen."""
    seen = [hold("SMEMBERS", 500, 45)]
    assert accounted(seen, [hold("SMEMBERS", 500, 15, exact=False)], threshold_ns=THRESHOLD_NS) == tuple(seen)


def test_a_pipeline_of_small_commands_is_no_long_command() -> None:
    """40 messages with 250 SETs each take 2 ms a message, 8 us a command; 40 single ones of 2 ms are long."""
    assert is_one_of_many(2 * MS, messages=40, commands=10_000)
    assert not is_one_of_many(2 * MS, messages=40, commands=41)
    assert not is_one_of_many(2 * MS, messages=40, commands=0)  # the server does not count


def test_a_logged_command_explains_the_stall_that_is_as_long_as_it() -> None:
    """Of two stalls in its second, and no more of it than it took."""
    at_ms = np.array([[300, 320], [600, 645]], np.int64) * MS
    stalls = Moments.union(np.arange(2, dtype=np.int64), at_ms[:, 0], at_ms[:, 1])
    found = explained(stalls, [hold("KEYS", 645, 40, exact=False)])
    assert [1] == found.item.tolist()
    assert [605 * MS] == found.start_ns.tolist()
    assert 40 * MS == found.ns


@pytest.mark.parametrize("order", [1, -1])
def test_one_command_a_second_explains_one_stall_a_second(order: int) -> None:
    """Each entry could be of the second before as well, and is that of its own."""
    seconds, ends_ms = range(6), np.array([766, 1766, 2766, 3767, 4767, 5767], np.int64)
    stalls = Moments.union(np.arange(6, dtype=np.int64), (ends_ms - [138, 140, 139, 141, 136, 138]) * MS, ends_ms * MS)
    logged = [
        Hold(verb="SORT", start_ns=(second - 1) * SECOND - 150 * MS, end_ns=(second + 1) * SECOND, length_ns=150 * MS)
        for second in seconds
    ]
    assert stalls.ns == explained(stalls, logged[::order]).ns


@pytest.mark.parametrize(
    ("text", "number"),
    [("10", 10.0), ("-1", -1.0), ("0.5", 0.5), ("nan", None), ("inf", None), ("-Infinity", None), ("1e999", None),
     ("ten", None), ("", None), (None, None)],
)  # fmt: skip
def test_a_number_is_one_that_can_be_counted_with(text: str | None, number: float | None) -> None:
    """A server may say what it likes."""
    assert number == number_of(text)
