"""The wait graph's pieces against timeline and simulator."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from culpa.model import requests, timeline, waitgraph
from culpa.sim import emit, engine, truth
from culpa.sim.log import Log
from culpa.sim.program import Help, Program
from culpa.sim.random_programs import Nature, random_program

SEEDS = st.integers(0, 2**32)
often = settings(max_examples=60, deadline=None, derandomize=True)
NATURES = {
    "all seen": Nature(locks=True, bystanders=True, inside=True),
    "locks of the kernel": Nature(shared=True, bystanders=True),
    "part hidden": Nature(locks=True, split=True, pipelined=True, middle=True, late=True, bystanders=True, inside=True),
    "beside and memory": Nature(locks=True, bystanders=True, inside=True, beside=True, memory=True),
    "beside, memory and locks of the kernel": Nature(shared=True, bystanders=True, beside=True, memory=True),
    "memory, part hidden": Nature(
        locks=True, split=True, pipelined=True, middle=True, late=True, bystanders=True, inside=True, memory=True
    ),
}
natures = pytest.mark.parametrize("nature", list(NATURES.values()), ids=list(NATURES))


def _simulate(seed: int, nature: Nature) -> tuple[Program, Log, pl.DataFrame, pl.DataFrame]:
    program = random_program(seed, size=3, nature=nature)
    log = engine.run(program)
    capture = emit.capture(program, log)
    spans = timeline.build(capture)
    graph = waitgraph.build(capture, spans, requests.find(capture))
    return program, log, spans.segments, graph.pieces


@natures
@often
@given(seed=SEEDS)
def test_pieces_tile_the_window_of_every_thread(nature: Nature, seed: int):
    """Each begins where the one before it ends, and together they are as long as the segments."""
    program, _, segments, pieces = _simulate(seed, nature)
    assert set(segments["tid"].to_list()) == set(pieces["tid"].to_list())
    for _, own in pieces.group_by("tid"):
        bounds = own.select("start_ns", "end_ns").sort("start_ns")
        joints = [program.window[0], *bounds["end_ns"].to_list()]
        assert joints == [*bounds["start_ns"].to_list(), program.window[1]]


@natures
@often
@given(seed=SEEDS)
def test_who_runs_or_is_runnable_waits_for_nobody(nature: Nature, seed: int):
    """A piece that leads on to another thread lies in a wait of its own thread."""
    _, log, _, pieces = _simulate(seed, nature)
    led = pieces.filter(pl.col("next_tid") >= 0)
    for tid, start, end in led.select("tid", "start_ns", "end_ns").iter_rows():
        assert {"waiting"} == {interval.state for interval in truth.states(log, tid, start, end)}


@natures
@often
@given(seed=SEEDS)
def test_a_wait_leads_to_the_thread_that_it_truly_waited_for(nature: Nature, seed: int):
    """Of every watched thread, not only of those that serve the target's requests."""
    program, log, _, pieces = _simulate(seed, nature)
    led = pieces.filter((pl.col("next_tid") >= 0) & ~pl.col("idle"))
    for tid, start, end, to in led.select("tid", "start_ns", "end_ns", "next_tid").iter_rows():
        chains = {leaf.chain[:2] for leaf in truth.explain(program, log, tid, start, end)}
        assert {(tid, to)} == chains, (tid, start, end)


@natures
@often
@given(seed=SEEDS)
def test_who_waits_for_work_is_idle_and_led_to_whoever_gave_it_the_next_piece(nature: Nature, seed: int):
    """A helper's wait on its channel."""
    program, log, _, pieces = _simulate(seed, nature)
    assert pieces.filter((pl.col("kind") == "idle") & ~pl.col("idle")).is_empty()
    helpers = [t.tid for p in program.processes for t in p.threads if isinstance(t.body, Help)]
    led = pieces.filter((pl.col("next_tid") >= 0) & pl.col("tid").is_in(helpers) & (pl.col("kind") == "peer"))
    for tid, start, end, to, idle in led.select("tid", "start_ns", "end_ns", "next_tid", "idle").iter_rows():
        assert idle
        assert {("idle", (tid,))} == {(leaf.kind, leaf.chain) for leaf in truth.explain(program, log, tid, start, end)}
        job = next(job for job in log.jobs if job.helper_tid == tid and job.taken_ns is not None and job.taken_ns > end)
        assert to == job.asker_tid


@often
@given(seed=SEEDS)
def test_a_question_is_queued_until_it_is_read_and_then_the_peer_works_on_it(seed: int):
    """The cut lies where the peer's read of the question ended."""
    program, log, _, pieces = _simulate(seed, NATURES["all seen"])
    named = pieces.filter(
        pl.col("kind").is_in(["queued", "peer", "lock"]) & ~pl.col("idle") & (pl.col("next_tid") >= 0)
    )
    for tid, start, end, kind in named.select("tid", "start_ns", "end_ns", "kind").iter_rows():
        edges = {leaf.edges[0] for leaf in truth.explain(program, log, tid, start, end)}
        assert {kind} == {"peer" if edge == "job" else edge for edge in edges}, (tid, start, end)


@pytest.mark.parametrize(
    "nature",
    [
        NATURES["all seen"],
        Nature(locks=True, middle=True, late=True, bystanders=True, inside=True),
        NATURES["beside and memory"],
        NATURES["beside, memory and locks of the kernel"],
        Nature(locks=True, middle=True, late=True, bystanders=True, inside=True, memory=True),
    ],
    ids=["all seen", "part hidden", "beside and memory", "and locks of the kernel", "memory, part hidden"],
)
@often
@given(seed=SEEDS)
def test_sleep_and_idleness_are_what_they_are_called(nature: Nature, seed: int):
    """A piece called sleep or idle truly is one, for every watched thread.

    Nobody can know that one more answer is due of several that were asked for before the window, so without those; nor
    what a thread awaits beside it where it was not seen to give that to the kernel.
    """
    program, log, _, pieces = _simulate(seed, nature)
    named = pieces.filter(pl.col("kind").is_in(["sleep", "idle"]))
    for tid, start, end, kind in named.select("tid", "start_ns", "end_ns", "kind").iter_rows():
        assert {(kind, (tid,))} == {(leaf.kind, leaf.chain) for leaf in truth.explain(program, log, tid, start, end)}, (
            tid,
            start,
            end,
        )


@pytest.mark.parametrize("world", ["all seen", "beside and memory", "beside, memory and locks of the kernel"])
@often
@given(seed=SEEDS)
def test_a_device_wait_is_split_into_queue_and_service_as_the_device_did(world: str, seed: int):
    """On the device's own times: before the request was issued it queued, from then on it was served."""
    program, log, _, pieces = _simulate(seed, NATURES[world])
    blocks = {(b.tid, b.issue_ns) for b in log.blocks}
    waits = pieces.filter((pl.col("via") == "device") | (pl.col("kind") == "device"))
    for tid, start, end in waits.select("tid", "start_ns", "end_ns").iter_rows():
        leaves = truth.explain(program, log, tid, start, end)
        assert {"device"} == {leaf.kind for leaf in leaves}
        if end < program.window[1]:
            assert len({leaf.stage for leaf in leaves}) == 1 or (tid, start) in blocks
