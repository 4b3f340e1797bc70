"""An event loop that counts for some clients while others wait; in the twin their answers wait by themselves."""

from __future__ import annotations

import sys

from culpa.labs import source, stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthStep
from culpa.labs.site import Program, Site, opened

BLOCKED = "app.loop.blocked"
WORK_MS = 120
REQUESTS = 5
ASKERS = 2
"""While one is answered the other waits, so that a third client waits as well."""


def play(conditions: Conditions) -> Played:
    """Quick requests among thorough ones; then among patient ones."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        others = _askers(case, "thorough")
        verdict = case.judge("quick")  # first, so that the others are well under way when the clock runs
        before = case.seconds("quick", requests=REQUESTS)
        for other in others:
            other.stop()
        _askers(case, "patient")
        measured = Measured(before=before, after_fix=case.seconds("quick", requests=REQUESTS))
        stage = case.stage("as found", "quick", _truth(case), verdict, measured)
        return Played(stages=(stage,), disk=case.disk.kind)


def play_healthy(conditions: Conditions) -> Played:
    """The other clients wait as long for their answers, but the loop is free."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        _askers(case, "patient")
        return case.sound("quick")


def _raised(here: Site, conditions: Conditions) -> stand.Stand:
    disk = stand.disk(here, conditions, slow=False)
    script = stand.copied(here, "tally.py", "app.py")
    return stand.started(here, conditions, script, on=disk, arguments=(str(WORK_MS),))


def _askers(case: stand.Stand, action: str) -> list[Program]:
    """Other clients, which never stop asking."""
    file = stand.copied(case.site, "asker.py", "asker.py")
    argv = [sys.executable, str(file), f"{case.url}/{action}"]
    return [case.site.start(argv, name=f"asker-{action}-{number}") for number in range(ASKERS)]


def _truth(case: stand.Stand) -> Truth:
    lines = source.function_lines(case.app_file, function="thorough")
    line = lines.named_in(BLOCKED)
    return Truth(
        causes=(BLOCKED,),
        may=("cpu.busy", "cpu.runqueue"),
        who=(stand.who(BLOCKED, case.app.pid),),
        on=(line,),
        path=(TruthStep(kind="queued", pid=case.app.pid), TruthStep(kind="running", pid=case.app.pid)),
        fix="do not count in the event loop",
    )


LOOP_BLOCKED = Lab(
    name="loop-blocked",
    family="applications",
    needs=("trace",),
    fires=(BLOCKED,),
    silent=("app.pool.exhausted", "lock.contention", "sleep.by-choice", "disk.fsync-heavy", "net.remote-slow"),
    play=play,
)
LOOP_BLOCKED_HEALTHY = LOOP_BLOCKED.healthy(silent=(BLOCKED,), play=play_healthy)
