"""Waits for locks that the kernel holds for others, on scenes whose times are chosen by hand: who is named."""

from __future__ import annotations

import pytest
from scene import APP, JOURNAL, MS, US, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Node, Verdict

DISK, INO = 5, 60
HOLDER = 800
WAITS_FOR_LOCK, SLEEPS = 4, 5
WRITE, KILL, CLOCK_NANOSLEEP = 1, 62, 230
NAP_NS = 100 * MS


def nodes(node: Node, kind: str) -> list[Node]:
    """Every node of a kind."""
    own = [node] if node.kind == kind else []
    return own + [deeper for child in node.children for deeper in nodes(child, kind)]


def contention(verdict: Verdict) -> Cause | None:
    """The cause, if it is there, a head or part of one."""
    every = [one for head in verdict.causes for one in (head, *head.because)]
    return next((one for one in every if one.id == "lock.contention"), None)


def held(*, waker: int | None = HOLDER, watched: bool = True, act: int = WRITE, kernel: bool = False) -> Capture:
    """A request that writes five times to a file and waits 100 ms each for its lock, which another process holds while
    it sleeps in its own write for as long. A read of that file by the holder ends just before it lets go.
    """
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for _ in range(5):
        start, wake = scene.now, scene.now + NAP_NS
        scene.add(schema.BLOCKS, queued_ns=start, issue_ns=start, complete_ns=wake - 5 * US, dev=DISK, sector=8,
                  bytes=4096, op="read", tid=HOLDER, pid=HOLDER, ino_dev=DISK, ino=INO)  # fmt: skip
        scene.call(APP, WRITE, start, wake + 3 * US, ino=INO, kind="reg", dev=DISK)
        scene.sleep(APP, start + US, wake, wake + US, state=2, stack=WAITS_FOR_LOCK, waker=waker)
        if watched:
            scene.call(HOLDER, act, start - 10 * US, wake + 2 * US, ino=INO, kind="reg", dev=DISK)
            scene.sleep(HOLDER, start - 5 * US, wake - 4 * US, wake - 3 * US, state=2, stack=SLEEPS)
        scene.now = wake + 50 * US
    scene.answer()
    scene.add(schema.TASKS, tid=HOLDER, pid=HOLDER, comm="importer", kernel=kernel,
              watched_ns=scene.start if watched else None)  # fmt: skip
    scene.add(schema.PROCESSES, pid=HOLDER, comm="importer")
    scene.add(schema.FILES, dev=DISK, ino=INO, path="/data/atlas")
    lock = ["schedule_preempt_disabled", "rwsem_down_write_slowpath", "down_write", "ext4_buffered_write_iter"]
    pause = ["schedule_timeout", "balance_dirty_pages", "generic_perform_write"]
    scene.add(schema.STACKS, stack_id=WAITS_FOR_LOCK, frames=lock)
    scene.add(schema.STACKS, stack_id=SLEEPS, frames=pause)
    return scene.capture()


def test_a_wait_for_the_lock_of_a_file_is_spent_on_what_its_holder_does() -> None:
    """The device's request that ended at that moment was the holder's; the waiter is in the call on its file."""
    verdict = judge(held())
    (call,) = [node for node in nodes(verdict.blame, "io") if node.who is not None and node.who.pid == APP]
    (lock,) = nodes(call, "lock")
    assert "waiting for lock i_rwsem of a file or directory, held by importer[800]" == lock.label
    assert 0.5 == pytest.approx(lock.seconds, abs=0.001)
    assert 0.5 == pytest.approx(sum(node.seconds for node in nodes(lock, "throttle")), abs=0.001)
    cause = contention(verdict)
    assert cause is not None
    assert cause.who is not None
    assert cause.on is not None
    assert (HOLDER, "i_rwsem of a file or directory") == (cause.who.pid, cause.on.lock)


def test_a_holder_that_was_not_watched_is_named_all_the_same() -> None:
    """What it did meanwhile is not known."""
    verdict = judge(held(watched=False))
    (lock,) = nodes(verdict.blame, "lock")
    assert ("waiting for lock i_rwsem of a file or directory, held by importer[800]", ()) == (lock.label, lock.children)
    cause = contention(verdict)
    assert cause is not None
    assert cause.who is not None
    assert HOLDER == cause.who.pid


@pytest.mark.parametrize(
    ("waker", "act"), [(None, WRITE), (0, WRITE), (HOLDER, KILL)], ids=["no waker", "the idle task", "a signal"]
)
def test_whoever_did_not_let_it_go_is_not_named(waker: int | None, act: int) -> None:
    """The wait is there, and its holder is not known; nor is it the device that is blamed."""
    verdict = judge(held(waker=waker, act=act))
    (lock,) = nodes(verdict.blame, "lock")
    assert "waiting for lock i_rwsem of a file or directory (holder unknown)" == lock.label
    assert contention(verdict) is None
    assert not nodes(verdict.blame, "device")


def test_a_thread_of_the_kernel_that_holds_a_lock_is_no_cause() -> None:
    """The wait leads to what it does."""
    verdict = judge(held(kernel=True))
    assert [HOLDER] == [node.who.pid for node in nodes(verdict.blame, "lock") if node.who is not None]
    assert contention(verdict) is None


def test_the_journal_is_not_a_lock() -> None:
    """Its own waits are what they were."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    scene.redis("SET", sync_ns=50 * MS)
    scene.answer()
    verdict = judge(scene.capture())
    assert nodes(verdict.blame, "journal")
    assert JOURNAL in [node.who.pid for node in nodes(verdict.blame, "journal") if node.who is not None]
    assert not nodes(verdict.blame, "lock")
