"""A service that reads the same few files in each request, which fit in memory, and a program that takes them out.

In the twin that program sweeps a folder of its own. In `cache-cold` each request reads files that nobody has read yet,
and what was read is swept: the disk is as slow, and nothing that memory held is missed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from culpa.labs import slowdisk, stand, throttle
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Program, Site, opened

CACHE_LOST, SLOW_DEVICE = "mem.cache-lost", "disk.slow-device"
SEEN_FROM_BELOW = (SLOW_DEVICE, "disk.saturated", "disk.cgroup-throttle")
"""The same reads, seen from the disk."""
KNOWN, NEXT = "known", "next"
READ_IOPS, UNLIMITED = 250, 1_000_000
SHELVES, OTHERS = "shelves", "others"
FILE_BYTES = 256 << 10
COLD_REQUESTS = 60
"""So many requests find files that nobody has read yet."""


def play(conditions: Conditions) -> Played:
    """Its files are swept."""
    with opened(conditions.progress) as here:
        case, drawn = _raised(here, conditions, requests=1)
        sweeper = _sweeper(case, SHELVES, drawn["every_ms"])
        before = case.seconds(KNOWN, requests=stand.FAST_REQUESTS)
        truth, judged = _truth(case, sweeper), case.judge(KNOWN, show=True)
        measured = Measured(before=before, after_fix=_kept(conditions, case, sweeper))
        stage = case.stage("as found", KNOWN, truth, judged, measured)
        return Played(stages=(stage,), disk=case.disk.kind, drawn=drawn)


def play_healthy(conditions: Conditions) -> Played:
    """Other files are swept."""
    with opened(conditions.progress) as here:
        case, drawn = _raised(here, conditions, requests=1)
        _sweeper(case, OTHERS, drawn["every_ms"])
        return replace(case.sound(KNOWN), drawn=drawn)


def play_cold(conditions: Conditions) -> Played:
    """Files that were never read, beside a sweeper of all that were."""
    with opened(conditions.progress) as here:
        case, drawn = _raised(here, conditions, requests=COLD_REQUESTS)
        sweeper = _sweeper(case, SHELVES, drawn["every_ms"])
        before, truth = case.seconds(NEXT), _truth_cold(case)
        judged = case.judge(NEXT, show=True)
        measured = Measured(before=before, after_fix=_kept(conditions, case, sweeper))
        return Played(stages=(case.stage("as found", NEXT, truth, judged, measured),), disk=case.disk.kind, drawn=drawn)


def play_cold_healthy(conditions: Conditions) -> Played:
    """The same on a disk that nothing holds back."""
    with opened(conditions.progress) as here:
        case, drawn = _raised(here, conditions, requests=COLD_REQUESTS, iops=UNLIMITED)
        _sweeper(case, SHELVES, drawn["every_ms"])
        return replace(case.sound(NEXT), drawn=drawn)


def _kept(conditions: Conditions, case: stand.Stand, sweeper: Program) -> float:
    """Seconds of a request for files that were read before and that nobody sweeps any more."""
    sweeper.require_running()
    sweeper.stop()
    case.seconds(KNOWN)
    conditions.progress("the sweeper has ended, and the files were read once")
    return case.seconds(KNOWN, requests=stand.FAST_REQUESTS)


def _raised(
    here: Site, conditions: Conditions, *, requests: int, iops: int = READ_IOPS
) -> tuple[stand.Stand, dict[str, int]]:
    chance = conditions.parameters.chance("cache-lost")
    drawn = {"files": chance.randrange(20, 40), "every_ms": chance.randrange(15, 45)}
    slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=iops, unit="reads"))
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    conditions.progress(f"slow disk: {disk.device} on {disk.directory}, {slowness.rate}")
    fill(disk.directory / SHELVES, drawn["files"] * requests)
    fill(disk.directory / OTHERS, drawn["files"])
    arguments = (str(disk.directory / SHELVES), str(drawn["files"]))
    case = stand.raised(here, conditions, app="shelves", on=disk, arguments=arguments)
    return case, drawn


def fill(folder: Path, files: int) -> None:
    """Files that are on the disk and not in memory."""
    folder.mkdir()
    for number in range(files):
        with (folder / f"{number:05}").open("wb") as out:
            out.write(os.urandom(FILE_BYTES))
            out.flush()
            os.fdatasync(out.fileno())
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sweeper(case: stand.Stand, folder: str, every_ms: int) -> Program:
    file = stand.copied(case.site, "sweeper.py", "sweeper.py")
    argv = [sys.executable, str(file), str(case.disk.directory / folder), str(every_ms)]
    program = case.site.start(argv, name="sweeper")
    program.wait_ready()
    return program


def _truth(case: stand.Stand, sweeper: Program) -> Truth:
    return Truth(
        causes=(CACHE_LOST,),
        may=SEEN_FROM_BELOW,
        who=(stand.who(CACHE_LOST, sweeper.pid),),
        on=(TruthOn(cause=CACHE_LOST, path=f"{(case.disk.directory / SHELVES).resolve()}/*"),),
        path=(TruthStep(kind="io", pid=case.app.pid), TruthStep(kind="device", device=case.disk.device_name)),
        fix="stop the sweeper",
    )


def _truth_cold(case: stand.Stand) -> Truth:
    return Truth(
        causes=(SLOW_DEVICE,),
        may=("disk.cgroup-throttle",),
        on=(TruthOn(cause=SLOW_DEVICE, device=case.disk.device_name),),
        path=(TruthStep(kind="io", pid=case.app.pid), TruthStep(kind="device", device=case.disk.device_name)),
    )


CACHE_LOST_LAB = Lab(
    name="cache-lost",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    seed="000",
    fires=(CACHE_LOST,),
    silent=("app.io.rereads", "mem.swap", "disk.neighbour", "cpu.busy"),
    play=play,
)
CACHE_LOST_HEALTHY = CACHE_LOST_LAB.healthy(silent=(CACHE_LOST, SLOW_DEVICE), play=play_healthy)
CACHE_COLD = replace(
    CACHE_LOST_LAB, name="cache-cold", seed=None, fires=(SLOW_DEVICE,), silent=(CACHE_LOST, "app.io.rereads"),
    play=play_cold,
)  # fmt: skip
CACHE_COLD_HEALTHY = CACHE_COLD.healthy(silent=(CACHE_LOST, SLOW_DEVICE), play=play_cold_healthy)
