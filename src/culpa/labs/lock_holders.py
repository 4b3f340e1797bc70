"""A service that reads under a lock which importers hold while they compute; the twin reads a copy."""

from __future__ import annotations

from culpa.labs import source, stand
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthStep
from culpa.labs.site import Site, opened

CONTENTION = "lock.contention"
IMPORTERS = 3
ROUNDS = 60_000
"""Some 30 ms of hashing."""


def play(conditions: Conditions) -> Played:
    """Behind the importers."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions)
        return case.troubled("locked", _truth(case), repaired="copied")


def play_healthy(conditions: Conditions) -> Played:
    """The importers are there as well; the request does not need their lock."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions).sound("copied")


def _raised(here: Site, conditions: Conditions) -> stand.Stand:
    disk = stand.disk(here, conditions, slow=False)
    return stand.raised(here, conditions, on=disk, app="shelf", arguments=(str(IMPORTERS), str(ROUNDS)))


def _truth(case: stand.Stand) -> Truth:
    lines = source.function_lines(case.app_file, function="renew")
    line = lines.named_in(CONTENTION)
    return Truth(
        causes=(CONTENTION,),
        may=("cpu.busy", "cpu.runqueue"),
        who=(stand.who(CONTENTION, case.app.pid),),
        on=(line,),
        path=(TruthStep(kind="lock", pid=case.app.pid), TruthStep(kind="running", pid=case.app.pid)),
        fix="ask /copied",
    )


LOCK_HOLDERS = Lab(
    name="lock-holders",
    family="hosts",
    needs=("trace",),
    fires=(CONTENTION,),
    silent=("app.loop.blocked", "sleep.by-choice", "disk.fsync-heavy", "net.remote-slow"),
    play=play,
)
LOCK_HOLDERS_HEALTHY = LOCK_HOLDERS.healthy(silent=(CONTENTION,), play=play_healthy)
