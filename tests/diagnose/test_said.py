"""The facts that rules take from a server's own word."""

from __future__ import annotations

import pytest

from culpa.diagnose.rules.redis_said import fact


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(300.0, "s", 300.0), (301.5, "s", 301.5), (300, "ms", 300.0), (4.0, "", 4), (4.5, "", 4.5), ("0", "s", "0")],
)
def test_a_time_is_a_float_whatever_it_is(value: float | str, unit: str, expected: float | str) -> None:
    """Whoever reads the JSON need not be ready for both; counts are integers."""
    found = fact("a fact", value, "INFO", unit=unit, limit=60 if unit else None)

    assert (expected, type(expected)) == (found.value, type(found.value))
    assert (float if unit else type(None)) is type(found.threshold)
