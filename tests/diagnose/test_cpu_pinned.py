"""Threads that may use some CPUs only, while the others idle or are busy too."""

from __future__ import annotations

import pytest
from scene import APP, MS, Scene

from culpa.capture import schema
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict

NEIGHBOUR, REQUESTS, TICK_NS = 800, 20, 10 * MS


class Bound(Scene):
    """A service that loses its CPU to a neighbour in each request."""

    def __init__(self, *, behind: int = NEIGHBOUR, waits_ms: int = 40) -> None:
        super().__init__()
        for _ in range(REQUESTS):
            self.now += 2 * MS
            self.request_arrives()
            self.compute(waits_ms * MS)
            self.add(
                schema.OFFCPU, off_ns=self.now, wake_ns=None, on_ns=self.now + waits_ms * MS, tid=APP, pid=APP, state=0,
                cpu=0, prev_tid=behind,
            )  # fmt: skip
            self.now += waits_ms * MS
            self.compute(MS)
            self.answer()

    def judged(self, cpus: str | None, *, cgroup: str | None = None, idle: float = 0.9, own: float = 0.0) -> Verdict:
        """CPU 0 is busy, and of CPU 1 that part idles, by the kernel's count; `own` of it is what culpa takes."""
        self.add(schema.PROCESSES, pid=NEIGHBOUR, comm="burner", cmdline="", role="waker")
        if cpus is not None:
            self.add(schema.AFFINITY, ts_ns=self.start, tid=APP, pid=APP, cpus=cpus, cgroup=cgroup)
        else:
            self.add(schema.AFFINITY, ts_ns=self.start, tid=1, pid=1, cpus="0")
        for moment in range(self.start, self.now + 1000 * MS, 1000 * MS):
            ticks = (moment - self.start) / TICK_NS
            self.add(schema.COUNTERS, ts_ns=moment, source="culpa", object="cpu1", field="ticks", value=ticks * own)
            for cpu, part in (("cpu0", 0.0), ("cpu1", idle), ("", idle / 2)):
                for field, value in (("user", ticks * (1 - part)), ("idle", ticks * part)):
                    self.add(schema.COUNTERS, ts_ns=moment, source="/proc/stat", object=cpu, field=field, value=value)
        return judge(self.capture())


def cpu_causes(verdict: Verdict) -> dict[str, Cause]:
    """Those about waits for a CPU."""
    everything = [*verdict.causes, *(inner for one in verdict.causes for inner in one.because)]
    return {one.id: one for one in everything if one.id in ("cpu.pinned", "cpu.runqueue")}


def test_a_bound_thread_that_waits_while_another_cpu_idles_is_pinned() -> None:
    """Named are the bound process, who had its CPU, and the command that lets it use both."""
    found = cpu_causes(Bound().judged("0"))

    assert ["cpu.pinned"] == list(found)
    assert "note" != found["cpu.pinned"].level
    assert found["cpu.pinned"].who is not None
    assert APP == found["cpu.pinned"].who.pid
    assert any("burner[800]" in fact.fact for fact in found["cpu.pinned"].evidence)
    assert ("taskset", "-acp", "0-1", str(APP)) == found["cpu.pinned"].fixes[0].argv


def test_what_culpa_itself_takes_would_idle() -> None:
    """The other CPU is busy for most of the time, but mostly with culpa."""
    assert ["cpu.pinned"] == list(cpu_causes(Bound().judged("0", idle=0.2, own=0.5)))


@pytest.mark.parametrize(("cpus", "idle"), [("0", 0.2), (None, 0.9)], ids=["busy too", "not bound"])
def test_where_the_affinity_is_not_the_reason_it_waits_for_a_cpu(cpus: str | None, idle: float) -> None:
    """The neighbour is named, as ever."""
    found = cpu_causes(Bound().judged(cpus, idle=idle))

    assert ["cpu.runqueue"] == list(found)
    assert found["cpu.runqueue"].who is not None
    assert NEIGHBOUR == found["cpu.runqueue"].who.pid


def test_a_group_that_has_no_more_cpus_is_to_be_given_more() -> None:
    """No command for the process would help."""
    (fix,) = cpu_causes(Bound().judged("0", cgroup="/sys/fs/cgroup/cpuset/box"))["cpu.pinned"].fixes

    assert None is fix.argv
    assert "/sys/fs/cgroup/cpuset/box" in (fix.change or "")


def test_its_own_threads_on_its_cpu_are_a_note_of_a_fast_service() -> None:
    """They may well have to wait for each other anyway."""
    found = cpu_causes(Bound(behind=APP).judged("0"))

    assert {"cpu.pinned": "note"} == {name: one.level for name, one in found.items()}
