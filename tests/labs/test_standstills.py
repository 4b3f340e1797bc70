"""The lab's own standstills held against what a verdict says of them, on figures made by hand."""

from __future__ import annotations

import msgspec
import pytest
from test_score import verdict

from culpa.diagnose.verdict import Stall, StallPart, Stalls, Verdict
from culpa.labs.lab import Standstills
from culpa.labs.standstills import NOT_NAMED, held_against, lines, spoken, summed


def stall(at: float, seconds: float, *, cpu: float = 0.0, **causes: float) -> Stall:
    """A PING of culpa's; `causes` by id, with `_` for `.`, one after the other."""
    parts = tuple(StallPart(id=name.replace("_", "."), seconds=part) for name, part in causes.items())
    named = sum(part.seconds for part in parts)
    return Stall(at=at, seconds=seconds, named_seconds=named, cpu_seconds=cpu, causes=parts)


def told(*each: Stall) -> Verdict:
    """A verdict on the time from 10 s to 20 s."""
    stalls = Stalls(
        since=10.0, until=20.0, count=len(each), seconds=sum(one.seconds for one in each), longest_seconds=0.0,
        named_seconds=0.0, cpu_seconds=0.0, each=each,
    )  # fmt: skip
    return msgspec.structs.replace(verdict(), stalls=stalls)


def test_what_counts_is_what_both_waited_through() -> None:
    """Of 100 ms culpa met 80, all named; what it slept through, and what was before its time, it did not meet."""
    found = held_against(
        told(stall(12.02, 0.08, a_true=0.08)), [(9.0, 9.5), (12.0, 12.1), (15.0, 15.008)], true={"a.true"}
    )
    assert found is not None
    assert (2, 0.108, 0.08, 0.08) == (found.count, found.seconds, found.met_seconds, found.attributed_seconds)
    assert found.share == pytest.approx(1.0)


def test_only_true_causes_and_said_waits_for_a_cpu_count() -> None:
    """Of 100 ms a half is put down to what is not true here, a fifth is a wait for a CPU, 30 ms are named rightly."""
    mixed = stall(12.0, 0.1, cpu=0.02, a_true=0.03, b_false=0.05)
    found = held_against(told(mixed), [(12.0, 12.1)], true={"a.true"})
    assert found is not None
    assert (0.05, 0.02) == (found.attributed_seconds, found.cpu_seconds)


def test_several_causes_of_one_moment_count_once() -> None:
    """The same 60 ms from two sides; the rest has no cause."""
    twice = msgspec.structs.replace(stall(12.0, 0.1, a_true=0.06, b_true=0.06), named_seconds=0.06)
    found = held_against(told(twice), [(12.0, 12.1)], true={"a.true", "b.true"})
    assert found is not None
    assert found.share == pytest.approx(0.6)


def test_a_standstill_beyond_the_judged_time_is_cut() -> None:
    """What lies outside the window culpa cannot have met."""
    found = held_against(told(stall(19.9, 0.1, a_true=0.1)), [(19.9, 20.4)], true={"a.true"})
    assert found is not None
    assert (0.1, 0.1) == (found.seconds, found.met_seconds)


def test_nothing_to_attribute() -> None:
    """Where no single stalls are told, and where the truth is that nothing accounts for them."""
    assert held_against(verdict(), [(12.0, 12.1)], true={"a.true"}) is None
    assert held_against(told(stall(12.0, 0.1)), [(12.0, 12.1)], true={NOT_NAMED}) is None


def test_the_sums_of_several_cases() -> None:
    """Sick cases add up, the one with the least is named, and sound ones are apart."""

    def of(met: float, attributed: float) -> Standstills:
        return Standstills(
            count=3, seconds=met + 0.5, met_seconds=met, attributed_seconds=attributed, cpu_seconds=0.0
        )  # fmt: skip

    cases = [("good", True, of(3.0, 3.0)), ("worse", True, of(1.0, 0.8)), ("sound", False, of(0.02, 0.0))]
    found = summed(cases)
    assert found is not None
    assert (2, 5.0, 4.0, 0.95) == (found.cases, found.seconds, found.met_seconds, found.share)
    assert (0.8, "worse", 0.52) == (found.least_share, found.least_lab, found.sound_seconds)
    assert "attributed 95.0% (least 80.0%, worse)" in next(lines(found))
    assert "attributed 80.0%" in spoken(of(1.0, 0.8))
    assert summed([("sound", False, of(0.02, 0.0)), ("nothing", True, of(0.0, 0.0))]) is None
