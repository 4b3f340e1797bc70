"""Waits for locks of files, on scenes whose times are chosen by hand: who is named, and when nobody is."""

from __future__ import annotations

import pytest
from scene import APP, MS, US, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Node, Verdict

DISK, INO, OTHER_INO = 5, 60, 61
HOLDER = 800
FLOCK, FCNTL, CLOSE, CLOCK_NANOSLEEP, WRITE = 73, 72, 3, 230, 1
REFUSED = -11
NAP_NS = 100 * MS


def nodes(node: Node, kind: str) -> list[Node]:
    """Every node of a kind."""
    own = [node] if node.kind == kind else []
    return own + [deeper for child in node.children for deeper in nodes(child, kind)]


def contention(verdict: Verdict) -> Cause | None:
    """The cause, if it is there."""
    return next((one for one in verdict.causes if one.id == "lock.contention"), None)


def held(scene: Scene, *, by: int | None, exclusive: bool = True, ino: int = INO) -> None:
    """The kernel's list of locks, read now."""
    scene.add(schema.FILE_LOCKS, ts_ns=scene.now, pid=by, dev=DISK, ino=ino, exclusive=exclusive, waits=False)


def finished(scene: Scene, *, watched: bool = True) -> Capture:
    """The capture, with the names of the holder and the file."""
    scene.answer()
    watched_ns = scene.start if watched else None
    scene.add(schema.TASKS, tid=HOLDER, pid=HOLDER, comm="nightly", kernel=False, watched_ns=watched_ns)
    scene.add(schema.PROCESSES, pid=HOLDER, comm="nightly")
    scene.add(schema.FILES, dev=DISK, ino=INO, path="/data/till.lck")
    return scene.capture()


def waiting(*, act: int = FLOCK, act_ino: int = INO, listed: bool = False, ended: bool = False) -> Capture:
    """A request that waits five times for 100 ms in flock(2), while another process sleeps and then makes a call."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for _ in range(5):
        start, wake = scene.now, scene.now + NAP_NS
        if listed:
            held(scene, by=HOLDER)
        scene.call(APP, FLOCK, start, wake + 3 * US, ino=INO, kind="reg", dev=DISK, ret=0)
        scene.sleep(APP, start + US, wake, wake + US, waker=HOLDER)
        scene.call(HOLDER, CLOCK_NANOSLEEP, start - 10 * US, wake - 20 * US, ino=0, kind="reg", ret=0)
        scene.sleep(HOLDER, start - 9 * US, wake - 22 * US, wake - 21 * US)
        scene.call(HOLDER, act, wake - 5 * US, wake + 2 * US, ino=act_ino, kind="reg", dev=DISK, ret=0)
        scene.now = wake + 50 * US
    return finished(scene)


@pytest.mark.parametrize("act", [FLOCK, FCNTL, CLOSE])
def test_a_wait_for_the_lock_of_a_file_is_spent_on_what_its_holder_does(act: int) -> None:
    """It let the lock go in a call on that very file."""
    verdict = judge(waiting(act=act))
    (lock,) = nodes(verdict.blame, "lock")
    assert "waiting for lock /data/till.lck, held by nightly[800]" == lock.label
    assert 0.5 == pytest.approx(lock.seconds, abs=0.001)
    assert 0.5 == pytest.approx(sum(node.seconds for node in nodes(lock, "sleep")), abs=0.001)
    cause = contention(verdict)
    assert cause is not None
    assert cause.who is not None
    assert cause.on is not None
    assert (HOLDER, "/data/till.lck", "of a file") == (cause.who.pid, cause.on.path, cause.on.lock)
    assert "It holds the lock of a file that is waited for" == cause.title
    assert ["lock.contention"] == [one.id for one in verdict.causes if one.level != "note"]


@pytest.mark.parametrize(("act", "ino"), [(WRITE, INO), (FLOCK, OTHER_INO)], ids=["in a write", "on another file"])
def test_a_waker_that_cannot_have_let_the_lock_go_is_not_named(act: int, ino: int) -> None:
    """The lock is named, its holder is not."""
    verdict = judge(waiting(act=act, act_ino=ino))
    (lock,) = nodes(verdict.blame, "lock")
    assert "waiting for lock /data/till.lck (holder unknown)" == lock.label
    cause = contention(verdict)
    assert cause is not None
    assert cause.who is not None
    assert APP == cause.who.pid


def test_a_holder_that_lets_nobody_in_is_told_by_the_kernels_list() -> None:
    """The wait goes on to the end of the window: nobody ends it."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    start = scene.now
    held(scene, by=HOLDER)
    scene.call(HOLDER, CLOCK_NANOSLEEP, start - 10 * US, start + 490 * MS, ino=0, kind="reg", ret=0)
    scene.sleep(HOLDER, start - 9 * US, start + 480 * MS, start + 480 * MS)
    scene.now += 480 * MS
    scene.call(APP, FLOCK, start, scene.now + 4 * US, ino=INO, kind="reg", dev=DISK, ret=0)
    scene.sleep(APP, start + US, scene.now + 2 * US, scene.now + 3 * US)
    scene.now += 10 * US
    verdict = judge(finished(scene))
    (lock,) = nodes(verdict.blame, "lock")
    assert "waiting for lock /data/till.lck, held by nightly[800]" == lock.label
    assert 0.48 == pytest.approx(sum(node.seconds for node in nodes(lock, "sleep")), abs=0.001)


def trying(*, ret: int = REFUSED, files: int = 1, listed: bool = True) -> Capture:
    """A request that tries for a lock, sleeps 20 ms, and tries again, 25 times, as SQLite does it."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    scene.call(APP, FCNTL, scene.now, scene.now + US, ino=INO, kind="reg", dev=DISK, ret=ret)
    if listed:
        held(scene, by=HOLDER, exclusive=False)
        held(scene, by=HOLDER)
    for number in range(1, 26):
        scene.now += 5 * US
        scene.nap(20 * MS)
        scene.call(APP, FCNTL, scene.now, scene.now + US, ino=INO + number % files, kind="reg", dev=DISK, ret=ret)
    scene.now += 5 * US
    return finished(scene, watched=False)


def test_sleeps_between_refused_tries_are_a_wait_for_the_lock() -> None:
    """Its holder was not watched, but stands in the kernel's list."""
    verdict = judge(trying())
    (lock,) = nodes(verdict.blame, "lock")
    assert "waiting for lock /data/till.lck, held by nightly[800]" == lock.label
    assert 0.5 == pytest.approx(lock.seconds, abs=0.003)
    cause = contention(verdict)
    assert cause is not None
    assert cause.who is not None
    assert cause.on is not None
    assert (HOLDER, "/data/till.lck") == (cause.who.pid, cause.on.path)


def test_without_the_list_the_file_is_named() -> None:
    """Nobody is accused."""
    verdict = judge(trying(listed=False))
    cause = contention(verdict)
    assert cause is not None
    assert cause.who is not None
    assert cause.on is not None
    assert (APP, "/data/till.lck") == (cause.who.pid, cause.on.path)


@pytest.mark.parametrize(("ret", "files"), [(0, 1), (REFUSED, 2)], ids=["not refused", "another file each time"])
def test_other_sleeps_stay_sleeps(ret: int, files: int) -> None:
    """The lock was had, or is not tried for again."""
    verdict = judge(trying(ret=ret, files=files))
    assert 0.5 == pytest.approx(sum(node.seconds for node in nodes(verdict.blame, "sleep")), abs=0.003)
    assert contention(verdict) is None
