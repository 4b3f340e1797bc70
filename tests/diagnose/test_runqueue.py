"""Who had the CPU while a request waited for one: the host's other programs, its own threads, or culpa itself."""

from __future__ import annotations

import pytest
from scene import APP, MS, Scene

from culpa.capture import schema
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Verdict

NEIGHBOUR, CULPA, OWN = 800, 900, APP
REQUESTS = 20


class Crowded(Scene):
    """A service that now and then has to wait for a CPU."""

    def waits_behind(self, tid: int, ns: int) -> None:
        """It lost its CPU, and got the one on which that thread ran before."""
        self.add(
            schema.OFFCPU, off_ns=self.now, wake_ns=None, on_ns=self.now + ns, tid=APP, pid=APP, state=0, cpu=0,
            prev_tid=tid,
        )  # fmt: skip
        self.now += ns

    def judged(self) -> Verdict:
        """With the other programs known by name."""
        for pid, role in ((NEIGHBOUR, "waker"), (CULPA, "culpa")):
            self.add(schema.PROCESSES, pid=pid, comm=f"program-{pid}", cmdline="", role=role)
        return judge(self.capture())


def _request(scene: Crowded, *waits: tuple[int, int]) -> None:
    scene.now += 2 * MS
    scene.request_arrives()
    scene.compute(2 * MS)
    for tid, ns in waits:
        scene.waits_behind(tid, ns)
        scene.compute(MS // 10)
    scene.answer()


def _told(verdict: Verdict) -> dict[int | None, str]:
    """Level by the process named."""
    return {one.who and one.who.pid: one.level for one in verdict.causes if one.id == "cpu.runqueue"}


def test_a_neighbour_that_takes_the_cpu_from_each_request_is_named() -> None:
    """The look-alike of all that follows."""
    scene = Crowded()
    for _ in range(REQUESTS):
        _request(scene, (NEIGHBOUR, 4 * MS))

    assert _told(scene.judged()) == {NEIGHBOUR: "critical"}


def test_waits_behind_culpa_are_nobodys_fault() -> None:
    """They were not there before it looked, and they do not make a small wait behind somebody else a large one."""
    scene = Crowded()
    for number in range(REQUESTS):
        _request(scene, (CULPA, 4 * MS), *([(NEIGHBOUR, MS)] if number < 2 else []))

    assert _told(scene.judged()) == {}


def test_its_own_threads_and_a_neighbour_are_told_apart() -> None:
    """Either took a part: one cause each, and only the neighbour's is above a note."""
    scene = Crowded()
    for _ in range(REQUESTS):
        _request(scene, (OWN, 6 * MS), (NEIGHBOUR, 4 * MS))

    assert _told(scene.judged()) == {NEIGHBOUR: "warning", OWN: "note"}


@pytest.mark.parametrize(("ns", "requests", "level"), [(60, 1, "note"), (60, 2, "warning"), (150, 1, "critical")])
def test_one_wait_of_one_request_is_chance_unless_it_was_long(ns: int, requests: int, level: str) -> None:
    """Any host keeps a program waiting now and then; a tenth of a second is noticed even once."""
    scene = Crowded()
    for number in range(REQUESTS):
        _request(scene, *([(NEIGHBOUR, ns * MS)] if number < requests else []))

    assert _told(scene.judged()) == {NEIGHBOUR: level}
