"""Laws that every run of the simulator obeys, whatever the program."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from culpa.sim import engine, truth
from culpa.sim.log import Log
from culpa.sim.program import Program
from culpa.sim.random_programs import Nature, random_program

NASTY = Nature(
    locks=True, split=True, pipelined=True, middle=True, late=True, bystanders=True, inside=True, beside=True,
    memory=True,
)  # fmt: skip
SEEDS = st.integers(0, 2**32)
runs = settings(max_examples=40, deadline=None, derandomize=True)


def _run(seed: int, nature: Nature = NASTY) -> tuple[Program, Log]:
    program = random_program(seed, size=3, nature=nature)
    return program, engine.run(program)


@runs
@given(SEEDS)
def test_the_same_program_runs_the_same_way(seed: int):
    """Two runs leave equal logs."""
    assert _run(seed) == _run(seed)


@runs
@given(SEEDS)
def test_no_more_threads_run_than_there_are_cpus(seed: int):
    """Counted over all changes of state."""
    program, log = _run(seed)
    changes = Counter()
    for entries in log.states.values():
        for (since, state), (until, _) in pairwise([*entries, (log.end_ns, "waiting")]):
            if state == "running" and until > since:
                changes[since] += 1
                changes[until] -= 1
    running = 0
    for moment in sorted(changes):
        running += changes[moment]
        assert 0 <= running <= program.machine.cpus


@runs
@given(SEEDS)
def test_stretches_off_the_cpu_do_not_overlap(seed: int):
    """off < wake <= on <= the next off, and only the last one may be open."""
    _, log = _run(seed)
    for offs in log.offs.values():
        for off, following in pairwise(offs):
            assert off.on_ns is not None
            assert off.on_ns < following.off_ns
        for off in offs[1:]:
            moments = [m for m in (off.off_ns, off.wake_ns, off.on_ns) if m is not None]
            assert moments == sorted(moments)
            assert off.cause is not None or off.wake_ns is None


@runs
@given(SEEDS)
def test_the_device_serves_one_request_at_a_time_and_never_rests_while_one_is_queued(seed: int):
    """Each request is issued when it is queued or when the one before it completes, whichever is later."""
    _, log = _run(seed)
    free_at = 0
    for block in log.blocks:
        if block.issue_ns is not None:
            assert block.issue_ns == max(block.queued_ns, free_at)
            free_at = log.end_ns if block.complete_ns is None else block.complete_ns


@runs
@given(SEEDS)
def test_a_request_goes_its_way_in_order(seed: int):
    """It arrives, is read, is answered, and the answer's bytes arrive no later than its last write ends."""
    _, log = _run(seed)
    for request in log.requests:
        order = [request.arrive_ns, request.read_ns, request.delivered_ns, request.reply_ns]
        if request.server_pid is not None:
            known = [moment for moment in order if moment is not None]
            assert known == sorted(known)
            assert order[: len(known)] == known


@runs
@given(SEEDS)
def test_the_truth_adds_up_to_the_root_without_gap(seed: int):
    """Leaves follow one another from the root's first nanosecond to its last; its own thread is never idle."""
    program, log = _run(seed)
    for root in truth.roots(program, log):
        leaves = truth.explain(program, log, root.tid, root.start_ns, root.end_ns)
        assert (root.start_ns, root.end_ns) == (leaves[0].start_ns, leaves[-1].end_ns)
        assert all(before.end_ns == after.start_ns for before, after in pairwise(leaves))
        assert all(leaf.chain[0] == root.tid for leaf in leaves)
        assert not [leaf for leaf in leaves if leaf.kind == "idle" and len(leaf.chain) == 1]


@runs
@given(SEEDS)
def test_a_sync_ends_after_a_commit_that_began_after_it_was_asked_for(seed: int):
    """Between the two lies at least one flush of the journal that was queued after the thread began to wait."""
    program, log = _run(seed)
    flushes = [b for b in log.blocks if b.tid == program.journal_tid and b.op == "flush"]
    for tid, commit in {(o.tid, o.cause) for offs in log.offs.values() for o in offs if o.cause is not None}:
        # A commit that ends wakes those who wait for the next one as well; they go on waiting.
        waits = [off for off in log.offs[tid] if off.cause == commit]
        if commit.kind == "commit" and waits[-1].wake_ns is not None:
            assert any(
                waits[0].off_ns <= b.queued_ns and (b.complete_ns or log.end_ns) <= waits[-1].wake_ns for b in flushes
            )


def test_random_programs_reach_everything_that_they_are_for():
    """Three hundred of them contain every kind of leaf and every edge, and chains of four threads."""
    kinds, edges, rooms, longest = set(), set(), set(), 0
    for seed in range(300):
        program, log = _run(seed, NASTY if seed % 3 == 0 else Nature())
        for root in truth.roots(program, log):
            for leaf in truth.explain(program, log, root.tid, root.start_ns, root.end_ns):
                kinds.add(leaf.kind)
                rooms.add(leaf.room)
                edges.update(leaf.edges)
                longest = max(longest, len(leaf.chain))
    assert {"running", "runnable", "device", "sleep", "remote", "idle", "queued", "reclaim"} == kinds
    assert {None, "swap", "host", "group", "compaction", "high"} == rooms
    assert {"peer", "queued", "journal", "lock", "job"} == edges
    assert longest >= 4


@pytest.mark.parametrize(
    "flag", ["locks", "split", "pipelined", "middle", "late", "bystanders", "inside", "shared", "beside", "memory"]
)
def test_every_nature_makes_a_difference(flag: str):
    """Of twenty programs with the flag at least one is not the one without it."""
    assert any(random_program(s, nature=Nature(**{flag: True})) != random_program(s) for s in range(20))
