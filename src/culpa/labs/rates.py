"""How often something was right, and how far that figure can be trusted (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, sqrt

import msgspec

Z_95 = 1.959964
"""The normal distribution's two-sided 95 % point."""
STEPS = 10


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Of `named` causes whose confidence lay in [low, high), how many were `right`: observed accuracy beside it."""

    low: float
    high: float
    named: int
    right: int


def wilson(hits: int, of: int) -> tuple[float, float, float] | None:
    """Share of hits with its Wilson 95 % interval: (value, low, high); None where nothing was tried.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927).
    """
    if of == 0:
        return None
    share, z2 = hits / of, Z_95 * Z_95
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z_95 * sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    # At 0 and 1 the interval ends there exactly; the arithmetic does not.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    high = 1.0 if hits == of else min(1.0, middle + half)
    return round(share, 4), round(low, 4), round(high, 4)


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of all values does not exceed; None of none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else None


def calibration(named: Iterable[tuple[float, bool]]) -> tuple[Calibration, ...]:
    """Steps of 0.1 that hold any cause, from (confidence 0..1, whether it was right)."""
    steps: dict[int, list[bool]] = {}
    for confidence, right in named:
        steps.setdefault(min(int(confidence * STEPS + 1e-9), STEPS - 1), []).append(right)
    return tuple(
        Calibration(low=step / STEPS, high=(step + 1) / STEPS, named=len(found), right=sum(found))
        for step, found in sorted(steps.items())
    )
