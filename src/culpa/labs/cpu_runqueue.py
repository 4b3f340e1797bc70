"""A service that computes a little in every request, beside a neighbour that wants all the CPUs; the twin is alone.

The service runs at a low priority, as batch work does. Where the scheduler groups tasks by session (autogroup), the
priority is that of the service's group; each program of a lab has a session of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from culpa.labs import stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthStep, TruthWho
from culpa.labs.site import Program, Site, opened

CPU_RUNQUEUE = "cpu.runqueue"
BELOW = 60_000
THREADS_PER_CPU = 3
NICE = 10
SLOW_REQUESTS = 5
ACTION = "by_division"


def play(conditions: Conditions) -> Played:
    """Beside the neighbour; the repair is that it stops."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        yield_to_others(case.app.pid)
        neighbour = _neighbour(here)
        before = case.seconds(ACTION, requests=SLOW_REQUESTS)
        truth = _truth(case, neighbour)
        judged = case.judge(ACTION)
        neighbour.stop()
        after = case.seconds(ACTION, requests=stand.FAST_REQUESTS)
        stage = case.stage("as found", ACTION, truth, judged, Measured(before=before, after_fix=after))
        return Played(stages=(stage,), disk=case.disk.kind)


def play_healthy(conditions: Conditions) -> Played:
    """Alone."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions).sound(ACTION)


def _raised(here: Site, conditions: Conditions) -> stand.Stand:
    disk = stand.disk(here, conditions, slow=False)
    return stand.raised(here, conditions, on=disk, app="primes", arguments=(str(BELOW),))


def yield_to_others(pid: int, nice: int = NICE) -> None:
    """Give a process, and its group where there is one, a low priority."""
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():
        group.write_text(str(nice))


def _neighbour(here: Site) -> Program:
    file = stand.copied(here, "burn.py", "burn.py")
    threads = THREADS_PER_CPU * len(os.sched_getaffinity(0))
    return here.start([sys.executable, str(file), str(threads)], name="neighbour")


def _truth(case: stand.Stand, neighbour: Program) -> Truth:
    return Truth(
        causes=(CPU_RUNQUEUE,),
        may=("cpu.busy",),
        who=(TruthWho(cause=CPU_RUNQUEUE, pid=neighbour.pid, comm="python"),),
        path=(TruthStep(kind="runnable", pid=case.app.pid),),
        fix="stop the neighbour",
    )


LAB_CPU_RUNQUEUE = Lab(
    name="cpu-runqueue",
    family="hosts",
    needs=("trace",),
    fires=(CPU_RUNQUEUE,),
    silent=("disk.fsync-heavy", "sleep.by-choice", "net.remote-slow", "cpu.cgroup-quota"),
    play=play,
)
LAB_CPU_RUNQUEUE_HEALTHY = LAB_CPU_RUNQUEUE.healthy(silent=(CPU_RUNQUEUE,), play=play_healthy)
