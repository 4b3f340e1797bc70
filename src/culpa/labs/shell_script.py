"""A shell script that has every line synced by a short-lived program, on a slow disk.

Two stages: a service that runs the script for a request and waits for it, and the script by itself, started by culpa.
Between the waits and the sync lie the script's own processes, joined by pipes; none lives long enough to be looked at.
The twin has one program that syncs nothing, on the disk that is there.
"""

from __future__ import annotations

import time
from dataclasses import replace

import msgspec

from culpa.labs import product, stand
from culpa.labs.fsync_loop import FSYNC_HEAVY, SEEN_FROM_BELOW
from culpa.labs.lab import Conditions, Lab, Measured, Played, Stage, Truth, TruthOn, TruthStep, TruthWho
from culpa.labs.product import Judged
from culpa.labs.score import score
from culpa.labs.site import Site, opened
from culpa.units import format_seconds

ENTRIES = 100
SLOWER = 3
"""So many times slower than other labs' disks: beside a hundred programs that are started, the syncs count."""
LEDGER = "ledger.txt"
EACH, KEPT, ONCE = "each", "kept", "once"
WRITER = "dd"


def play(conditions: Conditions) -> Played:
    """Every entry synced, on the slow disk."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, slow=True)
        served = case.troubled(EACH, _truth(case, served=True), repaired=KEPT)
        return Played(stages=(*served.stages, _by_itself(case)), disk=case.disk.kind)


def play_healthy(conditions: Conditions) -> Played:
    """Nothing synced, on the disk that is there."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions, slow=False).sound(ONCE)


def _raised(here: Site, conditions: Conditions, *, slow: bool) -> stand.Stand:
    drawn = conditions.parameters
    parameters = msgspec.structs.replace(drawn, write_iops=drawn.write_iops // SLOWER)
    disk = stand.disk(here, replace(conditions, parameters=parameters), slow=slow)
    script = stand.copied(here, "entries.sh", "entries.sh")
    arguments = (str(script), str(disk.directory / LEDGER), str(ENTRIES))
    return stand.raised(here, conditions, app="clerk", on=disk, arguments=arguments)


def _by_itself(case: stand.Stand) -> Stage:
    """`culpa why -- sh SCRIPT`: the same script without a service."""
    before, after = (_seconds(case, way) for way in (EACH, KEPT))
    truth, judged = _truth(case, served=False), _judge(case, EACH)
    measured = Measured(before=before, after_fix=after)
    return Stage(
        name="command",
        url=" ".join(_argv(case, EACH)),
        truth=truth,
        verdict=judged.verdict,
        measured=measured,
        score=score(judged.verdict, truth, measured, acquit=case.conditions.trace),
        seconds=judged.seconds,
    )


def _judge(case: stand.Stand, way: str) -> Judged:
    argv = _argv(case, way)
    case.conditions.progress(f"culpa why -- {' '.join(argv)}")
    return product.why_command(case.site, argv, trace=case.conditions.trace)


def _seconds(case: stand.Stand, way: str) -> float:
    began = time.monotonic()
    program = case.site.start(_argv(case, way), name=f"script-{way}")
    case.disk.admit(program.pid)
    program.popen.wait()
    seconds = time.monotonic() - began
    case.conditions.progress(f"sh entries.sh {way}: {format_seconds(seconds)}")
    return seconds


def _argv(case: stand.Stand, way: str) -> list[str]:
    return ["/bin/sh", str(case.site.directory / "entries.sh"), way, str(case.disk.directory / LEDGER), str(ENTRIES)]


def _truth(case: stand.Stand, *, served: bool) -> Truth:
    """Who syncs is a new process each time, known by its name and the file."""
    ledger = str((case.disk.directory / LEDGER).resolve())
    way = (TruthStep(kind="peer", comm="sh"), TruthStep(kind="peer", comm=WRITER))
    synced = (
        TruthStep(kind="fsync", comm=WRITER, path=ledger),
        TruthStep(kind="device", device=case.disk.device_name),
    )
    return Truth(
        causes=(FSYNC_HEAVY,),
        may=(*SEEN_FROM_BELOW, "cpu.busy", "cpu.runqueue"),  # a hundred programs have to be started as well
        who=(TruthWho(cause=FSYNC_HEAVY, comm=WRITER),),
        on=(TruthOn(cause=FSYNC_HEAVY, path=ledger),),
        path=(*(way if served else way[1:]), *synced),
        fix="entries.sh kept: nothing is synced",
    )


SHELL_SCRIPT = Lab(
    name="shell-script",
    family="applications",
    needs=("trace",),
    seed=None,
    fires=(FSYNC_HEAVY,),
    silent=("net.remote-slow", "sleep.by-choice", "lock.contention"),
    fast=True,
    play=play,
)
SHELL_SCRIPT_HEALTHY = Lab(
    name="shell-script-healthy",
    family="applications",
    needs=("trace",),
    seed=None,
    fires=(),
    silent=(FSYNC_HEAVY,),
    fast=True,
    play=play_healthy,
)
