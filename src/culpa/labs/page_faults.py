"""A service that reads a mapped file page by page from a disk that is slow to read: no call shows it, only page faults.

`page-faults`: the disk is slow by itself. `io-limit`: the disk is fast, but a control group holds the reads back before
they reach it. Their twins look at pages that memory holds.
"""

from __future__ import annotations

from typing import Literal

from culpa.labs import slowdisk, stand, throttle
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
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
    """A disk that is slow to read."""
    return _far(conditions, SLOW_DEVICE, "lower")


def play_healthy(conditions: Conditions) -> Played:
    """The same disk; the pages are in memory."""
    return _near(conditions, "lower")


def play_limit(conditions: Conditions) -> Played:
    """A fast disk whose readers are held back."""
    return _far(conditions, HELD_BACK, "upper")


def play_limit_healthy(conditions: Conditions) -> Played:
    """The same limit is in force; the pages are in memory."""
    return _near(conditions, "upper")


def _far(conditions: Conditions, cause: str, limited: Limited) -> Played:
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, limited)
        return case.troubled(FAR, _truth(case, cause), repaired=FAR, mend=case.disk.quicken)


def _near(conditions: Conditions, limited: Limited) -> Played:
    with opened(conditions.progress) as here:
        return _raised(here, conditions, limited).sound(NEAR)


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
        may=(SAME_PAGES, *([HELD_BACK] if cause == SLOW_DEVICE else [])),
        on=(TruthOn(cause=cause, device=case.disk.device_name),),
        path=(
            TruthStep(kind="fault", pid=case.app.pid, path=atlas),
            TruthStep(kind="device", device=case.disk.device_name),
        ),
        fix="lift the limit",
    )


PAGE_FAULTS = Lab(
    name="page-faults",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(SLOW_DEVICE,),
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
IO_LIMIT = Lab(
    name="io-limit",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(HELD_BACK,),
    silent=(SLOW_DEVICE, "disk.saturated", "disk.neighbour", "cpu.busy"),
    fast=True,
    play=play_limit,
)
IO_LIMIT_HEALTHY = Lab(
    name="io-limit-healthy",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(),
    silent=(HELD_BACK, SLOW_DEVICE),
    fast=True,
    play=play_limit_healthy,
)
