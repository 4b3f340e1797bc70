"""Time in which the work could go on and had no CPU: taken by others, or withheld by a quota."""

from __future__ import annotations

from collections.abc import Iterator

from culpa.capture.schema import COUNTERS, OFFCPU
from culpa.diagnose.affinity import held_by_affinity
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import had_the_cpu, seconds
from culpa.diagnose.runqueue import (
    IDLE_TASK,
    MOST,
    Occupant,
    Throttled,
    behind,
    charged,
    longest,
    moments_of,
    not_of_a_quota,
    occupants,
    part,
    queued,
    throttled,
)
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.units import format_count

MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""


@rule(
    id="cpu.runqueue",
    title="It waits for a CPU",
    needs=(OFFCPU,),
    fixes=("cpu-renice-neighbour",),
    fires=(Lab("cpu-runqueue"),),
    silent=(
        Lab("cpu-runqueue-healthy"),
        Lab("cpu-quota"),
        Lab("cpu-busy-healthy"),
        Lab("cpu-pinned"),
        Lab("herring-hog"),
    ),
)
def runqueue(picture: Picture) -> Iterator[Finding]:
    """What it detects: for a tenth of the time or more, threads on the request's chain could run and had no CPU, while
    other programs had the CPUs.

    Why it slows you: more threads want to run than there are CPUs (or than the ones they may use), so each waits for
    its turn.

    Where its own threads had them it is a note, unless a command, or a URL slower than `--slower-than`, is what was
    asked about. So it is where one request alone had to wait, for less than 100 ms: any host does that now and then.

    How sure: the wait is measured from the wake-up, or from the moment another thread took the CPU, to the moment it
    ran again. Who is named ran last on the CPU that it then got. Waits behind culpa itself are left out. Where the
    CPUs idled meanwhile, or a quota stopped it, this rule is silent; where CPUs idled that it may not use it is
    `cpu.pinned`.

    What to do: lower the priority of the named process or move it elsewhere; give this one CPUs of its own.
    """
    rest = not_of_a_quota(picture)
    rest = part(rest, ~held_by_affinity(picture, rest))
    pids = charged(picture, rest)
    had = occupants(rest, pids)
    busy = [occupant for occupant in had if occupant.pid != IDLE_TASK]
    if sum(occupant.ns for occupant in busy) < MOST * sum(occupant.ns for occupant in had):
        return
    target = picture.capture.manifest.target.pids
    for own in (False, True):
        these = [occupant for occupant in busy if (occupant.pid in target) == own]
        moments = behind(rest, pids, these)
        if these and picture.share(moments.ns) >= MIN_SHARE:
            yield _behind(picture, these, moments, own=own)


def _behind(picture: Picture, these: list[Occupant], moments: Moments, *, own: bool) -> Finding:
    """The finding about waits behind these, the largest of them first."""
    first = these[0]
    is_most = first.ns >= MOST * sum(occupant.ns for occupant in these)
    return Finding(
        moments=moments,
        nearness=Nearness.CODE if own else Nearness.NEIGHBOUR,
        pid=first.pid,
        tid=None,
        on=None,
        evidence=tuple(_who_ran(picture, these, moments.ns)),
        confidence=0.85 if is_most else 0.7,
        fixes=() if own else (_renice(first.pid),),
        only_note=own and not picture.is_slow,
        by_chance=True,
        title=_title(picture, first, own=own) if is_most else None,
    )


def _title(picture: Picture, first: Occupant, *, own: bool) -> str:
    if own:
        return "Its own threads wait for each other's CPU"
    return f"It waits for a CPU while {picture.objects.process(first.pid).comm or first.pid} runs"


def _who_ran(picture: Picture, others: list[Occupant], ns: int) -> Iterator[Evidence]:
    yield Evidence(
        fact="runnable and without a CPU",
        value=seconds(ns),
        unit="s",
        threshold=seconds(MIN_SHARE * picture.root.ns),
        source="offcpu",
    )
    yield from had_the_cpu(picture, others)
    cpus = picture.capture.manifest.host.cpus
    yield Evidence(fact="CPUs of this host", value=cpus, unit="", threshold=None, source="/proc/stat")


def _renice(pid: int) -> Fix:
    return Fix(
        id="cpu-renice-neighbour",
        argv=("renice", "-n", "10", "-p", str(pid)),
        reversible=True,
        risk="the process gets less CPU and takes longer itself",
    )


@rule(
    id="cpu.cgroup-quota",
    title="A CPU quota stops it",
    needs=(OFFCPU, COUNTERS),
    fixes=("cpu-raise-quota",),
    fires=(Lab("cpu-quota"),),
    silent=(Lab("cpu-runqueue"), Lab("cpu-busy-healthy")),
)
def cgroup_quota(picture: Picture) -> Iterator[Finding]:
    """What it detects: for a tenth of the time or more the target could run, and the CPU quota of its control group
    (a container's CPU limit) did not let it.

    Why it slows you: the group has used up its share of the period (100 ms as a rule) and stands still to its end, even
    if the CPUs idle. Several threads use the quota up several times as fast.

    How sure: the kernel counts the time for which the group was stopped (cpu.stat); the waits that make it up are the
    longest ones in which the threads were runnable.

    What to do: raise the quota, or take it away and give weights instead.
    """
    quota = throttled(picture)
    if quota is None:
        return
    stopped, _ = longest(queued(picture), quota.ns)
    moments = moments_of(stopped)
    if picture.share(moments.ns) < MIN_SHARE:
        return
    yield Finding(
        moments=moments,
        nearness=Nearness.LIMIT,
        pid=picture.capture.manifest.target.pids[0] if picture.capture.manifest.target.pids else None,
        tid=None,
        on=On(setting=quota_limit(quota), path=quota.group),
        evidence=tuple(_stopped(picture, quota, moments.ns)),
        confidence=0.9,
        fixes=(raise_quota(quota),),
    )


def _stopped(picture: Picture, quota: Throttled, ns: int) -> Iterator[Evidence]:
    yield Evidence(
        fact="runnable and stopped by the quota", value=seconds(ns), unit="s",
        threshold=seconds(MIN_SHARE * picture.root.ns), source="offcpu",
    )  # fmt: skip
    yield from quota_facts(quota)


def quota_facts(quota: Throttled) -> Iterator[Evidence]:
    """What the kernel counted of a group, and what it is allowed."""
    source = f"{quota.group}/cpu.stat"
    fact = f"the group was stopped {format_count(quota.times)} times, in all"
    yield Evidence(fact=fact, value=seconds(quota.ns), unit="s", threshold=None, source=source)
    yield Evidence(fact="the quota", value=quota_limit(quota), unit="", threshold=None, source=quota.group)


def quota_limit(quota: Throttled) -> str:
    """What the group is allowed, in words."""
    if quota.quota_us is None or quota.period_us is None:
        return f"CPU quota of {quota.group}"
    return f"{quota.quota_us / 1000:.3g} ms of CPU in every {quota.period_us / 1000:.3g} ms"


def raise_quota(quota: Throttled) -> Fix:
    """What to do about it."""
    return Fix(
        id="cpu-raise-quota",
        change=f"raise the CPU quota of {quota.group} (a container's CPU limit), or take it away",
        reversible=True,
        risk="the group may then take CPU from its neighbours",
    )
