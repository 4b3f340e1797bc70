"""Blame against the simulator: time is conserved, the right thread is charged, nobody innocent ever is.

The truth comes from `culpa.sim.truth`, which knows what was scheduled and shares no code with the model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from against_truth import differences, judge, may_stop, run
from hypothesis import given, settings
from hypothesis import strategies as st

from culpa.capture.bundle import Capture
from culpa.sim import emit, truth
from culpa.sim.random_programs import Nature

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(1, 4)
often = settings(max_examples=25, deadline=None, derandomize=True)

PLAIN = Nature()
EVERYTHING = Nature(
    locks=True, split=True, pipelined=True, middle=True, late=True, bystanders=True, inside=True, shared=True,
    beside=True, memory=True,
)  # fmt: skip
SEEN = {
    "plain": PLAIN,
    "bystanders as wakers": Nature(bystanders=True),
    "bytes arrive inside the write": Nature(inside=True, bystanders=True),
    "locks and helpers": Nature(locks=True),
    "locks of the kernel": Nature(shared=True, bystanders=True),
    "requests and answers in two writes": Nature(split=True),
    "pipelined requests": Nature(pipelined=True),
    "requests done beside": Nature(beside=True),
    "short of memory": Nature(memory=True),
    "beside, memory, locks and bystanders": Nature(beside=True, memory=True, locks=True, bystanders=True, inside=True),
    "beside, memory and locks of the kernel": Nature(beside=True, memory=True, shared=True, bystanders=True),
}
"""Worlds of which the tracer sees everything."""
HIDDEN = {
    "peers watched late": Nature(late=True),
    "window in the middle": Nature(middle=True),
    "locks of the kernel, part hidden": Nature(shared=True, middle=True, late=True, bystanders=True),
    "all at once": Nature(locks=True, split=True, pipelined=True, middle=True, late=True, bystanders=True, inside=True),
    "all of it": EVERYTHING,
}
"""Worlds of which it misses a part."""


def _all(worlds: dict[str, Nature]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("nature", list(worlds.values()), ids=list(worlds))


@_all(SEEN | HIDDEN)
@often
@given(seed=SEEDS, size=SIZES)
def test_leaves_add_up_to_the_root(nature: Nature, seed: int, size: int):
    """To the nanosecond; children never hold more than their node, and an inner node holds no time of its own."""
    judged = judge(*run(seed, size, nature))
    assert judged.root_ns == sum(charge.end_ns - charge.start_ns for charge in judged.charges)
    assert judged.root_ns == judged.blame.nodes[0].ns
    for node in judged.blame.nodes:
        if node.children:
            assert node.ns == sum(judged.blame.nodes[child].ns for child in node.children)


@_all(SEEN | HIDDEN)
@often
@given(seed=SEEDS, size=SIZES)
def test_nobody_innocent_is_charged(nature: Nature, seed: int, size: int):
    """Each nanosecond stands with who truly spent it, or as `unexplained` with somebody on the way there."""
    wrong = [difference for difference in differences(judge(*run(seed, size, nature))) if difference.is_wrong]
    assert not wrong


@_all(SEEN)
@often
@given(seed=SEEDS, size=SIZES)
def test_what_can_be_known_is_explained(nature: Nature, seed: int, size: int):
    """Where everything was seen, every nanosecond is charged to its true end, apart from what nobody could know."""
    judged = judge(*run(seed, size, nature))
    unknown = [d for d in differences(judged) if d.charge is not None and not may_stop(d, judged)]
    assert not unknown


@_all({name: nature for name, nature in SEEN.items() if not (nature.split or nature.pipelined)})
@often
@given(seed=SEEDS, size=SIZES)
def test_the_root_is_every_request_of_the_target(nature: Nature, seed: int, size: int):
    """Nothing that the target served is left out.

    An answer of which the window shows only the first write looks whole, so those are not asked for here.
    """
    lost = [difference for difference in differences(judge(*run(seed, size, nature))) if difference.charge is None]
    assert not lost


@often
@given(seed=SEEDS, size=SIZES)
def test_seconds_by_who_and_what_are_the_truth(seed: int, size: int):
    """The sums that a report shows, wherever nothing had to be left unexplained."""
    program, log = run(seed, size, PLAIN)
    judged = judge(program, log)
    charged = Counter()
    for charge in judged.charges:
        charged[charge.chain[-1], charge.kind] += charge.end_ns - charge.start_ns
    if judged.basis == "requests" and not differences(judged):
        assert truth.shares(program, log) == charged


@_all(SEEN | HIDDEN)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=SEEDS, size=SIZES)
def test_the_order_of_rows_does_not_matter(nature: Nature, seed: int, size: int):
    """The same rows in another order give the same tree and the same charges."""
    program, log = run(seed, size, nature)
    capture = emit.capture(program, log)
    before, after = judge(program, log, capture), judge(program, log, _shuffled(capture, seed))
    assert _tree(before) == _tree(after)
    assert Counter(before.charges) == Counter(after.charges)


def _shuffled(capture: Capture, seed: int) -> Capture:
    rng = np.random.default_rng(seed)
    return replace(capture, tables={name: frame[rng.permutation(len(frame))] for name, frame in capture.tables.items()})


def _tree(judged):
    """The nodes with their paths, in the tree's own order."""
    nodes = judged.blame.nodes
    named = [(int(node.kind), node.who, node.on) for node in nodes]
    return [
        ([named[step] for step in judged.blame.path(n)], nodes[n].ns, nodes[n].count) for n in judged.blame.subtree(0)
    ]


@often
@given(seed=SEEDS, size=SIZES)
def test_seeing_less_only_moves_time_to_unexplained(seed: int, size: int):
    """The same run with every peer watched from the middle of the window on: no thread is charged more than before."""
    program, log = run(seed, size, PLAIN)
    half = sum(program.window) // 2
    less = replace(
        program,
        journal_watched_ns=half,
        processes=tuple(p if p.pid == program.target_pid else replace(p, watched_ns=half) for p in program.processes),
    )
    wrong = [difference for difference in differences(judge(less, log)) if difference.is_wrong]
    assert not wrong


@_all(SEEN)
@often
@given(seed=SEEDS, size=SIZES)
def test_a_request_that_was_not_read_yet_waits_for_what_its_reader_does(nature: Nature, seed: int, size: int):
    """From its arrival on a probe's request stands with the thread that will read it, and with whom that waits for."""
    program, log = run(seed, size, nature)
    judged = judge(program, log, probed=True)
    found = differences(judged)
    assert not [difference for difference in found if difference.is_wrong]
    assert not [d for d in found if d.charge is not None and not may_stop(d, judged)]
    end_ns = program.window[1]
    read = {r.server_tid for r in truth.probed(program, log) if r.read_ns is not None and r.read_ns < end_ns}
    assert read <= {charge.chain[0] for charge in judged.charges}
