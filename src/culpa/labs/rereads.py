"""A service that reads a whole table again for each fare that it looks up; memory holds it, and still each read copies.

The twin reads it once in a request.
"""

from __future__ import annotations

from culpa.labs import slowdisk, source, stand
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

REREADS = "app.io.rereads"
PLACES, FARES = 12_000, 200
TABLE = "fares"


def play(conditions: Conditions) -> Played:
    """The table anew for each fare."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        return case.troubled("each", _truth(case), repaired="once")


def play_healthy(conditions: Conditions) -> Played:
    """The table once for all fares."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions).sound("once")


def _raised(here: Site, conditions: Conditions) -> stand.Stand:
    disk = slowdisk.ordinary_disk(here)
    arguments = (str(disk.directory / TABLE), str(PLACES), str(FARES))
    return stand.raised(here, conditions, app="fares", on=disk, arguments=arguments)


def _truth(case: stand.Stand) -> Truth:
    table = str((case.disk.directory / TABLE).resolve())
    lines = source.function_lines(case.app_file, function="each")
    return Truth(
        causes=(REREADS,),
        may=("cpu.busy", "cpu.runqueue"),
        who=(stand.who(REREADS, case.app.pid),),
        on=(TruthOn(cause=REREADS, path=table), lines.named_in(REREADS)),
        path=(TruthStep(kind="running", pid=case.app.pid),),
        fix="ask /once: the table is read once",
    )


REREADS_LAB = Lab(
    name="rereads",
    family="applications",
    needs=("trace",),
    fires=(REREADS,),
    silent=("app.io.small-reads", "disk.slow-device", "app.files.temp-churn"),
    play=play,
)
REREADS_HEALTHY = REREADS_LAB.healthy(silent=(REREADS,), play=play_healthy)
