"""Thousands of threads that hand one lock on: each waits for the one before it, which waits for the one before that."""

from __future__ import annotations

import pytest
from scene import APP, MS, US, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose import blame
from culpa.diagnose.judge import judge
from culpa.diagnose.picture import draw
from culpa.model import requests

FIRST, LOCK = 5_000, 0x55D0_0000_1000
FUTEX, WAIT, WAKE = 202, 0x80 | 0, 0x80 | 1
HELD_NS = 100 * US


def convoy(threads: int) -> Capture:
    """They have waited for the lock since long ago; each gets it, works, and hands it to the next."""
    scene = Scene()
    begin = scene.now + 2 * MS
    for number in range(threads):
        tid, woken = FIRST + number, begin + number * HELD_NS
        scene.add(schema.TASKS, tid=tid, pid=APP, comm="service", kernel=False, watched_ns=scene.start)
        calls = [(scene.start + MS, woken + 3 * US, WAIT)] if number else []
        calls.append((woken + HELD_NS - 2 * US, woken + HELD_NS + US, WAKE))
        for enter, leave, what in calls:
            scene.add(schema.SYSCALLS, enter_ns=enter, exit_ns=leave, tid=tid, pid=APP, nr=FUTEX,
                      ret=int(what == WAKE), arg0=LOCK, arg1=what, arg2=1)  # fmt: skip
        if number:
            scene.add(schema.OFFCPU, off_ns=scene.start + MS + US, wake_ns=woken, on_ns=woken + US, tid=tid,
                      pid=APP, state=1, cpu=0, waker_tid=tid - 1, waker_pid=APP)  # fmt: skip
    scene.now = begin + threads * HELD_NS + MS
    return scene.capture(kind="pid")


def gave_up_ns(tree: blame.Blame) -> int:
    """Time that was not followed because there was too much to follow."""
    return sum(node.ns for node in tree.nodes if node.on == blame.ONE_OF_MANY)


@pytest.mark.parametrize(("threads", "whole"), [(10, True), (6_000, False)])
def test_a_convoy_is_a_lock_and_its_tree_stays_small(threads: int, whole: bool) -> None:
    """No time is lost, the lock is named, and what was not followed is said where there is too much of it."""
    capture = convoy(threads)
    tree = draw(capture, requests.find(capture)).blame
    leaves = tree.coverage.leaf
    assert tree.nodes[blame.ROOT].ns == (tree.coverage.end_ns - tree.coverage.start_ns)[leaves].sum()
    assert whole == (0 == gave_up_ns(tree))
    # Each node that is not followed gets a leaf that says so.
    assert len(tree.nodes) < 3 * blame.MOST_NODES
    cause = judge(capture).causes[0]
    assert cause.on is not None
    assert ("lock.contention", f"0x{LOCK:x}") == (cause.id, cause.on.lock)
