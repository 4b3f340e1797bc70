"""Timers of an event loop that run out while a request waits for another thread, on scenes whose times are chosen by
hand.
"""

from __future__ import annotations

import pytest
from scene import APP, EPOLL, MS, US, WRITE, Scene

from culpa.capture import schema
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Node, Verdict

WORKER, EVENTFD, STATISTICS = 800, 97, 96
POLLED = 99


def seconds(node: Node, kind: str) -> float:
    """The time of the uppermost nodes of a kind."""
    return node.seconds if node.kind == kind else sum(seconds(child, kind) for child in node.children)


def wait(scene: Scene, ns: int, *, ret: int, waker: int | None = None) -> None:
    """The loop waits on many files."""
    scene.call(APP, EPOLL, scene.now, scene.now + ns + 2 * US, ino=POLLED, kind="anon", ret=ret)
    scene.sleep(APP, scene.now + US, scene.now + ns, scene.now + ns + US, waker=waker)
    scene.now += ns + 3 * US


def served(*, reports: bool = False, by_worker: bool = True) -> Verdict:
    """Five requests of 300 ms: two timers run out, each followed by a look that waits for nothing; then a worker that
    computed all the while writes to an eventfd, or a third timer runs out. `reports`: the second timer sends something.
    """
    scene = Scene()
    scene.now += 2 * MS
    for _ in range(5):
        scene.request_arrives()
        begun = scene.now
        for number in range(2):
            wait(scene, 100 * MS, ret=0)
            if reports and number:
                scene.call(APP, WRITE, scene.now, scene.now + US, ino=STATISTICS, kind="fifo", ret=40)
            scene.call(APP, EPOLL, scene.now + 2 * US, scene.now + 3 * US, ino=POLLED, kind="anon", ret=0)
            scene.now += 5 * US
        if by_worker:
            scene.sleep(WORKER, begun - US, begun, begun + US)
            done = scene.now + 100 * MS
            scene.add(schema.SYSCALLS, enter_ns=done - US, exit_ns=done + US, tid=WORKER, pid=APP, nr=WRITE, ret=8,
                      arg0=5, arg1=0, arg2=8, dev=8, ino=EVENTFD, file_type="anon")  # fmt: skip
        wait(scene, 100 * MS, ret=1 if by_worker else 0, waker=WORKER if by_worker else None)
        scene.answer()
    scene.sleep(WORKER, scene.now, scene.now + MS, scene.now + MS)
    scene.add(schema.TASKS, tid=WORKER, pid=APP, comm="worker", kernel=False, watched_ns=scene.start)
    return judge(scene.capture())


def test_timers_that_change_nothing_do_not_end_a_wait() -> None:
    """The request waits for the worker, whatever wakes its loop meanwhile."""
    verdict = served()
    assert 1.5 == pytest.approx(seconds(verdict.blame, "peer"), abs=0.001)
    assert 0 == seconds(verdict.blame, "sleep")
    assert [] == [cause.id for cause in verdict.causes if cause.id == "sleep.by-choice"]


def test_a_timer_after_which_it_goes_on_with_its_work_was_a_sleep() -> None:
    """Two tenths of a second of each request pass before it sends something."""
    verdict = served(reports=True)
    assert 1.0 == pytest.approx(seconds(verdict.blame, "sleep"), abs=0.001)
    assert 0.5 == pytest.approx(seconds(verdict.blame, "peer"), abs=0.001)


def test_a_loop_that_looks_again_and_again_sleeps() -> None:
    """Its last timer is followed by the answer."""
    verdict = served(by_worker=False)
    assert 1.5 == pytest.approx(seconds(verdict.blame, "sleep"), abs=0.001)
    assert ["sleep.by-choice"] == [cause.id for cause in verdict.causes if cause.level != "note"]


FUTEX, WAIT_BITSET, WORD = 202, 137, 0x7000
ETIMEDOUT = -110


