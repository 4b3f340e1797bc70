"""Predictions on scenes whose repaired twin is known by construction: it lies in the range, and the range is honest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene import MS, Scene

from culpa.diagnose import predict
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture, draw
from culpa.diagnose.verdict import Predicted
from culpa.model import requests
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND

SYNCS = st.lists(st.sampled_from([0, 1, 1, 2, 20]), min_size=20, max_size=60)
"""Milliseconds of each command's sync: bimodal, as on a throttled disk."""
few = settings(max_examples=30, deadline=None)


def scene(syncs_ms: list[int], nap_ms: int) -> Scene:
    """One request: a command for each sync, and one nap of the service in the middle."""
    made = Scene()
    made.now += 2 * MS
    made.request_arrives()
    for number, sync_ms in enumerate(syncs_ms):
        made.redis("SADD", "found", sync_ns=sync_ms * MS)
        if nap_ms and number == len(syncs_ms) // 2:
            made.nap(nap_ms * MS)
    made.answer()
    return made


def seconds(made: Scene) -> float:
    """How long the request took, by the scene's own clock."""
    ((start, end),) = made.probes
    return (end - start) / NS_PER_SECOND


def picture(made: Scene) -> Picture:
    capture = made.capture(appendfsync="always")
    return draw(capture, requests.find(capture))


def without(made: Scene, *kinds: Kind) -> Predicted:
    drawn = picture(made)
    found = predict.without(drawn, drawn.moments(*drawn.nodes(*kinds)))
    assert found is not None
    return found


@few
@given(syncs=SYNCS, nap_ms=st.integers(1, 200))
def test_without_a_nap_the_syncs_stay(syncs: list[int], nap_ms: int) -> None:
    """The twin that does not sleep lies in the range, at the nearer end to what was: nothing repaired its syncs."""
    predicted, twin = without(scene(syncs, nap_ms), Kind.SLEEP), seconds(scene(syncs, 0))
    slack = 0.001
    assert predicted.low - slack <= twin <= predicted.high + slack
    assert predicted.high == pytest.approx(twin, abs=slack)
    share = nap_ms * MS / NS_PER_SECOND / seconds(scene(syncs, nap_ms))
    assert predicted.high - predicted.low <= 2 * share * twin + slack
    assert abs(predicted.p50 - twin) <= 2 * share * twin + slack


@few
@given(syncs=SYNCS, nap_ms=st.integers(0, 200))
def test_without_the_syncs_the_nap_stays(syncs: list[int], nap_ms: int) -> None:
    """The twin that does not sync lies in the range."""
    predicted, twin = without(scene(syncs, nap_ms), Kind.FSYNC), seconds(scene([0] * len(syncs), nap_ms))
    slack = 0.002
    assert predicted.low - slack <= twin <= predicted.high + slack


@few
@given(syncs=SYNCS, nap_ms=st.integers(0, 100), kinds=st.sets(st.sampled_from(Kind), max_size=4))
def test_bounds_are_in_order_and_below_what_was(syncs: list[int], nap_ms: int, kinds: set[Kind]) -> None:
    """Whatever is taken away."""
    made = scene(syncs, nap_ms)
    predicted = without(made, *kinds)
    assert 0 <= predicted.low <= predicted.p50 <= predicted.high <= seconds(made) + 1e-9


@few
@given(syncs=SYNCS, nap_ms=st.integers(0, 100))
def test_what_takes_nothing_saves_nothing(syncs: list[int], nap_ms: int) -> None:
    """No moments: what was, and no range."""
    made = scene(syncs, nap_ms)
    drawn = picture(made)
    predicted = predict.without(drawn, Moments.of(drawn.blame.inside()))
    assert predicted is not None
    assert predicted.low == predicted.p50 == predicted.high == pytest.approx(seconds(made), abs=1e-6)


def test_a_larger_part_of_the_same_cause_reaches_further_down() -> None:
    """A third of the syncs, and all of them: the lower bound follows."""
    drawn = picture(scene([1, 20, 2] * 12, 100))
    everything = drawn.moments(*drawn.nodes(Kind.FSYNC))
    part = Moments(item=everything.item[::3], start_ns=everything.start_ns[::3], end_ns=everything.end_ns[::3])
    less, more = predict.without(drawn, part), predict.without(drawn, everything)
    assert less is not None
    assert more is not None
    assert more.low < less.low < less.high
    assert more.high < less.high
