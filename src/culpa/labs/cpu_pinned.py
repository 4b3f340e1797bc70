"""A service in Node.js that is bound to one CPU, which others want as well: another program that is bound there, or
threads of its own. The other CPUs idle.

The twin is bound in the same way, and nobody shares its CPU; its request computes too little to be slow by that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from culpa.labs import loopdev, ports, stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthStep
from culpa.labs.site import Site, opened

CPU_PINNED = "cpu.pinned"
BELOW = (1_200_000, 1_600_000)
"""Numbers: some tenths of a second of computing."""
BELOW_SOUND = (400_000, 500_000)
"""A fifth of that."""
MOST_SHARERS = 2
ACTION = "total"
Sharer = Literal["program", "helpers"]
SHARERS: tuple[Sharer, ...] = ("program", "helpers")


def play(conditions: Conditions) -> Played:
    """With somebody else on its CPU; the repair is to let it use all of them."""
    chance = conditions.parameters.chance("cpu-pinned")
    sharer = chance.choice(SHARERS)
    cpus = os.sched_getaffinity(0)
    count = 1 if sharer == "helpers" else chance.randint(1, MOST_SHARERS)
    with opened(conditions.progress) as here:
        case, cpu = _raised(here, conditions, BELOW, helpers=count if sharer == "helpers" else 0)
        if sharer == "program":
            burn = stand.copied(here, "burn.py", "burn.py")
            here.start([sys.executable, str(burn), str(count), str(cpu)], name="neighbour").wait_ready()
        before = case.seconds(ACTION, requests=stand.FAST_REQUESTS)
        truth, judged = _truth(case), case.judge(ACTION, show=True)
        bind(case.app.pid, cpus)
        after = case.seconds(ACTION, requests=stand.FAST_REQUESTS)
        stage = case.stage("as found", ACTION, truth, judged, Measured(before=before, after_fix=after))
        drawn = {"cpu": cpu, "sharers": count, "own": int(sharer == "helpers")}
        return Played(stages=(stage,), disk=case.disk.kind, drawn=drawn)


def play_healthy(conditions: Conditions) -> Played:
    """Alone on its CPU."""
    with opened(conditions.progress) as here:
        case, _ = _raised(here, conditions, BELOW_SOUND, helpers=0)
        return case.sound(ACTION)


def bind(pid: int, cpus: set[int]) -> None:
    """Let all threads of a process use these CPUs only."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


def _raised(here: Site, conditions: Conditions, numbers: tuple[int, int], *, helpers: int) -> tuple[stand.Stand, int]:
    """The service, and the CPU it is bound to."""
    chance = conditions.parameters.chance("cpu-pinned service")
    cpu, below = chance.choice(sorted(os.sched_getaffinity(0))), chance.randint(*numbers)
    disk = stand.disk(here, conditions, slow=False)
    file, port = stand.copied(here, "totals.js", "totals.js"), ports.free_port()
    argv = [loopdev.tool("node") or "node", str(file), str(port), str(below), str(helpers)]
    case = stand.served(here, conditions, argv, file=file, port=port, on=disk)
    bind(case.app.pid, {cpu})
    return case, cpu


def _truth(case: stand.Stand) -> Truth:
    return Truth(
        causes=(CPU_PINNED,),
        may=("cpu.busy",),
        who=(stand.who(CPU_PINNED, case.app.pid),),
        path=(TruthStep(kind="runnable", pid=case.app.pid),),
        fix="let it use all CPUs",
    )


CPU_PINNED_LAB = Lab(
    name="cpu-pinned",
    family="hosts",
    needs=("trace", "node"),
    fires=(CPU_PINNED,),
    silent=("cpu.runqueue", "cpu.cgroup-quota", "lock.contention", "sleep.by-choice"),
    play=play,
)
CPU_PINNED_HEALTHY = CPU_PINNED_LAB.healthy(silent=(CPU_PINNED, "cpu.runqueue"), play=play_healthy)
