"""A service that computes a little in every request, in a control group that may run for a fraction of the time.

The CPUs idle meanwhile: nobody else wants them. The twin is in a group with a quota that it never uses up.
"""

from __future__ import annotations

import os

from culpa.labs import cpuquota, stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthStep
from culpa.labs.site import Site, opened

CPU_QUOTA = "cpu.cgroup-quota"
BELOW = 60_000
ACTION = "by_division"


def play(conditions: Conditions) -> Played:
    """With a quota of a sixth to a third of a CPU; the repair is to lift it."""
    quota_us = conditions.parameters.chance("cpu-quota").randrange(15_000, 35_000)
    with opened(conditions.progress) as here:
        case, quota = _raised(here, conditions, quota_us)
        before = case.seconds(ACTION, requests=stand.FAST_REQUESTS)
        truth, judged = _truth(case), case.judge(ACTION)
        quota.lift()
        after = case.seconds(ACTION, requests=stand.FAST_REQUESTS)
        stage = case.stage("as found", ACTION, truth, judged, Measured(before=before, after_fix=after))
        return Played(stages=(stage,), disk=case.disk.kind, drawn={"quota_us": quota_us})


def play_healthy(conditions: Conditions) -> Played:
    """With a quota of all CPUs."""
    with opened(conditions.progress) as here:
        case, _ = _raised(here, conditions, cpuquota.PERIOD_US * (os.cpu_count() or 1))
        return case.sound(ACTION)


def _raised(here: Site, conditions: Conditions, quota_us: int) -> tuple[stand.Stand, cpuquota.Quota]:
    quota = here.stack.enter_context(cpuquota.quota(quota_us, book=here.ledger, name=here.name))
    disk = stand.disk(here, conditions, slow=False)
    case = stand.raised(here, conditions, on=disk, app="primes", arguments=(str(BELOW),))
    quota.admit(case.app.pid)
    return case, quota


def _truth(case: stand.Stand) -> Truth:
    return Truth(
        causes=(CPU_QUOTA,),
        may=("cpu.busy",),
        who=(stand.who(CPU_QUOTA, case.app.pid),),
        path=(TruthStep(kind="runnable", pid=case.app.pid),),
        fix="lift the quota",
    )


LAB_CPU_QUOTA = Lab(
    name="cpu-quota",
    family="hosts",
    needs=("root", "trace", "cpu-quota"),
    fires=(CPU_QUOTA,),
    silent=("cpu.runqueue", "disk.fsync-heavy", "sleep.by-choice"),
    play=play,
)
LAB_CPU_QUOTA_HEALTHY = LAB_CPU_QUOTA.healthy(silent=(CPU_QUOTA,), play=play_healthy)
