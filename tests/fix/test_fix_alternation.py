"""What is told from alternating blocks: intervals that cover, gains found, none invented, harm seen in one block."""

from __future__ import annotations

import numpy as np
import pytest

from culpa.fix import alternation
from culpa.fix.alternation import Times, order, paired, quantile_of, slices, unpaired, worse

PAIRS, ANSWERS, RUNS = 30, 36, 100
"""A trial of 60 s at some 40 answers a second."""


def waits(count: int, dice: np.random.Generator) -> Times:
    """Like a busy server's: each like the one before, slow ones in bursts, a drift over the whole time; median 1 ms."""
    level = np.zeros(count)
    steps = dice.normal(0, 0.1, count)
    for at in range(1, count):
        level[at] = 0.95 * level[at - 1] + steps[at]
    burst = np.convolve(dice.random(count) < 0.002, np.ones(8))[:count] > 0
    drift = np.linspace(0, dice.normal(0, 0.3), count)
    found: Times = 1e-3 * np.exp(level + dice.normal(0, 0.25, count) + drift + 1.5 * burst)
    return found


def trial(effect: float, dice: np.random.Generator) -> tuple[list[Times], list[Times]]:
    """Blocks off and on; `effect` is the factor of every answer with the fix."""
    blocks = np.split(waits(2 * PAIRS * ANSWERS, dice), 2 * PAIRS)
    plan = order(PAIRS, dice)
    off = [block for block, on in zip(blocks, plan, strict=True) if not on]
    return off, [effect * block for block, on in zip(blocks, plan, strict=True) if on]


def told(effect: float, seed: int) -> tuple[alternation.Contrast, alternation.Contrast]:
    """p50 and p99."""
    dice = np.random.default_rng(seed)
    off, on = trial(effect, dice)
    found = [paired(off, on, quantile, dice, 500) for quantile in (0.5, 0.99)]
    assert found[0] is not None
    assert found[1] is not None
    return found[0], found[1]


@pytest.mark.parametrize("effect", [1.0, 0.75])
def test_a_gain_of_a_quarter_is_told_from_none(effect: float) -> None:
    """In 95 of 100 runs at least, either way; and the interval covers the true effect as often as it says."""
    runs = [told(effect, seed) for seed in range(RUNS)]
    gains = sum(p50.fell or p99.fell for p50, p99 in runs)
    assert gains <= 5 if effect == 1 else gains >= 95
    assert not [True for p50, p99 in runs if effect < 1 and (p50.rose or p99.rose)]
    for quantile in (0, 1):
        covered = sum(run[quantile].low <= effect <= run[quantile].high for run in runs)
        assert covered >= 90, (quantile, covered)  # of 95 expected: two standard deviations


def test_a_gain_in_the_tail_alone_is_found() -> None:
    """Stalls that the fix removes, the median being the same."""
    dice = np.random.default_rng(3)
    off, on = trial(1.0, dice)
    stalled = [np.where(dice.random(len(one)) < 0.05, one + 0.05, one) for one in off]
    p50, p99 = paired(stalled, on, 0.5, dice), paired(stalled, on, 0.99, dice)
    assert p50 is not None
    assert p99 is not None
    assert not p50.fell
    assert p99.fell
    assert p99.ratio < 0.2


def test_too_little_is_no_interval() -> None:
    """Few pairs, or few answers."""
    dice = np.random.default_rng(0)
    few = [np.ones(100)] * (alternation.LEAST_PAIRS - 1)
    assert paired(few, few, 0.5, dice) is None
    assert unpaired(few, few, 0.5, dice) is None
    thin = [np.ones(6)] * alternation.LEAST_PAIRS
    assert paired(thin, thin, 0.5, dice) is not None
    assert paired(thin, thin, 0.99, dice) is None
    assert quantile_of(thin, 0.5) == pytest.approx(1)
    assert quantile_of(thin, 0.99) is None
    assert quantile_of([], 0.5) is None


def test_harm_is_seen_within_one_block_and_chance_is_not() -> None:
    """Five times as slow: each time. Nothing: in fewer than 1 of 20, which two in a row are not."""
    seen, alarms = 0, 0
    for seed in range(60):
        off, on = trial(1.0, np.random.default_rng(seed))
        seen += worse(off[:5], 5 * on[5])
        alarms += sum(worse(off[:5], block) for block in on[:10])
    assert 60 == seen
    assert alarms <= 30


def test_blocks_come_in_pairs_of_a_drawn_order() -> None:
    """Each pair has one of each, and both orders occur."""
    plan = order(50, np.random.default_rng(1))
    pairs = set(zip(plan[::2], plan[1::2], strict=True))
    assert {(True, False), (False, True)} == pairs


def test_slices_hold_every_answer_once() -> None:
    """In their order, by the time they began."""
    began = np.sort(np.random.default_rng(2).random(500))
    parts = slices(np.arange(500.0), began, 12)
    assert np.arange(500.0).tolist() == np.concatenate(parts).tolist()
    assert 12 == len(parts)
    assert [] == slices(np.empty(0), np.empty(0), 12)
