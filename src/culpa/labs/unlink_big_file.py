"""A service that deletes large files of many pieces from a disk that is slow to read, within its requests.

Where the pieces lie is no longer in memory, so that it is read back, block by block, to free them. The twin leaves it
to a thread that nobody waits for.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from culpa.labs import loopdev, slowdisk, source, stand, throttle
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

UNLINK = "fs.unlink-big-file"
SEEN_FROM_BELOW = ("disk.slow-device", "disk.saturated", "disk.cgroup-throttle", "fs.journal-wait")
"""The same reads, and what the journal makes of so many changes."""
NOW, LATER = "now", "later"
JOBS = 40
READ_IOPS = 100
IMAGE_BYTES = 4 << 30
SPOOL = "spool"
PIECE, GAP = 4096, 4096


def play(conditions: Conditions) -> Played:
    """Within the request."""
    with opened(conditions.progress) as here:
        case, pieces = _raised(here, conditions)
        return replace(case.troubled(NOW, _truth(case), repaired=LATER), drawn={"pieces": pieces})


def play_healthy(conditions: Conditions) -> Played:
    """By a thread that nobody waits for."""
    with opened(conditions.progress) as here:
        case, pieces = _raised(here, conditions)
        return replace(case.sound(LATER), drawn={"pieces": pieces})


def _raised(here: Site, conditions: Conditions) -> tuple[stand.Stand, int]:
    pieces = conditions.parameters.chance("unlink-big-file").randrange(8_000, 14_000)
    slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=READ_IOPS, unit="reads"), image_bytes=IMAGE_BYTES)
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    conditions.progress(f"slow disk: {disk.device} on {disk.directory}, {slowness.rate}")
    spooled(disk, disk.directory / SPOOL, jobs=JOBS, pieces=pieces)
    conditions.progress(f"{JOBS} files of {pieces} pieces, and nothing of where they lie in memory")
    arguments = (str(disk.directory / SPOOL),)
    return stand.raised(here, conditions, app="prints", on=disk, arguments=arguments), pieces


def spooled(disk: slowdisk.Disk, folder: Path, *, jobs: int, pieces: int) -> None:
    """Files with room for their pieces, and gaps between, as printing and databases leave them; nothing of where they
    lie is in memory.
    """
    folder.mkdir()
    for job in range(jobs):
        with (folder / f"job-{job:04}").open("wb") as out:
            for number in range(pieces):
                os.posix_fallocate(out.fileno(), number * (PIECE + GAP), PIECE)
    if disk.device is not None:
        loopdev.unmount(str(disk.directory))
        loopdev.mount(disk.device, disk.directory)


def _truth(case: stand.Stand) -> Truth:
    spool = (case.disk.directory / SPOOL).resolve()
    lines = source.function_lines(case.app_file, function=NOW)
    return Truth(
        causes=(UNLINK,),
        may=SEEN_FROM_BELOW,
        who=(stand.who(UNLINK, case.app.pid),),
        on=(TruthOn(cause=UNLINK, path=f"{spool}/job-*"), lines.named_in(UNLINK)),
        path=(TruthStep(kind="io", pid=case.app.pid), TruthStep(kind="device", device=case.disk.device_name)),
        fix="ask /later: a thread of its own deletes them",
    )


UNLINK_LAB = Lab(
    name="unlink-big-file",
    family="writeback",
    needs=("root", "trace", "slow-disk"),
    seed="004",
    fires=(UNLINK,),
    silent=("app.files.temp-churn", "lock.contention", "cpu.busy", "disk.fsync-heavy"),
    play=play,
)
UNLINK_HEALTHY = UNLINK_LAB.healthy(silent=(UNLINK,), play=play_healthy)
