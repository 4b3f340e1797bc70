"""What a request would take without a cause, on scenes whose times are chosen by hand: calls that go with it, and what
stays.
"""

from __future__ import annotations

import pytest
from scene import APP, MS, US, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Predicted

CHILD = 800
STACK = 4
FSYNC, WAIT4 = 74, 61
ROUNDS, SYNC_NS, WORK_NS = 20, 30 * MS, 10 * MS


def synced(*, by_child: bool) -> Capture:
    """A request that has a file synced again and again, by itself or by a child; each time 10 ms are computed: in the
    call itself after the wait, or by the child before it syncs.
    """
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for number in range(ROUNDS):
        start, who = scene.now, CHILD + number if by_child else APP
        begin = start + (WORK_NS if by_child else 0)
        wake, over = begin + SYNC_NS, begin + SYNC_NS + (3 * US if by_child else WORK_NS)
        scene.call(who, FSYNC, begin, over, ino=60, kind="reg")
        scene.sleep(who, begin + US, wake, wake + US, state=2, stack=STACK)
        if by_child:
            scene.call(APP, WAIT4, start, over + 5 * US, ino=0, kind="anon", ret=who)
            scene.sleep(APP, start + US, over + 2 * US, over + 3 * US, waker=who)
            scene.add(schema.TASKS, tid=who, pid=who, comm="importer", watched_ns=start, exit_ns=over + 2 * US)
        scene.now = over + 10 * US
    scene.answer()
    scene.add(schema.FILES, dev=8, ino=60, path="/data/atlas")
    scene.add(schema.STACKS, stack_id=STACK, frames=["jbd2_log_wait_commit", "ext4_sync_file", "vfs_fsync_range"])
    return scene.capture()


def predicted(capture: Capture) -> Predicted:
    """Without the syncs."""
    (cause,) = [one for one in judge(capture).causes if one.id == "disk.fsync-heavy"]
    assert cause.predicted is not None
    return cause.predicted


def test_a_call_goes_with_what_it_mostly_waits_for() -> None:
    """Nobody computes in a sync that is not made."""
    assert predicted(synced(by_child=False)).high == pytest.approx(0.0, abs=0.003)


def test_what_others_compute_meanwhile_stays() -> None:
    """The parent's wait is mostly the sync of its child, and the child does its work before that all the same."""
    found = predicted(synced(by_child=True))
    assert found.high == pytest.approx(ROUNDS * WORK_NS / 1e9, rel=0.02)
    assert found.low >= found.high / 2.1
