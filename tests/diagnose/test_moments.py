"""Sets of moments against the same sets counted second by second."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from culpa.diagnose.moments import Moments

INTERVALS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 12)), max_size=12)


def moments(rows: list[tuple[int, int, int]]) -> Moments:
    """From (item, start, length)."""
    item, start, length = (np.array([row[i] for row in rows], dtype=np.int64) for i in range(3))
    return Moments.union(item, start, start + length)


def points(rows: list[tuple[int, int, int]]) -> set[tuple[int, int]]:
    """Every (item, moment) covered."""
    return {(item, moment) for item, start, length in rows for moment in range(start, start + length)}


@given(INTERVALS)
def test_a_union_covers_each_moment_once(rows: list[tuple[int, int, int]]) -> None:
    """Length is the number of covered moments."""
    assert len(points(rows)) == moments(rows).ns


@given(INTERVALS, INTERVALS)
def test_minus_and_common_split_a_set(rows: list[tuple[int, int, int]], others: list[tuple[int, int, int]]) -> None:
    """What is left and what is shared are what sets say."""
    left, shared = points(rows) - points(others), points(rows) & points(others)

    assert len(left) == moments(rows).minus(moments(others)).ns
    assert len(shared) == moments(rows).common(moments(others))


@given(
    INTERVALS, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=5)
)
def test_overlap_is_counted_per_interval(rows: list[tuple[int, int, int]], asked: list[tuple[int, int, int]]) -> None:
    """Each interval of an item on its own."""
    item, start, length = (np.array([row[i] for row in asked], dtype=np.int64) for i in range(3))
    expected = [len(points(rows) & points([one])) for one in asked]

    assert expected == moments(rows).overlap(start, start + length, item).tolist()


@given(INTERVALS)
def test_lengths_by_item_add_up(rows: list[tuple[int, int, int]]) -> None:
    """Per item what the whole is made of."""
    by_item = moments(rows).by_item(4)

    assert [len({p for p in points(rows) if p[0] == item}) for item in range(4)] == by_item.tolist()
