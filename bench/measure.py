"""What a measurement is made of: rows with a goal, and the interval of a mean over pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 5000
SEED: Final = 1
"""The same runs give the same interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound that a value keeps or does not."""

    sign: Literal["<=", ">="]
    bound: float

    def met(self, value: float) -> bool:
        """Whether `value` keeps it."""
        return value <= self.bound if self.sign == "<=" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


def at_most(bound: float) -> Goal:
    """The value must not exceed `bound`."""
    return Goal(sign="<=", bound=bound)


def at_least(bound: float) -> Goal:
    """The value must reach `bound`."""
    return Goal(sign=">=", bound=bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. `value` is None where it could not be measured, and the name says why; `runs` are the
    single results behind it, in the order they were made and in the same unit.
    """

    name: str
    value: float | None
    unit: str
    goal: Goal | None = None
    runs: tuple[float, ...] = ()

    @property
    def met(self) -> bool | None:
        """Whether the goal was kept; None without a goal. A goal that could not be measured is not kept."""
        if self.goal is None:
            return None
        return self.value is not None and self.goal.met(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure: `quick` answers whether it works, not how fast it is."""

    quick: bool

    def choose(self, full: float, quick: float) -> float:
        """The figure for this effort."""
        return quick if self.quick else full

    def times(self, full: int, quick: int) -> int:
        """The number of repetitions for this effort."""
        return quick if self.quick else full


Measurement = Callable[[Effort], Iterator[Row]]


def median_row(name: str, runs: Sequence[float], unit: str, goal: Goal | None = None) -> Row:
    """The median of some runs."""
    return Row(name=name, value=float(np.median(runs)), unit=unit, goal=goal, runs=tuple(runs))


def interval(pairs: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean, by the bootstrap (percentiles of resampled means); None for one pair."""
    values = np.asarray(pairs, dtype=np.float64)
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(SEED).choice(values, size=(RESAMPLES, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn.mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)
