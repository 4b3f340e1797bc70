"""A service in Perl that has its file open with O_DSYNC, on a slow disk: every write waits, and no call is named sync.

The twin writes the same receipts to a file that is open without, on the disk that is there.
"""

from __future__ import annotations

from culpa.labs import loopdev, ports, stand
from culpa.labs.fsync_loop import FSYNC_HEAVY, SEEN_FROM_BELOW
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

SYNC_OPEN = "app.io.sync-open"
RECEIPTS = 100
BOOK = "receipts"


def play(conditions: Conditions) -> Played:
    """Each write is synced, on the slow disk."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, slow=True)
        return case.troubled("each", _truth(case), repaired="once")


def play_healthy(conditions: Conditions) -> Played:
    """No write is synced, on the disk that is there."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions, slow=False).sound("once")


def _raised(here: Site, conditions: Conditions, *, slow: bool) -> stand.Stand:
    disk = stand.disk(here, conditions, slow=slow)
    file, port = stand.copied(here, "till.pl", "till.pl"), ports.free_port()
    argv = [loopdev.tool("perl") or "perl", str(file), str(port), str(disk.directory / BOOK), str(RECEIPTS)]
    return stand.served(here, conditions, argv, file=file, port=port, on=disk)


def _truth(case: stand.Stand) -> Truth:
    book = str((case.disk.directory / BOOK).resolve())
    return Truth(
        causes=(SYNC_OPEN,),
        may=(FSYNC_HEAVY, *SEEN_FROM_BELOW),  # one sync for many writes would do as well
        who=(stand.who(SYNC_OPEN, case.app.pid),),
        on=(TruthOn(cause=SYNC_OPEN, path=book),),
        path=(
            TruthStep(kind="fsync", pid=case.app.pid, path=book),
            TruthStep(kind="device", device=case.disk.device_name),
        ),
        fix="ask /once: the file is open without O_DSYNC",
    )


SYNC_OPEN_LAB = Lab(
    name="sync-open",
    family="applications",
    needs=("trace", "perl"),
    fires=(SYNC_OPEN,),
    silent=("app.io.small-writes", "app.log.flood", "net.remote-slow", "cpu.busy"),
    play=play,
)
SYNC_OPEN_HEALTHY = SYNC_OPEN_LAB.healthy(silent=(SYNC_OPEN, FSYNC_HEAVY), play=play_healthy)