def handed_on(*, by_timer: bool, nr: int) -> Verdict:
    """Five requests wait 300 ms for a thread that reads no requests: it rests for 290 ms, in one call, and hands over.

    by_timer: its rest was ended by a timer; else something came for it. nr: of the call that it rested in.
    """
    scene = Scene()
    scene.now += 2 * MS
    over = {EPOLL: 0, FUTEX: ETIMEDOUT}[nr] if by_timer else {EPOLL: 1, FUTEX: 0}[nr]
    for _ in range(5):
        scene.request_arrives()
        begun, done = scene.now, scene.now + 300 * MS
        scene.sleep(WORKER, begun - US, begun + 290 * MS, begun + 290 * MS + US)
        rest = {"enter_ns": begun - 2 * US, "exit_ns": begun + 290 * MS + 2 * US, "ret": over}
        scene.add(schema.SYSCALLS, tid=WORKER, pid=APP, nr=nr, arg0=WORD, arg1=WAIT_BITSET, arg2=0, **rest)
        scene.add(schema.SYSCALLS, enter_ns=done - US, exit_ns=done + US, tid=WORKER, pid=APP, nr=WRITE, ret=8,
                  arg0=5, arg1=0, arg2=8, dev=8, ino=EVENTFD, file_type="anon")  # fmt: skip
        wait(scene, 300 * MS, ret=1, waker=WORKER)
        scene.answer()
    scene.sleep(WORKER, scene.now, scene.now + MS, scene.now + MS)
    scene.add(schema.TASKS, tid=WORKER, pid=APP, comm="worker", kernel=False, watched_ns=scene.start)
    return judge(scene.capture())


@pytest.mark.parametrize("nr", [EPOLL, FUTEX])
def test_who_is_waited_for_and_rests_until_a_timer_ends_it_sleeps(nr: int) -> None:
    """As a thread does that holds a lock, or looks for work now and then."""
    verdict = handed_on(by_timer=True, nr=nr)
    assert 1.45 == pytest.approx(seconds(verdict.blame, "sleep"), abs=0.001)
    assert ["sleep.by-choice"] == [cause.id for cause in verdict.causes if cause.level != "note"]


@pytest.mark.parametrize("nr", [EPOLL, FUTEX])
def test_who_is_waited_for_and_rests_until_something_comes_does_not_sleep(nr: int) -> None:
    """What came, nobody saw."""
    verdict = handed_on(by_timer=False, nr=nr)
    assert 1.45 == pytest.approx(seconds(verdict.blame, "unexplained"), abs=0.001)
    assert [] == [cause.id for cause in verdict.causes if cause.level != "note"]


WAKE, RESULT = 129, 0x9000


def test_a_rest_after_which_something_is_handed_over_is_no_part_of_the_next_wait() -> None:
    """A worker rests for 290 ms, hands its result over, and waits on the same condition for the next request, which
    wakes it: what it rested, it did not wait for that one.
    """
    scene = Scene()
    scene.now += 2 * MS
    idle_since = scene.now
    for _ in range(5):
        scene.request_arrives()
        begun, rested = scene.now, scene.now + 290 * MS
        futex = {"nr": FUTEX, "pid": APP, "arg2": 0}
        scene.add(
            schema.SYSCALLS, tid=APP, enter_ns=begun, exit_ns=begun + 4 * US, ret=1, arg0=WORD, arg1=WAKE, **futex
        )
        scene.sleep(WORKER, idle_since, begun + 2 * US, begun + 6 * US, waker=APP)
        scene.add(schema.SYSCALLS, tid=WORKER, enter_ns=idle_since - US, exit_ns=begun + 8 * US, ret=0, arg0=WORD,
                  arg1=WAIT_BITSET, **futex)  # fmt: skip
        scene.sleep(WORKER, begun + 10 * US, rested, rested + US)
        scene.add(schema.SYSCALLS, tid=WORKER, enter_ns=begun + 9 * US, exit_ns=rested + 2 * US, ret=ETIMEDOUT,
                  arg0=WORD + 4, arg1=WAIT_BITSET, **futex)  # fmt: skip
        scene.add(schema.SYSCALLS, tid=WORKER, enter_ns=rested + 3 * US, exit_ns=rested + 7 * US, ret=1, arg0=RESULT,
                  arg1=WAKE, **futex)  # fmt: skip
        scene.add(schema.SYSCALLS, tid=APP, enter_ns=begun + 5 * US, exit_ns=rested + 9 * US, ret=0, arg0=RESULT,
                  arg1=WAIT_BITSET, **futex)  # fmt: skip
        scene.sleep(APP, begun + 6 * US, rested + 5 * US, rested + 8 * US, waker=WORKER)
        idle_since = rested + 10 * US
        scene.now = rested + 12 * US
        scene.answer()
    scene.sleep(WORKER, idle_since, scene.now + MS, scene.now + MS)
    scene.add(schema.TASKS, tid=WORKER, pid=APP, comm="worker", kernel=False, watched_ns=scene.start)
    verdict = judge(scene.capture())
    assert 1.45 == pytest.approx(seconds(verdict.blame, "sleep"), abs=0.001)
    assert ["sleep.by-choice"] == [cause.id for cause in verdict.causes if cause.level != "note"]
