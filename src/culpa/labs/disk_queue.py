"""A service whose disk is slow: because others fill the queue before it, or by itself.

`disk-saturated`: an import program with many threads keeps the queue of the disk long; the service's few writes wait
for their turn. Its twin has the same program at a pace, on a disk that nothing holds back. `disk-slow`: the same
service alone on a slow disk, so that each write takes as long as the device takes; its twin has a disk that nothing
holds back.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from culpa.labs import slowdisk, stand, throttle
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Program, Site, opened

SATURATED, SLOW_DEVICE = "disk.saturated", "disk.slow-device"
OWN_LIMIT = ("disk.cgroup-throttle",)
BUSY, AT_REST = "shuffle", "look"
UNLIMITED = 10_000_000
RESTING_MS = 2000
"""Between two rows of each table: a few writes a second in all."""
WARM_UP = 4
"""Requests until the limit has used up what it saved while the disk was idle; the median is that of a slow one."""


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

    def as_parameters(self) -> dict[str, int]:
        """For the record of the run."""
        return {"cards": self.cards, "tables": self.tables}


def play_saturated(conditions: Conditions) -> Played:
    """Others fill the queue."""
    sizes = Sizes.drawn(conditions, alone=False)
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, sizes, write_iops=conditions.parameters.write_iops)
        importer = _importer(case, sizes, pause_ms=0)
        before = case.seconds(BUSY, requests=WARM_UP)
        truth, judged = _truth_saturated(case, importer), case.judge(BUSY)
        importer.require_running()
        importer.stop()
        conditions.progress("the import has ended")
        after = case.seconds(BUSY, requests=stand.FAST_REQUESTS)
        stage = case.stage("as found", BUSY, truth, judged, Measured(before=before, after_fix=after))
    return Played(stages=(stage,), disk=case.disk.kind, drawn=sizes.as_parameters())


def play_saturated_healthy(conditions: Conditions) -> Played:
    """Others at a pace, on the same disk, which nothing holds back."""
    sizes = Sizes.drawn(conditions, alone=False)
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, sizes, write_iops=UNLIMITED)
        _importer(case, sizes, pause_ms=RESTING_MS)
        played = case.sound(BUSY)
    return Played(stages=played.stages, disk=played.disk, drawn=sizes.as_parameters())


def play_slow(conditions: Conditions) -> Played:
    """Alone on a slow disk."""
    sizes = Sizes.drawn(conditions, alone=True)
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, sizes, write_iops=conditions.parameters.write_iops)
        played = case.troubled(BUSY, _truth_slow(case), repaired=AT_REST)
    return Played(stages=played.stages, disk=played.disk, drawn=sizes.as_parameters())


def play_slow_healthy(conditions: Conditions) -> Played:
    """Alone on the same disk, which nothing holds back."""
    sizes = Sizes.drawn(conditions, alone=True)
    with opened(conditions.progress) as here:
        played = _raised(here, conditions, sizes, write_iops=UNLIMITED).sound(BUSY)
    return Played(stages=played.stages, disk=played.disk, drawn=sizes.as_parameters())


def _raised(here: Site, conditions: Conditions, sizes: Sizes, *, write_iops: int) -> stand.Stand:
    slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=write_iops))
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    conditions.progress(f"slow disk: {disk.device} on {disk.directory}, {slowness.rate}")
    arguments = (str(disk.directory / "cards"), str(sizes.cards), str(conditions.parameters.seed))
    return stand.raised(here, conditions, app="cards", on=disk, arguments=arguments)


def _importer(case: stand.Stand, sizes: Sizes, *, pause_ms: int) -> Program:
    """The program beside the service, once all its tables are there."""
    file = stand.copied(case.site, "importer.py", "importer.py")
    seed = str(case.conditions.parameters.seed)
    argv = [sys.executable, str(file), str(case.disk.directory), str(sizes.tables), str(pause_ms), seed]
    program = case.site.start(argv, name="importer")
    case.disk.admit(program.pid)
    return program


def _truth_saturated(case: stand.Stand, importer: Program) -> Truth:
    return Truth(
        causes=(SATURATED,),
        may=(*OWN_LIMIT, "disk.neighbour", SLOW_DEVICE),
        who=(stand.who(SATURATED, importer.pid),),
        on=(TruthOn(cause=SATURATED, device=case.disk.device_name),),
        path=(
            TruthStep(kind="io", pid=case.app.pid, path=str(case.disk.directory / "cards")),
            TruthStep(kind="device", device=case.disk.device_name),
        ),
        fix="stop the import",
    )


def _truth_slow(case: stand.Stand) -> Truth:
    return Truth(
        causes=(SLOW_DEVICE,),
        may=OWN_LIMIT,
        on=(TruthOn(cause=SLOW_DEVICE, device=case.disk.device_name),),
        path=(
            TruthStep(kind="io", pid=case.app.pid, path=str(case.disk.directory / "cards")),
            TruthStep(kind="device", device=case.disk.device_name),
        ),
        fix="ask /look, which needs no disk",
    )


DISK_SATURATED = Lab(
    name="disk-saturated",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(SATURATED,),
    silent=("disk.fsync-heavy", "app.files.temp-churn", "app.log.flood", "cpu.busy"),
    fast=True,
    play=play_saturated,
)
DISK_SATURATED_HEALTHY = Lab(
    name="disk-saturated-healthy",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(),
    silent=(SATURATED, SLOW_DEVICE),
    fast=True,
    play=play_saturated_healthy,
)
DISK_SLOW = Lab(
    name="disk-slow",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(SLOW_DEVICE,),
    silent=(SATURATED, "disk.fsync-heavy", "app.files.temp-churn", "app.log.flood", "cpu.busy"),
    fast=True,
    play=play_slow,
)
DISK_SLOW_HEALTHY = Lab(
    name="disk-slow-healthy",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(),
    silent=(SATURATED, SLOW_DEVICE),
    fast=True,
    play=play_slow_healthy,
)
