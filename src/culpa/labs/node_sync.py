"""A service in Node.js that syncs every line it writes, on a slow disk: its event loop waits meanwhile.

The twin writes the same lines without a sync, on the disk that is there.
"""

from __future__ import annotations

from culpa.labs import loopdev, ports, source, stand
from culpa.labs.fsync_loop import FSYNC_HEAVY, SEEN_FROM_BELOW
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
from culpa.labs.perfmap import mapped
from culpa.labs.site import Site, opened

LINES = 100
BOOK = "visits.txt"


def play(conditions: Conditions) -> Played:
    """A sync for each line, on the slow disk."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, slow=True)
        return case.troubled("each", _truth(case), repaired="once")


def play_healthy(conditions: Conditions) -> Played:
    """No sync, on the disk that is there."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions, slow=False).sound("once")


def _raised(here: Site, conditions: Conditions, *, slow: bool) -> stand.Stand:
    """The service, which tells its functions by a perf map, as one would start it to find this out."""
    disk = stand.disk(here, conditions, slow=slow)
    file, port = stand.copied(here, "visits.js", "visits.js"), ports.free_port()
    tells = ("--perf-basic-prof", "--interpreted-frames-native-stack", f"--logfile={here.directory}/v8.log")
    argv = [loopdev.tool("node") or "node", *tells, str(file), str(port), str(disk.directory / BOOK), str(LINES)]
    case = stand.served(here, conditions, argv, file=file, port=port, on=disk)
    here.stack.callback(mapped(case.app.pid).unlink, missing_ok=True)
    return case


def _truth(case: stand.Stand) -> Truth:
    lines = source.script_function(case.app_file, function="signEach")
    line = TruthOn(cause=FSYNC_HEAVY, code=str(lines.file), first_line=lines.first_line, last_line=lines.last_line)
    book = str((case.disk.directory / BOOK).resolve())
    steps = (
        TruthStep(kind="fsync", pid=case.app.pid, path=book),
        TruthStep(kind="device", device=case.disk.device_name),
    )
    traced = case.conditions.trace  # samples alone need not tell the line or the device
    return Truth(
        causes=(FSYNC_HEAVY,),
        may=SEEN_FROM_BELOW,
        who=(stand.who(FSYNC_HEAVY, case.app.pid),),
        on=(TruthOn(cause=FSYNC_HEAVY, path=book), *([line] if traced else [])),
        path=steps if traced else steps[:1],
        fix="ask /once: nothing is synced line by line",
    )


NODE_SYNC = Lab(
    name="node-sync",
    family="applications",
    needs=("node",),
    seed=None,
    fires=(FSYNC_HEAVY,),
    silent=("app.loop.blocked", "net.remote-slow", "cpu.busy", "lock.contention"),
    fast=True,
    play=play,
)
NODE_SYNC_HEALTHY = Lab(
    name="node-sync-healthy",
    family="applications",
    needs=("node",),
    seed=None,
    fires=(),
    silent=(FSYNC_HEAVY,),
    fast=True,
    play=play_healthy,
)
