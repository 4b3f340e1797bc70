"""A service that sleeps before it looks whether its worker is done; the twin does the work itself."""

from __future__ import annotations

from culpa.labs import source, stand
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthStep
from culpa.labs.site import Site, opened

SLEEP = "sleep.by-choice"
WORK_MS = 30
PAUSE_MS = 400


def play(conditions: Conditions) -> Played:
    """Waiting by the clock."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        return case.troubled("by_clock", _truth(case), repaired="directly")


def play_healthy(conditions: Conditions) -> Played:
    """No waiting."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions).sound("directly")


def _raised(here: Site, conditions: Conditions) -> stand.Stand:
    disk = stand.disk(here, conditions, slow=False)
    return stand.raised(here, conditions, on=disk, app="reports", arguments=(str(WORK_MS), str(PAUSE_MS)))


def _truth(case: stand.Stand) -> Truth:
    lines = source.call_lines(case.app_file, function="wait_by_clock", method="sleep")
    line = lines.named_in(SLEEP)
    return Truth(
        causes=(SLEEP,),
        who=(stand.who(SLEEP, case.app.pid),),
        on=(line,),
        path=(TruthStep(kind="sleep", pid=case.app.pid),),
        fix="ask /directly",
    )


SLEEP_BY_CHOICE = Lab(
    name="sleep-by-choice",
    family="hosts",
    needs=("trace",),
    fires=(SLEEP,),
    silent=("disk.fsync-heavy", "cpu.busy", "net.remote-slow"),
    play=play,
)
SLEEP_BY_CHOICE_HEALTHY = SLEEP_BY_CHOICE.healthy(silent=(SLEEP,), play=play_healthy)
