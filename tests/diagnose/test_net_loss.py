"""Segments that were sent again, and the waits that they cost or not, on scenes whose times are chosen by hand."""

from __future__ import annotations

import pytest
from scene import APP, MS, SENDTO, US, Scene

from culpa.capture import schema
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Verdict

CONNECT, POLL, GETSOCKOPT, EINPROGRESS = 42, 7, 55, -115
FAR, OTHER = 13, 14
"""Sockets to another host: the one that `Scene.remote` asks on, and one that nobody waits on."""
TIMER = 200 * MS


def told(verdict: Verdict) -> dict[str, float]:
    """Shares of the heads above a note."""
    return {one.id: round(one.share, 2) for one in verdict.causes if one.level != "note"}


def begun() -> Scene:
    """A request has just been read."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    return scene


def sent_again(scene: Scene, at: int, timeout: int | None = TIMER, *, ino: int = FAR, **more: object) -> None:
    """The kernel sends a segment once more."""
    row = {"by_timer": True, "round_trip_ns": MS, "connecting": False} | more
    scene.add(schema.RETRANSMITS, ts_ns=at, ino=ino, timeout_ns=timeout, **row)


def asked(*again_after_ms: int, lasts_ms: int, **more: object) -> Verdict:
    """A question to another host, parts of which are sent again so long after it."""
    scene = begun()
    at, timeout = scene.now, TIMER
    for after_ms in again_after_ms:
        sent_again(scene, at + after_ms * MS, timeout, **more)
        timeout *= 2
    if not again_after_ms:
        sent_again(scene, 1, ino=OTHER)
    scene.remote(lasts_ms * MS)
    scene.answer()
    return judge(scene.capture())


def test_a_question_that_is_lost_twice_costs_what_the_timers_ran() -> None:
    """200 and 400 ms; the answer comes 10 ms after the third copy."""
    verdict = asked(200, 600, lasts_ms=610)
    (found,) = (one for one in verdict.causes if one.id == "net.loss")

    assert ["net.loss"] == list(told(verdict))
    assert found.share == pytest.approx(600 / 610, abs=0.01)
    assert found.who is not None
    assert found.on is not None
    assert (APP, "192.0.2.9:443") == (found.who.pid, found.on.peer)
    assert {"segments sent again, after a timer ran out": 2} == {
        fact.fact: fact.value for fact in found.evidence if "segments" in fact.fact
    }


def test_a_slow_host_behind_a_lossy_way_is_two_causes() -> None:
    """200 ms of timer, and 300 ms more until the answer."""
    assert {"net.remote-slow": 0.6, "net.loss": 0.4} == told(asked(200, lasts_ms=500))


@pytest.mark.parametrize(
    "more",
    [
        {"ino": OTHER},
        {"by_timer": False},
        {"round_trip_ns": 400 * MS},
    ],
    ids=["another socket's", "told by later acknowledgements", "the answer was on its way"],
)
def test_what_delays_nobody_leaves_the_wait_to_the_other_host(more: dict[str, object]) -> None:
    """As without it."""
    assert {"net.remote-slow": 1.0} == told(asked(200, lasts_ms=500, **more)) == told(asked(lasts_ms=500))


def test_what_is_sent_again_while_the_program_computes_costs_nothing() -> None:
    """The question is written, its copy goes out, the answer lies there: then only it is read."""
    scene = begun()
    sent_again(scene, scene.now + 100 * MS)
    scene.compute(300 * MS)
    scene.remote(MS)
    scene.answer()

    assert "net.loss" not in told(judge(scene.capture()))


def test_of_a_timer_that_ran_in_part_within_the_wait_only_that_part_counts() -> None:
    """The kernel's timer of 2 s began long before the question was asked; 200 ms of it lie in the wait."""
    scene = begun()
    sent_again(scene, scene.now + 200 * MS, 2000 * MS)
    scene.remote(400 * MS)
    scene.answer()

    assert {"net.remote-slow": 0.5, "net.loss": 0.5} == told(judge(scene.capture()))


@pytest.mark.parametrize("waits_itself", [True, False])
def test_a_connection_that_is_asked_for_again_is_lost_on_the_way(waits_itself: bool) -> None:
    """After one second, whichever way the program waits for it."""
    scene = begun()
    sent_again(scene, scene.now + 1000 * MS, 1000 * MS, connecting=True, round_trip_ns=None)
    ends = scene.now + 1005 * MS
    if waits_itself:
        scene.call(APP, CONNECT, scene.now, ends, ino=FAR, ret=0)
    else:
        scene.call(APP, CONNECT, scene.now, scene.now + US, ino=FAR, ret=EINPROGRESS)
        scene.call(APP, POLL, scene.now + 2 * US, ends, ino=0, kind="", ret=1)
    scene.sleep(APP, scene.now + 3 * US, ends - 2 * US, ends - US)
    scene.call(APP, GETSOCKOPT, ends, ends + US, ino=FAR, ret=0)
    scene.now = ends + 2 * US
    scene.call(APP, SENDTO, scene.now, scene.now + US, ino=FAR)
    scene.answer()
    verdict = judge(scene.capture())

    assert {"net.loss": 1.0} == told(verdict)
    assert "192.0.2.9:443" in str(verdict.causes[0].on)


def test_what_many_threads_of_a_service_lost_is_one_cause() -> None:
    """Twenty requests, each lost once and each answered by a thread of its own."""
    scene = Scene()
    for number in range(20):
        scene.now += 2 * MS
        scene.request_arrives()
        sent_again(scene, scene.now + 200 * MS)
        scene.remote(205 * MS)
        scene.answer()
        _renamed(scene, APP + 1 + number)
    verdict = judge(scene.capture())

    assert {"net.loss": 0.97} == pytest.approx(told(verdict), abs=0.02)
    assert 20 == next(fact.value for fact in verdict.causes[0].evidence if "segments" in fact.fact)


def _renamed(scene: Scene, tid: int) -> None:
    """What the service did since the last time was done by this thread of it."""
    for table in (schema.SYSCALLS, schema.MESSAGES, schema.OFFCPU):
        tids = scene.rows[table.name]["tid"]
        scene.rows[table.name]["tid"] = [tid if one == APP else one for one in tids]
    scene.add(schema.TASKS, tid=tid, pid=APP, comm="service", kernel=False, watched_ns=scene.start)
