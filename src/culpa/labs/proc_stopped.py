"""A service that somebody stops and lets go on all the time; in the twin the same is done to a neighbour."""

from __future__ import annotations

import sys

from culpa.labs import stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthStep
from culpa.labs.site import Program, Site, opened

STOPPED = "proc.stopped"
BELOW = 4_000
ACTION = "by_sieve"
WATCHED_S = 1.5
"""At least two stops long: a request is so fast that all of a few may fall between two stops."""


def play(conditions: Conditions) -> Played:
    """Stopped for some 400 ms, going for some 50 ms; the repair is to end whoever does that.

    A busy machine makes a request wait for a CPU for some 10 ms now and then: a stop is to be longer than that.
    """
    chance = conditions.parameters.chance("proc-stopped")
    stopped_ms, going_ms = chance.randrange(300, 450), chance.randrange(40, 60)
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        pauser = pauser_of(case, case.app.pid, stopped_ms, going_ms)
        before = case.longest_seconds(ACTION, for_s=WATCHED_S)
        judged = case.judge(ACTION)
        pauser.stop()
        after = case.longest_seconds(ACTION, for_s=WATCHED_S)
        measured = Measured(before=before, after_fix=after, longest=True)
        stage = case.stage("as found", ACTION, _truth(case), judged, measured)
        drawn = {"stopped_ms": stopped_ms, "going_ms": going_ms}
        return Played(stages=(stage,), disk=case.disk.kind, drawn=drawn)


def play_healthy(conditions: Conditions) -> Played:
    """Another process is stopped."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        other = here.start([sys.executable, "-c", "while True: __import__('time').sleep(0.01)"], name="other")
        pauser_of(case, other.pid, 100, 30)
        return case.sound(ACTION)


def _raised(here: Site, conditions: Conditions) -> stand.Stand:
    disk = stand.disk(here, conditions, slow=False)
    return stand.raised(here, conditions, on=disk, app="primes", arguments=(str(BELOW),))


def pauser_of(case: stand.Stand, pid: int, stopped_ms: int, going_ms: int) -> Program:
    """Start a program that stops a process for so long, lets it go on for so long, and so on."""
    file = stand.copied(case.site, "pauser.py", "pauser.py")
    return case.site.start([sys.executable, str(file), str(pid), str(stopped_ms), str(going_ms)], name="pauser")


def _truth(case: stand.Stand) -> Truth:
    return Truth(
        causes=(STOPPED,),
        who=(stand.who(STOPPED, case.app.pid),),
        path=(TruthStep(kind="stopped", pid=case.app.pid),),
        fix="end the process that stops it",
    )


PROC_STOPPED = Lab(
    name="proc-stopped",
    family="hosts",
    needs=("trace",),
    seed=None,
    fires=(STOPPED,),
    silent=("app.loop.blocked", "sleep.by-choice", "lock.contention", "cpu.busy", "cpu.runqueue"),
    fast=True,
    play=play,
)
PROC_STOPPED_HEALTHY = Lab(
    name="proc-stopped-healthy",
    family="hosts",
    needs=("trace",),
    seed=None,
    fires=(),
    silent=(STOPPED,),
    fast=True,
    play=play_healthy,
)
