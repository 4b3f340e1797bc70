"""Waits for memory, on scenes whose times are chosen by hand: swap, the group's limit and the host told apart."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from memory_scene import (
    AT_LIMIT,
    GROUP,
    HOG,
    PAUSED,
    SHORT,
    STACKS,
    SWAP_DEV,
    SWAPPED,
    WAIT_NS,
    WAITS,
    limited,
    named,
    nodes,
    only,
    waited,
)
from scene import APP, MS, REDIS, US, Scene

from culpa.capture import schema
from culpa.capture.redact import redact
from culpa.diagnose.judge import judge
from culpa.diagnose.picture import draw
from culpa.diagnose.rule import Fired
from culpa.diagnose.rules.redis_swap import swapped
from culpa.model import requests


def test_waits_for_pages_in_swap_name_who_waits_the_device_and_who_holds_the_memory() -> None:
    """The slow device is only another view of the same waits."""
    verdict = judge(waited(SWAPPED))
    assert ["mem.swap"] == named(verdict)
    cause = only(verdict, "mem.swap")
    assert cause.who is not None
    assert cause.on is not None
    assert (APP, "sdz") == (cause.who.pid, cause.on.device)
    assert ["disk.slow-device"] == [because.id for because in cause.because]
    assert 0.2 == pytest.approx(sum(node.seconds for node in nodes(verdict.blame, "fault")), abs=0.001)
    facts = [one.fact for one in cause.evidence]
    assert "service[500] in 10 page faults served from swap, 20 ms each in the mean" in facts
    assert f"hog[{HOG}] holds memory" in facts
    assert f"service[{APP}] holds memory, and 2.05 MB in swap" in facts


def test_a_page_in_swap_that_a_write_touches_is_swap_and_no_file_io() -> None:
    """The call is about a file on the same device, which has no part in it."""
    verdict = judge(waited(SWAPPED, within_write=True))
    assert ["mem.swap"] == named(verdict)
    assert [] == [node for node in nodes(verdict.blame, "io") if node.share > 0.01]


def test_swap_at_the_limit_of_its_group_is_laid_at_the_limits_door() -> None:
    """The head is what can be changed: the limit, with its figures."""
    verdict = judge(waited(SWAPPED, limit=limited(hits=70.0, used=0.99e9)))
    assert ["mem.cgroup-limit"] == named(verdict)
    cause = only(verdict, "mem.cgroup-limit")
    assert cause.on is not None
    assert f"{GROUP}/memory.limit_in_bytes" == cause.on.setting
    assert {"mem.swap", "disk.slow-device"} == {because.id for because in cause.because}
    assert (int(0.99e9), int(1e9)) in [(one.value, one.threshold) for one in cause.evidence]


def test_a_redacted_capture_gives_the_same_figures() -> None:
    """Ids of processes are numbers, and stay."""
    capture = waited(SWAPPED, limit=limited(hits=70.0, used=0.99e9))
    plain, hidden = (only(judge(one), "mem.cgroup-limit") for one in (capture, redact(capture, b"k" * 16)))
    assert [one.value for one in plain.evidence] == [one.value for one in hidden.evidence]


@pytest.mark.parametrize(("hits", "used"), [(0.0, 0.99e9), (70.0, 0.5e9)])
def test_a_limit_that_was_not_reached_has_no_part_in_it(hits: float, used: float) -> None:
    """Nearly full without having been full; or once full, when the window began."""
    assert ["mem.swap"] == named(judge(waited(SWAPPED, limit=limited(hits=hits, used=used))))


def test_reclaim_for_its_own_group_and_reclaim_for_the_host_are_told_apart() -> None:
    """The stacks tell, with or without the files of the group; the device is part of the reclaim."""
    for stack, causes in ((AT_LIMIT, ["mem.cgroup-limit"]), (SHORT, ["mem.reclaim"]), (PAUSED, ["mem.reclaim"])):
        verdict = judge(waited(stack))
        assert causes == named(verdict)
        assert 0.2 == pytest.approx(sum(node.seconds for node in nodes(verdict.blame, "reclaim")), abs=0.001)
        reclaims = nodes(verdict.blame, "reclaim")
        at_device = [child.kind for node in reclaims for child in node.children if child.share > 0.01]
        assert ([] if stack == PAUSED else ["device"]) == at_device


class Swapping(Scene):
    """In place of a sync, Redis' main thread touches memory that lies in swap."""

    def _sync(self, at: int, length: int, *, journal: bool) -> int:
        self.add(schema.BLOCKS, queued_ns=at + 2 * US, issue_ns=at + 3 * US, complete_ns=at + length - 10 * US,
                 dev=SWAP_DEV, sector=at, bytes=4096, op="read", sync=True, tid=REDIS, pid=REDIS)  # fmt: skip
        self.sleep(REDIS, at + US, at + length - 2 * US, at + length - US, state=2, stack=SWAPPED)
        return at + length


def test_a_redis_in_swap_is_named_as_such() -> None:
    """Through the service that asks it; the same waits seen from the host are no cause of their own."""
    scene = Swapping()
    scene.now += 2 * MS
    scene.request_arrives()
    for _ in range(WAITS):
        scene.redis("GET", sync_ns=WAIT_NS)
    scene.answer()
    scene.add(schema.STACKS, stack_id=SWAPPED, frames=STACKS[SWAPPED])
    verdict = judge(scene.capture(appendfsync="no"))
    assert ["redis.mem.swap"] == named(verdict)
    cause = only(verdict, "redis.mem.swap")
    assert cause.who is not None
    assert REDIS == cause.who.pid
    assert {"mem.swap", "disk.slow-device"} <= {because.id for because in cause.because}


@pytest.mark.parametrize(("swapped_kb", "faults", "fires"), [(60_000.0, 500.0, True), (60_000.0, 3.0, False),
                                                             (900.0, 500.0, False)])  # fmt: skip
def test_without_tracing_swap_and_major_faults_together_are_a_note(
    swapped_kb: float, faults: float, fires: bool
) -> None:
    """Nothing says that anybody waited; a few pages in swap, or a few faults, are no news."""
    scene = Scene()
    scene.now += 2 * MS
    for moment, count in ((scene.now, 10.0), (scene.now + MS, 10.0 + faults)):
        scene.add(schema.COUNTERS, ts_ns=moment, source=f"/proc/{REDIS}/stat", object=str(REDIS), field="majflt",
                  value=count)  # fmt: skip
    scene.add(schema.COUNTERS, ts_ns=scene.now, source=f"/proc/{REDIS}/smaps_rollup", object=str(REDIS), field="Swap",
              value=swapped_kb)  # fmt: skip
    capture = scene.capture(appendfsync="no", kind="process")
    evidence = msgspec.structs.replace(capture.manifest.evidence, waits="samples")
    sampled = replace(capture, manifest=msgspec.structs.replace(capture.manifest, evidence=evidence))
    picture = draw(sampled, requests.find(sampled))
    answer = swapped.ask(picture)
    assert isinstance(answer, Fired) is fires
    if isinstance(answer, Fired):
        assert [True] == [finding.only_note for finding in answer.findings]
