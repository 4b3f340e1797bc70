"""Threads that may not use the CPUs which idle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from culpa.capture.schema import AFFINITY, COUNTERS, OFFCPU
from culpa.diagnose.affinity import MIN_IDLE, Bound, CpuUse, bound_threads, held_by_affinity
from culpa.diagnose.blame import Coverage
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import had_the_cpu, seconds
from culpa.diagnose.runqueue import MOST, charged, moments_of, not_of_a_quota, occupants, part
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import format_cpus

MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""


@rule(
    id="cpu.pinned",
    title="It is bound to CPUs that others use, while other CPUs idle",
    needs=(OFFCPU, COUNTERS, AFFINITY),
    fixes=("cpu-widen-affinity",),
    fires=(Lab("cpu-pinned"),),
    silent=(Lab("cpu-pinned-healthy"), Lab("cpu-runqueue"), Lab("redis-pinned")),
)
def pinned(picture: Picture) -> Iterator[Finding]:
    """What it detects: for a tenth of the time or more, threads on the request's chain could run and had no CPU, since
    they may use some of the host's CPUs only (taskset, CPUAffinity, a cpuset), which other programs or other threads of
    the same program had, while CPUs that they may not use idled.

    Why it slows you: what shares a CPU takes turns. A process inherits its CPUs from whoever starts it and hands them
    on to its threads and children, so that helpers compete with the very work they are to help.

    How sure: the CPUs of each thread are read about once a second, the waits are measured, and who is named ran last on
    the CPU that it then got. That other CPUs idled is counted by the kernel in each second (/proc/stat): at least half
    a CPU in all, with what culpa itself took. Where they were busy as well it is `cpu.runqueue`. Where its own threads
    had the CPU it is a note, unless a command, or a URL slower than `--slower-than`, is what was asked about.

    What to do: let it use more CPUs (taskset -acp, CPUAffinity= of its unit, the cpuset of its container), or bind what
    shares them elsewhere. Threads that are each bound to a CPU of their own on purpose want the second.
    """
    if picture.is_checkup:
        raise Unseen("of a server that is examined redis.cpu.pinned looks at that")
    rest = not_of_a_quota(picture)
    held = part(rest, held_by_affinity(picture, rest))
    bound, by_pid = bound_threads(picture), defaultdict(list)
    who = np.array([node.who for node in picture.blame.nodes], np.int64)[held.node]
    for tid in np.unique(who).tolist():
        by_pid[bound[tid].pid].append(tid)
    for pid, tids in by_pid.items():
        its = part(held, np.isin(who, tids))
        if picture.share(moments_of(its).ns) >= MIN_SHARE:
            yield _finding(picture, pid, [bound[tid] for tid in tids], its)


def _finding(picture: Picture, pid: int, bound: list[Bound], waits: Coverage) -> Finding:
    moments, had = moments_of(waits), occupants(waits, charged(picture, waits))
    own = sum(one.ns for one in had if one.pid == pid) >= MOST * sum(one.ns for one in had)
    cpus, use = frozenset[int]().union(*(one.cpus for one in bound)), CpuUse.read(picture)
    evidence = (
        Evidence(fact="CPUs it may use", value=format_cpus(cpus), unit="", threshold=None, source="affinity"),
        Evidence(fact="runnable and without a CPU meanwhile", value=seconds(moments.ns), unit="s",
                 threshold=seconds(MIN_SHARE * picture.root.ns), source="offcpu"),
        *had_the_cpu(picture, had),
        Evidence(fact="CPUs that idled meanwhile and that it may not use, in the mean",
                 value=round(_idle(use, cpus, moments), 2), unit="", threshold=MIN_IDLE, source="/proc/stat"),
    )  # fmt: skip
    return Finding(
        moments=moments, nearness=Nearness.SETTING, pid=pid, tid=None, on=On(setting="CPU affinity"), evidence=evidence,
        confidence=0.9, fixes=(_widened(pid, bound, use.numbers),), only_note=own and not picture.is_slow,
        by_chance=True,
    )  # fmt: skip


def _idle(use: CpuUse, cpus: frozenset[int], moments: Moments) -> float:
    """How many of the other CPUs idled during these moments, in the mean."""
    spans = list(zip(moments.start_ns.tolist(), moments.end_ns.tolist(), strict=True))
    idle = sum(use.idle(use.numbers - cpus, start, end) * (end - start) for start, end in spans)
    return float(idle / max(1, moments.ns))


def _widened(pid: int, bound: list[Bound], every: frozenset[int]) -> Fix:
    """All CPUs of the host, for the whole process; in words where its group has no more, or its threads differ."""
    group = next((one.cgroup for one in bound if one.cgroup), None)
    change, risk = None, "its threads leave warm caches now and then"
    if group is not None:
        change = f"give its control group more CPUs (cpuset.cpus of {group}, a container's CPU set)"
    elif len({one.cpus for one in bound}) > 1:
        change = f"let these threads use more CPUs (taskset -cp {format_cpus(every)} THREAD): each has others now"
    if change is not None:
        return Fix(id="cpu-widen-affinity", change=change, reversible=True, risk=risk)
    argv = ("taskset", "-acp", format_cpus(every), str(pid))
    return Fix(id="cpu-widen-affinity", argv=argv, reversible=True, risk=risk)
