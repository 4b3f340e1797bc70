"""A service that records to a disk whose dirty pages are bounded, beside a program that fills them.

The service never syncs, and writes less than may be dirty: each write waits because the other program has dirtied as
much as the disk may have. The twin is alone on the same disk, without a bound.
"""

from __future__ import annotations

import sys

from culpa.labs import loopdev, slowdisk, stand, throttle
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthStep
from culpa.labs.site import Program, Site, opened

DIRTY_THROTTLE, NEIGHBOUR = "mem.dirty-throttle", "disk.neighbour"
SEEN_FROM_BELOW = (
    NEIGHBOUR,
    "disk.cgroup-throttle",
    "disk.saturated",
    "disk.slow-device",
    "fs.journal-wait",
    "cpu.runqueue",
)
"""What the same full disk looks like from the file system and the device, and four busy threads from the CPUs."""
WRITES_PER_SECOND = 400
"""Of up to a megabyte each: a disk on which nobody who is alone has to wait."""
DIRTY_BYTES = 16 << 20
"""The kernel lets all who write to the disk go at the same pace, so four threads dirty four times as much as one."""
RECORD_MEGABYTES, COPIERS, COPY_MEGABYTES = 8, 4, 24
RECORD = "record"
MEASURED_S = 1.5
"""The kernel guesses a fair share, so that one request goes free and another pauses for all of them."""


def play(conditions: Conditions) -> Played:
    """Another program keeps the disk's share of dirty pages full."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, dirty_bytes=DIRTY_BYTES)
        copies = _copies(case)
        before = case.longest_seconds(RECORD, for_s=MEASURED_S)
        truth, judged = _truth(case, copies), case.judge(RECORD)
        copies.require_running()
        copies.stop()
        loopdev.run_tool("sync", "--file-system", str(case.disk.directory))
        conditions.progress("the copies have ended, and what they left dirty is written")
        after = case.longest_seconds(RECORD, for_s=MEASURED_S)
        stage = case.stage("as found", RECORD, truth, judged, Measured(before=before, after_fix=after, longest=True))
        return Played(stages=(stage,), disk=case.disk.kind)


def play_healthy(conditions: Conditions) -> Played:
    """Alone, and within what the host allows."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions, dirty_bytes=None).sound(RECORD)


def _raised(here: Site, conditions: Conditions, *, dirty_bytes: int | None) -> stand.Stand:
    slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=WRITES_PER_SECOND), dirty_bytes=dirty_bytes)
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    arguments = (str(disk.directory / "records"), str(RECORD_MEGABYTES))
    return stand.raised(here, conditions, app="recorder", on=disk, arguments=arguments)


def _copies(case: stand.Stand) -> Program:
    file = stand.copied(case.site, "copies.py", "copies.py")
    argv = [sys.executable, str(file), str(case.disk.directory), str(COPIERS), str(COPY_MEGABYTES)]
    copies = case.site.start(argv, name="copies")
    copies.wait_ready()
    return copies


def _truth(case: stand.Stand, copies: Program) -> Truth:
    records = str(case.disk.directory / "records")
    return Truth(
        causes=(DIRTY_THROTTLE,),
        may=SEEN_FROM_BELOW,
        who=(stand.who(DIRTY_THROTTLE, copies.pid),),
        path=(TruthStep(kind="io", pid=case.app.pid, path=records), TruthStep(kind="throttle")),
        fix="stop the copies",
    )


DIRTY_THROTTLE_LAB = Lab(
    name="dirty-throttle",
    family="writeback",
    needs=("root", "trace", "slow-disk"),
    seed="004",
    fires=(DIRTY_THROTTLE,),
    silent=("disk.fsync-heavy", "cpu.busy", "redis.aof.fsync-always"),
    play=play,
)
DIRTY_THROTTLE_HEALTHY = Lab(
    name="dirty-throttle-healthy",
    family="writeback",
    needs=("root", "trace", "slow-disk"),
    fires=(),
    silent=(DIRTY_THROTTLE, NEIGHBOUR),
    play=play_healthy,
)
