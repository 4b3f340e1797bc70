"""A service whose disk is slow: because others fill the queue before it, or by itself.

`disk-saturated`: many import programs keep the queue of the disk long; the service's few writes wait for their turn.
`disk-neighbour`: it is one program, with as many threads. Their twins have the same programs at a pace, on a disk that
nothing holds back. `disk-slow`: the same service alone on a slow disk, so that each write takes as long as the device
takes; its twin has a disk that nothing holds back.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from culpa.labs import slowdisk, stand, throttle
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Program, Site, opened

SATURATED, NEIGHBOUR, SLOW_DEVICE = "disk.saturated", "disk.neighbour", "disk.slow-device"
OWN_LIMIT = ("disk.cgroup-throttle",)
BUSY = "shuffle"
UNLIMITED = 10_000_000
RESTING_MS = 2000
"""Between two rows of each table: a few writes a second in all."""
WARM_UP = 4
"""Requests until the limit has used up what it saved while the disk was idle, and then for the median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What one run draws; the disk's writes a second are the run's parameter."""

    cards: int
    tables: int

    @staticmethod
    def drawn(conditions: Conditions, *, alone: bool) -> Sizes:
        """A request of about a second: alone, or where a queue of others leaves a part of the disk."""
        chance, iops = conditions.parameters.chance("disk-queue"), conditions.parameters.write_iops
        tables = chance.randrange(8, 20)
        seconds = chance.uniform(0.6, 1.2)
        return Sizes(cards=int(seconds * iops / (1 if alone else 4)), tables=tables)


def play_saturated(conditions: Conditions) -> Played:
    """Many others fill the queue."""
    return _beside_imports(conditions, programs=True, paced=False)


def play_saturated_healthy(conditions: Conditions) -> Played:
    """Many others at a pace."""
    return _beside_imports(conditions, programs=True, paced=True)


def play_neighbour(conditions: Conditions) -> Played:
    """One other fills the queue."""
    return _beside_imports(conditions, programs=False, paced=False)


def play_neighbour_healthy(conditions: Conditions) -> Played:
    """One other at a pace."""
    return _beside_imports(conditions, programs=False, paced=True)


def _beside_imports(conditions: Conditions, *, programs: bool, paced: bool) -> Played:
    """The service beside imports: a program for each table, or one for all."""
    sizes = Sizes.drawn(conditions, alone=False)
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, sizes, write_iops=UNLIMITED if paced else conditions.parameters.write_iops)
        tables = [1] * sizes.tables if programs else [sizes.tables]
        file = stand.copied(here, "importer.py", "importer.py")
        imports = [_importer(case, file, number, count, paced=paced) for number, count in enumerate(tables)]
        if paced:
            played = case.sound(BUSY)
            return replace(played, drawn=asdict(sizes))
        case.seconds(BUSY, requests=WARM_UP)
        before = case.seconds(BUSY, requests=WARM_UP)
        truth = _truth_saturated(case) if programs else _truth_neighbour(case, imports[0])
        judged = case.judge(BUSY)
        for program in imports:
            program.require_running()
            program.stop()
        conditions.progress("the import has ended")
        after = case.seconds(BUSY, requests=stand.FAST_REQUESTS)
        stage = case.stage("as found", BUSY, truth, judged, Measured(before=before, after_fix=after))
    return Played(stages=(stage,), disk=case.disk.kind, drawn=asdict(sizes))


def play_slow(conditions: Conditions) -> Played:
    """Alone on a slow disk."""
    sizes = Sizes.drawn(conditions, alone=True)
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, sizes, write_iops=conditions.parameters.write_iops)
        played = case.troubled(BUSY, _truth_slow(case), repaired=BUSY, mend=case.disk.quicken)
    return replace(played, drawn=asdict(sizes))


def play_slow_healthy(conditions: Conditions) -> Played:
    """Alone on the same disk, which nothing holds back."""
    sizes = Sizes.drawn(conditions, alone=True)
    with opened(conditions.progress) as here:
        played = _raised(here, conditions, sizes, write_iops=UNLIMITED).sound(BUSY)
    return replace(played, drawn=asdict(sizes))


def _raised(here: Site, conditions: Conditions, sizes: Sizes, *, write_iops: int) -> stand.Stand:
    slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=write_iops))
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    conditions.progress(f"slow disk: {disk.device} on {disk.directory}, {slowness.rate}")
    arguments = (str(disk.directory / "cards"), str(sizes.cards), str(conditions.parameters.seed))
    return stand.raised(here, conditions, app="cards", on=disk, arguments=arguments)


def _importer(case: stand.Stand, file: Path, number: int, tables: int, *, paced: bool) -> Program:
    """A program beside the service."""
    folder = case.disk.directory / f"import-{number}"
    folder.mkdir()
    seed = str(case.conditions.parameters.seed + number)
    argv = [sys.executable, str(file), str(folder), str(tables), str(RESTING_MS if paced else 0), seed]
    program = case.site.start(argv, name=f"importer-{number}")
    case.disk.admit(program.pid)
    return program


def _steps(case: stand.Stand) -> tuple[TruthStep, ...]:
    return (
        TruthStep(kind="io", pid=case.app.pid, path=str(case.disk.directory / "cards")),
        TruthStep(kind="device", device=case.disk.device_name),
    )


def _truth_saturated(case: stand.Stand) -> Truth:
    return Truth(
        causes=(SATURATED,),
        may=(*OWN_LIMIT, NEIGHBOUR),
        on=(TruthOn(cause=SATURATED, device=case.disk.device_name),),
        path=_steps(case),
        fix="stop the imports",
    )


def _truth_neighbour(case: stand.Stand, importer: Program) -> Truth:
    return Truth(
        causes=(NEIGHBOUR,),
        may=(*OWN_LIMIT, SATURATED, SLOW_DEVICE),
        who=(stand.who(NEIGHBOUR, importer.pid),),
        on=(TruthOn(cause=NEIGHBOUR, device=case.disk.device_name),),
        path=_steps(case),
        fix="stop the import",
    )


def _truth_slow(case: stand.Stand) -> Truth:
    return Truth(
        causes=(SLOW_DEVICE,),
        may=OWN_LIMIT,
        on=(TruthOn(cause=SLOW_DEVICE, device=case.disk.device_name),),
        path=_steps(case),
        fix="a faster disk: its limit lifted",
    )


DISK_SATURATED = Lab(
    name="disk-saturated",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    fires=(SATURATED,),
    silent=("disk.fsync-heavy", "app.files.temp-churn", "app.log.flood", "cpu.busy"),
    play=play_saturated,
)
DISK_SATURATED_HEALTHY = DISK_SATURATED.healthy(silent=(SATURATED, NEIGHBOUR, SLOW_DEVICE), play=play_saturated_healthy)
DISK_NEIGHBOUR = Lab(
    name="disk-neighbour",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    fires=(NEIGHBOUR,),
    silent=("disk.fsync-heavy", "app.files.temp-churn", "app.log.flood", "cpu.busy"),
    play=play_neighbour,
)
DISK_NEIGHBOUR_HEALTHY = DISK_NEIGHBOUR.healthy(silent=(SATURATED, NEIGHBOUR, SLOW_DEVICE), play=play_neighbour_healthy)
DISK_SLOW = Lab(
    name="disk-slow",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    fires=(SLOW_DEVICE,),
    silent=(SATURATED, "disk.fsync-heavy", "app.files.temp-churn", "app.log.flood", "cpu.busy"),
    play=play_slow,
)
DISK_SLOW_HEALTHY = DISK_SLOW.healthy(silent=(SATURATED, SLOW_DEVICE), play=play_slow_healthy)
