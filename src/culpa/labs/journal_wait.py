"""A service that only renames files, on a file system whose journal another program makes commit all the time.

Neither shares a file or a folder with the other. The repair, and the twin, is that the other program is at rest; in the
twin nothing holds the disk back either.
"""

from __future__ import annotations

import sys

from culpa.labs import slowdisk, stand, throttle
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Program, Site, opened

JOURNAL_WAIT = "fs.journal-wait"
SEEN_FROM_BELOW = ("disk.neighbour", "disk.slow-device", "disk.saturated", "disk.cgroup-throttle", "cpu.busy")
"""The same slow disk, the same other program, and what hundreds of renames take by themselves."""
BYTES_PER_SECOND = 1 << 20
BOXES = 24
"""Each has metadata of its own, so that a sync makes the journal write some seventy blocks, one after the other."""
UNLIMITED = 10 << 30
LETTERS = 400
RESTING_MS = 2000
SORT = "sort"
REQUESTS = 7


def play(conditions: Conditions) -> Played:
    """Beside deliveries that are synced one by one."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, bytes_per_second=BYTES_PER_SECOND)
        other = _deliveries(case, every_ms=0)
        truth, judged = _truth(case, other), case.judge(SORT)  # first: until then the disk has some writes to spare
        before = case.seconds(SORT, requests=REQUESTS)
        other.require_running()
        other.stop()
        conditions.progress("the deliveries have ended")
        after = case.seconds(SORT, requests=REQUESTS)
        stage = case.stage("as found", SORT, truth, judged, Measured(before=before, after_fix=after))
        return Played(stages=(stage,), disk=case.disk.kind)


def play_healthy(conditions: Conditions) -> Played:
    """Beside deliveries now and then."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, bytes_per_second=UNLIMITED)
        _deliveries(case, every_ms=RESTING_MS)
        return case.sound(SORT)


def _raised(here: Site, conditions: Conditions, *, bytes_per_second: int) -> stand.Stand:
    slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=bytes_per_second, unit="bytes"))
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    conditions.progress(f"slow disk: {disk.device} on {disk.directory}, {slowness.rate}")
    return stand.raised(
        here, conditions, app="letters", on=disk, arguments=(str(disk.directory / "post"), str(LETTERS))
    )


def _deliveries(case: stand.Stand, *, every_ms: int) -> Program:
    folder = case.disk.directory / "deliveries"
    folder.mkdir()
    file = stand.copied(case.site, "deliveries.py", "deliveries.py")
    program = case.site.start([sys.executable, str(file), str(folder), str(BOXES), str(every_ms)], name="deliveries")
    case.disk.admit(program.pid)
    return program


def _truth(case: stand.Stand, other: Program) -> Truth:
    return Truth(
        causes=(JOURNAL_WAIT,),
        may=SEEN_FROM_BELOW,
        who=(stand.who(JOURNAL_WAIT, other.pid),),
        on=(TruthOn(cause=JOURNAL_WAIT, device=case.disk.device_name),),
        path=(TruthStep(kind="io", pid=case.app.pid), TruthStep(kind="journal")),
        fix="let the deliveries be synced now and then",
    )


JOURNAL_WAIT_LAB = Lab(
    name="journal-wait",
    family="writeback",
    needs=("root", "trace", "slow-disk"),
    seed="002",
    fires=(JOURNAL_WAIT,),
    silent=("disk.fsync-heavy", "app.files.temp-churn", "lock.contention"),
    fast=True,
    play=play,
)
JOURNAL_WAIT_HEALTHY = Lab(
    name="journal-wait-healthy",
    family="writeback",
    needs=("root", "trace", "slow-disk"),
    seed=None,
    fires=(),
    silent=(JOURNAL_WAIT,),
    fast=True,
    play=play_healthy,
)
