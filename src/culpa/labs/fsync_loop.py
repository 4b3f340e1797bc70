"""A service that commits every row to SQLite by itself, on a slow disk: each commit syncs several files.

The twin adds the same rows in one transaction, on the disk that is there.
"""

from __future__ import annotations

from culpa.labs import source, stand
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

FSYNC_HEAVY = "disk.fsync-heavy"
SEEN_FROM_BELOW = ("disk.cgroup-throttle", "disk.slow-device", "fs.journal-wait")
"""The lab's own throttle, and what a sync that waits for it looks like from the file system and the disk."""
ROWS = 100
DATABASE = "notes.sqlite"


def play(conditions: Conditions) -> Played:
    """A commit for each row, on the slow disk."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, slow=True)
        return case.troubled("one_by_one", _truth(case), repaired="together")


def play_healthy(conditions: Conditions) -> Played:
    """One commit for all rows."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions, slow=False).sound("together")


def _raised(here: Site, conditions: Conditions, *, slow: bool) -> stand.Stand:
    disk = stand.disk(here, conditions, slow=slow)
    arguments = (str(disk.directory / DATABASE), str(ROWS))
    return stand.raised(here, conditions, app="notes", on=disk, arguments=arguments)


def _truth(case: stand.Stand) -> Truth:
    lines = source.call_lines(case.app_file, function="one_by_one", method="commit")
    line = lines.named_in(FSYNC_HEAVY)
    database = str((case.disk.directory / DATABASE).resolve())
    synced = TruthOn(cause=FSYNC_HEAVY, path=f"{database}-journal", or_path=database)  # two short syncs and a long one
    steps = (TruthStep(kind="fsync", pid=case.app.pid), TruthStep(kind="device", device=case.disk.device_name))
    traced = case.conditions.trace  # samples alone need not tell the line or the device
    return Truth(
        causes=(FSYNC_HEAVY,),
        may=SEEN_FROM_BELOW,
        who=(stand.who(FSYNC_HEAVY, case.app.pid),),
        on=(synced, *([line] if traced else [])),
        path=steps if traced else steps[:1],
        fix="ask /together: one transaction for all rows",
    )


FSYNC_LOOP = Lab(
    name="fsync-loop",
    family="applications",
    needs=(),
    fires=(FSYNC_HEAVY,),
    silent=("redis.aof.fsync-always", "app.redis.write-in-read-path", "app.redis.round-trips", "net.remote-slow"),
    play=play,
)
FSYNC_LOOP_HEALTHY = FSYNC_LOOP.healthy(silent=(FSYNC_HEAVY,), play=play_healthy)
