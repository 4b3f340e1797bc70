"""Moments cut by spans of time, whatever their item."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from culpa.diagnose.moments import Moments

pairs = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda p: (p[0], p[0] + p[1])), max_size=12)


@given(pairs, pairs)
def test_parts_within_spans_are_those_moments_that_lie_in_one(
    held: list[tuple[int, int]], spans: list[tuple[int, int]]
) -> None:
    """Counted tick by tick."""
    moments = Moments.of_rows([n % 3 for n in range(len(held))], [a for a, _ in held], [b for _, b in held])
    found = moments.within(spans)
    for item in range(3):
        mine = {t for n, (a, b) in enumerate(held) if n % 3 == item for t in range(a, b)}
        wanted = {t for t in mine if any(a <= t < b for a, b in spans)}
        rows = zip(found.item.tolist(), found.start_ns.tolist(), found.end_ns.tolist(), strict=True)
        assert {t for i, a, b in rows if i == item for t in range(a, b)} == wanted


@given(pairs, st.integers(0, 80))
def test_the_longest_parts_never_exceed_what_is_asked_for(held: list[tuple[int, int]], ns: int) -> None:
    """They add up to it, or to all there is."""
    moments = Moments.of_rows([0] * len(held), [a for a, _ in held], [b for _, b in held])
    assert moments.longest(ns).ns == min(ns, moments.ns)
    assert moments.longest(ns).minus(moments).ns == 0
