"""Shares, intervals and steps against figures worked out elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from culpa.labs.rates import Calibration, calibration, quantile, wilson


def test_the_interval_of_a_textbook_case() -> None:
    """Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662, 15 of 148 gives 0.0624 to 0.1605."""
    assert wilson(81, 263) == (0.308, 0.2553, 0.3662)
    assert wilson(15, 148) == (0.1014, 0.0624, 0.1605)


def test_nothing_and_everything() -> None:
    """Newcombe's 0 of 20: up to 0.1611; the mirror image of it; no trial, no rate."""
    assert wilson(0, 20) == (0.0, 0.0, 0.1611)
    assert wilson(20, 20) == (1.0, 0.8389, 1.0)
    assert wilson(0, 0) is None


@given(of=st.integers(1, 500), part=st.floats(0, 1))
def test_the_interval_holds_the_share(of: int, part: float) -> None:
    """Whatever was counted."""
    found = wilson(round(of * part), of)
    assert found is not None
    share, low, high = found
    assert 0 <= low <= share <= high <= 1


def test_quantiles() -> None:
    """The median of an odd number is its middle, p95 of twenty the nineteenth."""
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(1, 21)], 0.95) == 19.0
    assert quantile([], 0.5) is None


def test_confidence_falls_into_steps() -> None:
    """0.7 opens its step although 0.7 * 10 is below 7 for some floats; 1.0 belongs to the last one."""
    found = calibration([(0.7, True), (0.79, False), (1.0, True), (0.97, True)])
    assert found == (
        Calibration(low=0.7, high=0.8, named=2, right=1),
        Calibration(low=0.9, high=1.0, named=2, right=2),
    )
    assert calibration([]) == ()


@pytest.mark.parametrize("confidence", [0.1, 0.2, 0.3, 0.6, 0.9])
def test_a_step_holds_its_lower_end(confidence: float) -> None:
    """Each multiple of a tenth."""
    assert calibration([(confidence, True)])[0].low == confidence
