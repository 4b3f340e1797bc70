"""What can be told from answers measured with a fix off and on: the order of the blocks, intervals, and when to stop.

Pure arithmetic on numpy arrays; nothing is looked at or changed here. Answers that come one after the other are alike
(bursts, drift), so that they never count one by one: the unit is the block, and what is compared is a pair of blocks,
one off and one on, whose order is drawn. A quantile is that of all answers of one side together; its interval comes
from drawing pairs anew (Efron and Tibshirani, 1993, with the wider percentiles of Hesterberg, 2015, for few pairs),
and a difference is believed only where exchanging off and on within pairs at random hardly ever gives one as large.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
"""How long answers took, in seconds, in the order of the questions."""
Counts = NDArray[np.float32]

CONFIDENCE: Final = 0.95
CHANCE: Final = 0.025
"""Of as large a difference, one way or the other, by the drawn order alone: 5 % for both quantiles together."""
LEAST_PAIRS: Final = 8
"""Of 8 pairs 256 orders can be drawn: fewer cannot tell 1 in 40 from chance well."""
LEAST_FOR_P99: Final = 100
"""Answers on each side; as for the p99 of a verdict."""
LEAST_FOR_P50: Final = 40
WORSE: Final = 1.05
"""Of the p99 with the fix to that without: above it, beyond noise, the fix is taken back."""
DRAWS: Final = 1000
GROUP: Final = 5
"""Answers in a row that count as one where a single block is judged."""
MOST: Final = 4
SURPRISE: Final = 0.0003
"""Chance of as many slow groups in one block, were it as the time without the fix."""
SHORTEST_SECONDS: Final = 1e-9
_CELLS: Final = 4_000_000
"""Numbers in memory at once while pairs are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A quantile with the fix against without: 0.75 is a quarter less. `chance`: of as much by the order alone."""

    ratio: float
    low: float
    high: float
    chance: float | None = None

    @property
    def fell(self) -> bool:
        """Beyond what noise gives."""
        return self.high < 1 and (self.chance is None or self.chance <= CHANCE)

    @property
    def rose(self) -> bool:
        """Beyond what noise gives."""
        return self.low > 1 and (self.chance is None or self.chance <= CHANCE)


def order(pairs: int, dice: np.random.Generator) -> tuple[bool, ...]:
    """Two blocks a pair, one with the fix (True) and one without, which of them first being drawn."""
    first = dice.random(pairs) < 0.5
    return tuple(bool(on) for one in first for on in (one, not one))


def paired(
    off: Sequence[Times], on: Sequence[Times], quantile: float, dice: np.random.Generator, draws: int = DRAWS
) -> Contrast | None:
    """Compare pairs of blocks: `off[i]` and `on[i]` were measured next to each other, in an order that was drawn.

    Returns:
        None where there are too few pairs or answers to say anything.
    """
    count = len(off)
    if count < LEAST_PAIRS or not _enough(off, on, quantile):
        return None
    drawn = _drawn(count, draws, dice)
    found = _log_quantile(on, quantile) - _log_quantile(off, quantile)
    low, high = _interval(_quantiles(on, quantile, drawn) - _quantiles(off, quantile, drawn), found, count)
    return Contrast(
        ratio=math.exp(found), low=math.exp(low), high=math.exp(high),
        chance=_chance(off, on, quantile, draws, dice),
    )  # fmt: skip


def unpaired(
    before: Sequence[Times], after: Sequence[Times], quantile: float, dice: np.random.Generator
) -> Contrast | None:
    """Compare two windows, each in slices of time: what lies between them, the fix or drift, this cannot tell."""
    least = min(len(before), len(after))
    if least < LEAST_PAIRS or not _enough(before, after, quantile):
        return None
    differences = _quantiles(after, quantile, _drawn(len(after), DRAWS, dice))
    differences -= _quantiles(before, quantile, _drawn(len(before), DRAWS, dice))
    found = _log_quantile(after, quantile) - _log_quantile(before, quantile)
    low, high = _interval(differences, found, least)
    return Contrast(ratio=math.exp(found), low=math.exp(low), high=math.exp(high))


def worse(off: Sequence[Times], on: Times) -> bool:
    """Whether one block with the fix is slower than the time without it beyond its noise.

    Groups of answers in a row, since slow ones come together. Slow is one with an answer above the p99 without the fix
    by more than 5 %, or with most of them above the p90 by as much; there must be too many of either for chance, and
    more than in any equally long stretch without the fix.
    """
    calm = np.concatenate(off) if off else np.empty(0)
    if len(calm) < LEAST_FOR_P50 or len(on) < 2 * GROUP:
        return False
    return any(
        _too_many(_slow_groups(calm, limit, least), _slow_groups(on, limit, least))
        for limit, least in ((WORSE * float(np.quantile(calm, q)), least) for q, least in ((0.99, 1), (0.9, MOST)))
    )


def far_worse(off: Sequence[Times], on: Times) -> bool:
    """Whether half of a block takes longer than the slowest hundredth without the fix: no noise that was seen is so."""
    calm = np.concatenate(off) if off else np.empty(0)
    if len(calm) < LEAST_FOR_P50 or len(on) < 4 * GROUP:  # of fewer a single burst may be half
        return False
    return float(np.median(on)) > WORSE * float(np.quantile(calm, 0.99))


def _too_many(calm: Times, now: Times) -> bool:
    usual, hits, length = (float(calm.sum()) + 0.5) / (len(calm) + 1), int(now.sum()), len(now)
    stretches = np.convolve(calm, np.ones(min(length, len(calm))), "valid")
    return hits > stretches.max() and _tail(length, usual, hits) < SURPRISE


def slices(times: Times, began: Times, count: int) -> list[Times]:
    """A window in so many parts of equal time, without those in which nothing began. `began`: seconds, ascending."""
    if not len(times):
        return []
    edges = np.linspace(began[0], began[-1], count + 1)[1:-1]
    return [part for part in np.split(times, np.searchsorted(began, edges)) if len(part)]


def quantile_of(parts: Sequence[Times], quantile: float) -> float | None:
    """Of all answers together; None where they are too few for it."""
    total = sum(len(part) for part in parts)
    if not total or (quantile > 0.9 and total < LEAST_FOR_P99):
        return None
    return math.exp(_log_quantile(parts, quantile))


def _enough(off: Sequence[Times], on: Sequence[Times], quantile: float) -> bool:
    least = LEAST_FOR_P99 if quantile > 0.9 else LEAST_FOR_P50
    return min(sum(len(part) for part in off), sum(len(part) for part in on)) >= least


def _drawn(count: int, draws: int, dice: np.random.Generator) -> Counts:
    """How often each pair is in each draw: draws x count."""
    return dice.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float32)


def _quantiles(parts: Sequence[Times], quantile: float, drawn: Counts) -> Times:
    """The logarithm of the quantile in each draw."""
    logs, reached = _sorted(parts)
    found = np.empty(len(drawn))
    for rows in _portions(len(drawn), len(logs)):
        found[rows] = _picked(logs, drawn[rows] @ reached, quantile)
    return found


def _log_quantile(parts: Sequence[Times], quantile: float) -> float:
    logs, reached = _sorted(parts)
    return float(_picked(logs, reached.sum(axis=0, keepdims=True), quantile)[0])


def _sorted(parts: Sequence[Times]) -> tuple[Times, Counts]:
    """The logarithms of all answers from the quickest on; and how many of each part lie up to each: parts x answers.

    Whole numbers below 2^24, which these floats hold exactly.
    """
    values = np.log(np.maximum(np.concatenate(list(parts)), SHORTEST_SECONDS))
    ranks = np.argsort(values, kind="stable")
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[ranks]
    return values[ranks], np.cumsum(owner == np.arange(len(parts))[:, None], axis=1, dtype=np.float32)


def _picked(logs: Times, reached: Counts, quantile: float) -> Times:
    """From how many answers lie up to each value: the value at the quantile, one a row."""
    needed = np.maximum(1, np.ceil(quantile * reached[:, -1:]))
    picked: Times = logs[np.count_nonzero(reached < needed, axis=1).clip(max=len(logs) - 1)]
    return picked


def _portions(rows: int, columns: int) -> Iterator[slice]:
    """Of many rows as many at once as there is memory for."""
    step = max(1, _CELLS // columns)
    return (slice(start, start + step) for start in range(0, rows, step))


def _interval(drawn: Times, found: float, count: int) -> tuple[float, float]:
    """The percentile interval and its mirror image around what was found, the wider end of each side.

    Widened for few blocks as a t interval is. Of a skewed quantile each of the two alone covers too seldom.
    """
    tail = NormalDist().cdf(-_student(count - 1) * math.sqrt(count / (count - 1)))
    low, high = (float(end) for end in np.quantile(drawn, [tail, 1 - tail]))
    return min(low, 2 * found - high), max(high, 2 * found - low)


def _student(freedom: int) -> float:
    """The quantile of Student's t for CONFIDENCE, two-sided, by its expansion around the normal one (freedom >= 5)."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _chance(off: Sequence[Times], on: Sequence[Times], quantile: float, draws: int, dice: np.random.Generator) -> float:
    """How often exchanging off and on within pairs at random gives as much: exact if the fix does nothing."""
    count = len(off)
    logs, reached = _sorted([*off, *on])
    of_off, of_on = reached[:count], reached[count:]
    exchanged = (dice.random((draws, count)) < 0.5).astype(np.float32)
    exchanged[0] = 0  # as it was
    found = np.empty(draws)
    for rows in _portions(draws, len(logs)):
        named_on = of_on.sum(axis=0) + exchanged[rows] @ (of_off - of_on)
        named_off = reached.sum(axis=0) - named_on
        found[rows] = _picked(logs, named_on, quantile) - _picked(logs, named_off, quantile)
    return float(np.mean(np.abs(found) >= abs(found[0]) - 1e-12))


def _slow_groups(times: Times, limit: float, least: int) -> Times:
    """For each group of answers in a row whether so many at least are above the limit."""
    groups = times[: len(times) // GROUP * GROUP].reshape(-1, GROUP)
    slow: Times = np.asarray(np.count_nonzero(groups > limit, axis=1) >= least, np.float64)
    return slow


def _tail(trials: int, share: float, hits: int) -> float:
    """The chance of so many or more."""
    return sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(hits, trials + 1))
