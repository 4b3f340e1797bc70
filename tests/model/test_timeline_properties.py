"""The timeline against the simulator's states: no gap, no overlap, nothing that was not so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model import timeline
from culpa.sim import emit, engine, truth
from culpa.sim.log import Log
from culpa.sim.program import Program
from culpa.sim.random_programs import Nature, random_program

SEEDS = st.integers(0, 2**32)
SEEN = Nature(locks=True, bystanders=True, inside=True)
HIDDEN = Nature(locks=True, split=True, pipelined=True, middle=True, late=True, bystanders=True, inside=True)
ALL = replace(HIDDEN, beside=True, memory=True, shared=True)
natures = pytest.mark.parametrize("nature", [SEEN, HIDDEN, ALL], ids=["all seen", "part hidden", "all of it"])
often = settings(max_examples=60, deadline=None, derandomize=True)


def _simulate(seed: int, nature: Nature) -> tuple[Program, Log, Capture]:
    program = random_program(seed, size=3, nature=nature)
    log = engine.run(program)
    return program, log, emit.capture(program, log, old_waits_known=bool(seed % 2))


def _watched_since(capture: Capture) -> dict[int, int]:
    tasks = capture.frame(schema.TASKS).drop_nulls("watched_ns")
    return dict(zip(tasks["tid"].to_list(), tasks["watched_ns"].to_list(), strict=True))


@natures
@often
@given(seed=SEEDS)
def test_segments_tile_the_window_of_every_watched_thread(nature: Nature, seed: int):
    """Each begins where the one before it ends; the first and the last reach the window's bounds."""
    program, _, capture = _simulate(seed, nature)
    segments = timeline.build(capture).segments
    assert set(_watched_since(capture)) == set(segments["tid"].to_list())
    for _, own in segments.group_by("tid"):
        bounds = own.select("start_ns", "end_ns").sort("start_ns")
        joints = [program.window[0], *bounds["end_ns"].to_list()]
        assert joints == [*bounds["start_ns"].to_list(), program.window[1]]
        assert (bounds["end_ns"] > bounds["start_ns"]).all()


@natures
@often
@given(seed=SEEDS)
def test_a_segment_says_what_the_thread_did(nature: Nature, seed: int):
    """Every nanosecond that is not `unseen` is in the state in which the simulator had the thread."""
    _, log, capture = _simulate(seed, nature)
    segments = timeline.build(capture).segments.filter(pl.col("kind") != "unseen")
    for tid, start, end, kind in segments.select("tid", "start_ns", "end_ns", "kind").iter_rows():
        found = {interval.state for interval in truth.states(log, tid, start, end)}
        assert {kind} == found, (tid, start, end)


@natures
@often
@given(seed=SEEDS)
def test_only_what_could_not_be_seen_is_unseen(nature: Nature, seed: int):
    """Before the thread was watched, or in a stretch off the CPU of which only the end was seen."""
    program, log, capture = _simulate(seed, nature)
    since = _watched_since(capture)
    segments = timeline.build(capture).segments.filter(pl.col("kind") == "unseen")
    for tid, start, end in segments.select("tid", "start_ns", "end_ns").iter_rows():
        seen_from = max(since[tid], program.window[0])
        blind = [o for o in log.offs[tid] if o.off_ns < seen_from and (o.wake_ns is None or o.wake_ns < seen_from)]
        unseen_to = max([seen_from, *(o.on_ns for o in blind if o.on_ns is not None)])
        assert end <= unseen_to, (tid, start, end)


@often
@given(seed=SEEDS)
def test_a_wait_carries_the_waker_and_the_state_that_were_seen(seed: int):
    """`UNKNOWN` where the idle task woke it, or it was not woken in the window."""
    program, log, capture = _simulate(seed, SEEN)
    waits = timeline.build(capture).segments.filter(pl.col("kind") == "waiting")
    for tid, start, state, waker in waits.select("tid", "start_ns", "state", "waker_tid").iter_rows():
        (off,) = [off for off in log.offs[tid] if off.off_ns == start and off.cause is not None]
        woken = off.wake_ns is not None and off.wake_ns < program.window[1] and off.waker is not None
        assert (off.state, off.waker if woken else timeline.UNKNOWN) == (state, waker)


@natures
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_the_order_of_rows_does_not_matter(nature: Nature, seed: int):
    """Shuffled tables give the same segments."""
    _, _, capture = _simulate(seed, nature)
    rng = np.random.default_rng(seed)
    tables = {name: frame[rng.permutation(len(frame))] for name, frame in capture.tables.items()}
    shuffled = Capture(manifest=capture.manifest, tables=tables)
    columns = ["tid", "pid", "start_ns", "end_ns", "kind", "state", "waker_tid", "stack_id"]
    assert_frame_equal(
        timeline.build(capture).segments.select(columns), timeline.build(shuffled).segments.select(columns)
    )


def test_stretches_of_threads_that_nobody_knows_are_left_out():
    """A forged capture may hold rows without a process; they belong to no thread, and are no reason to stop."""
    _, _, capture = _simulate(1, SEEN)
    nameless = capture.frame(schema.OFFCPU).with_columns(pid=pl.lit(None, pl.Int32))
    forged = replace(capture, tables={schema.OFFCPU.name: nameless})
    assert timeline.build(forged).segments.is_empty()
