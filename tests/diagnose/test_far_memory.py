"""A program that computes on the CPUs of one NUMA node: when its memory on another is told. No host of the labs has
two.
"""

from __future__ import annotations

import pytest
from scene import APP, MS, Scene

from culpa.capture import schema
from culpa.capture.redact import redact
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause

GB_KB = 1 << 20


def told(
    held_gb: tuple[float, ...], *, computes_ms: int = 400, node_of_cpu: tuple[int, ...] = (0, 1), redacted: bool = False
) -> Cause | None:
    """The note about its memory, of a service that runs on CPU 0 and has so much on each node."""
    scene = Scene()
    for _ in range(5):
        scene.now += 2 * MS
        scene.request_arrives()
        scene.compute(computes_ms * MS)
        scene.nap(100 * MS)
        scene.answer()
    for cpu, node in enumerate(node_of_cpu):
        scene.add(
            schema.COUNTERS, ts_ns=scene.now, source="/sys/devices/system/node", object=f"cpu{cpu}", field="node",
            value=float(node),
        )  # fmt: skip
    for node, held in enumerate(held_gb):
        scene.add(
            schema.COUNTERS, ts_ns=scene.now, source=f"/proc/{APP}/numa_maps", object=f"node{node}", field="held_kb",
            value=held * GB_KB,
        )  # fmt: skip
    capture = scene.capture()
    verdict = judge(redact(capture, b"k" * 16) if redacted else capture)
    everything = [*verdict.causes, *(inner for one in verdict.causes for inner in one.because)]
    return next((one for one in everything if one.id == "cpu.numa-remote"), None)


@pytest.mark.parametrize("redacted", [False, True])
def test_memory_on_the_other_node_is_a_note_with_its_figures(redacted: bool) -> None:
    """Where it lies, where it ran, and from nothing to half of the computing as its price."""
    found = told((0.1, 0.9), redacted=redacted)

    assert found is not None
    assert found.who is not None
    assert (APP, "note") == (found.who.pid, found.level)
    facts = {one.fact: one.value for one in found.evidence}
    assert "node0 107 MB, node1 966 MB" == facts["its memory lies on"]
    assert "node0 100 %" == facts["it ran on the CPUs of"]
    assert found.predicted is not None
    assert found.predicted.high == pytest.approx(0.5, abs=0.01)
    assert found.predicted.low == pytest.approx(0.3, abs=0.01)
    assert f"migratepages {APP} 1 0" in (found.fixes[0].change or "")


@pytest.mark.parametrize(
    "held",
    [(0.9, 0.1), (0.5, 0.5), (0.02, 0.2), (0.0, 0.0), ()],
    ids=["near", "on both", "small", "none", "not read"],
)
def test_memory_that_is_near_or_spread_or_small_is_none(held: tuple[float, ...]) -> None:
    """Spread evenly is what the kernel does with memory that both nodes use."""
    assert None is told(held)


def test_who_hardly_computes_gains_nothing_from_nearer_memory() -> None:
    """It sleeps for nine tenths of each request."""
    assert None is told((0.1, 0.9), computes_ms=10)


@pytest.mark.parametrize("node_of_cpu", [(), (0, 0)], ids=["unknown", "one node"])
def test_a_host_of_one_node_has_no_far_memory(node_of_cpu: tuple[int, ...]) -> None:
    """Or of which nothing is known."""
    assert None is told((0.1, 0.9), node_of_cpu=node_of_cpu)
