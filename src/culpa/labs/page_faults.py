"""A service that reads a mapped file page by page from a disk that is slow to read: no call shows it, only page faults.

Two stages: the disk is slow by itself, and the disk is fast but a control group holds the reads back before they reach
it. The twin looks at pages that memory holds.
"""

from __future__ import annotations

from typing import Literal

from culpa.labs import slowdisk, stand, throttle
from culpa.labs.lab import Conditions, Lab, Measured, Played, Stage, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

SLOW_DEVICE, HELD_BACK = "disk.slow-device", "disk.cgroup-throttle"
SAME_PAGES = "mem.cache-lost"
"""Pages that were in memory before are read again: the same waits, seen from the page cache."""
READ_IOPS = 800
PAGES = 600
FAR, NEAR = "far", "near"
ATLAS = "atlas"
Limited = Literal["lower", "upper"]


def play(conditions: Conditions) -> Played:
    """A disk that is slow to read; then one whose readers are held back."""
    with opened(conditions.progress) as here:
        slow = _stage(here, conditions, "slow disk", SLOW_DEVICE, "lower")
    with opened(conditions.progress) as here:
        held = _stage(here, conditions, "held back", HELD_BACK, "upper")
    return Played(stages=(slow, held), disk="slow", drawn={"read_iops": READ_IOPS})


def play_healthy(conditions: Conditions) -> Played:
    """The same disk; the pages are in memory."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions, "lower").sound(NEAR)


def _stage(here: Site, conditions: Conditions, name: str, cause: str, limited: Limited) -> Stage:
    case = _raised(here, conditions, limited)
    before = case.seconds(FAR)
    judged = case.judge(FAR)
    measured = Measured(before=before, after_fix=case.seconds(NEAR, requests=stand.FAST_REQUESTS))
    return case.stage(name, FAR, _truth(case, cause), judged, measured)


def _raised(here: Site, conditions: Conditions, limited: Limited) -> stand.Stand:
    rate = throttle.Rate(per_second=READ_IOPS, unit="reads")
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowdisk.Slowness(rate=rate, limited=limited)))
    conditions.progress(f"slow disk: {disk.device} on {disk.directory}, {rate}")
    arguments = (str(disk.directory / ATLAS), str(PAGES), str(conditions.parameters.seed))
    return stand.raised(here, conditions, app="atlas", on=disk, arguments=arguments)


def _truth(case: stand.Stand, cause: str) -> Truth:
    atlas = str((case.disk.directory / ATLAS).resolve())
    return Truth(
        causes=(cause,),
        may=(HELD_BACK, SAME_PAGES),
        on=(TruthOn(cause=cause, device=case.disk.device_name),),
        path=(
            TruthStep(kind="fault", pid=case.app.pid, path=atlas),
            TruthStep(kind="device", device=case.disk.device_name),
        ),
        fix="ask /near: those pages are kept in memory",
    )


PAGE_FAULTS = Lab(
    name="page-faults",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(SLOW_DEVICE, HELD_BACK),
    silent=("disk.saturated", "disk.neighbour", "disk.fsync-heavy", "cpu.busy"),
    fast=True,
    play=play,
)
PAGE_FAULTS_HEALTHY = Lab(
    name="page-faults-healthy",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(),
    silent=(SLOW_DEVICE, HELD_BACK),
    fast=True,
    play=play_healthy,
)
