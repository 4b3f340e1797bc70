"""Several processes behind one port: what each of them does is one cause, whoever got the request.

Two stages: workers forked after the port was opened, which sync every line they write, and workers that each open it
(SO_REUSEPORT), which sleep. The twin asks the same workers for what does neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from culpa.labs import slowdisk, source, stand
from culpa.labs.fsync_loop import FSYNC_HEAVY, SEEN_FROM_BELOW
from culpa.labs.lab import Conditions, Lab, Measured, Played, Stage, Truth, TruthOn, TruthStep
from culpa.labs.site import Program, Site, opened
from culpa.labs.sleep_by_choice import SLEEP
from culpa.labs.stand import FAST_REQUESTS
from culpa.labs.waiting import wait_until

WORKERS = 3
LINES = 20
JOURNAL = "journal.txt"
Share = Literal["forked", "reuseport"]
SHARES: tuple[Share, ...] = ("forked", "reuseport")


def play(conditions: Conditions) -> Played:
    """Every line synced on the slow disk, by forked workers; a sleep, by workers with a socket each."""
    with opened(conditions.progress) as here:
        disk = stand.disk(here, conditions, slow=True)
        forked, apart = (_raised(here, conditions, disk, share) for share in SHARES)
        stages = (_stage(forked, "forked", "each", _synced(forked)), _stage(apart, "reuseport", "rest", _slept(apart)))
        return Played(stages=stages, disk=disk.kind)


def play_healthy(conditions: Conditions) -> Played:
    """Nothing synced, on the disk that is there."""
    with opened(conditions.progress) as here:
        disk = stand.disk(here, conditions, slow=False)
        stages = [_raised(here, conditions, disk, share).sound("once").stages[0] for share in SHARES]
        return Played(stages=tuple(stages), disk=disk.kind)


def _raised(here: Site, conditions: Conditions, disk: slowdisk.Disk, share: Share) -> stand.Stand:
    script = stand.copied(here, "crew.py", f"{share}.py")
    arguments = ("--workers", str(WORKERS), "--share", share, str(disk.directory / JOURNAL), str(LINES))
    case = stand.started(here, conditions, script, on=disk, arguments=arguments, name=share)
    wait_until(lambda: len(_workers(case.app)) == WORKERS, what="the workers")
    for pid in _workers(case.app):
        disk.admit(pid)
    return case


def _workers(program: Program) -> list[int]:
    program.require_running()
    return [int(pid) for pid in Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()]


def _stage(case: stand.Stand, name: Share, action: str, truth: Truth) -> Stage:
    before = case.seconds(action)
    judged = case.judge(action)
    measured = Measured(before=before, after_fix=case.seconds("once", requests=FAST_REQUESTS))
    return case.stage(name, action, truth, judged, measured)


def _synced(case: stand.Stand) -> Truth:
    """All workers must be named in the evidence of the one cause; whose part is the largest is left to chance."""
    journal = str((case.disk.directory / JOURNAL).resolve())
    return Truth(
        causes=(FSYNC_HEAVY,),
        may=SEEN_FROM_BELOW,
        bystanders=tuple(stand.who(FSYNC_HEAVY, pid) for pid in _workers(case.app)),
        on=(TruthOn(cause=FSYNC_HEAVY, path=journal), _line(case, FSYNC_HEAVY, "append_each", "fsync")),
        path=(TruthStep(kind="fsync", path=journal), TruthStep(kind="device", device=case.disk.device_name)),
        fix="ask /once: nothing is synced line by line",
    )


def _slept(case: stand.Stand) -> Truth:
    return Truth(
        causes=(SLEEP,),
        bystanders=tuple(stand.who(SLEEP, pid) for pid in _workers(case.app)),
        on=(_line(case, SLEEP, "rest", "sleep"),),
        path=(TruthStep(kind="sleep"),),
        fix="ask /once: it does not rest",
    )


def _line(case: stand.Stand, cause: str, function: str, method: str) -> TruthOn:
    lines = source.call_lines(case.app_file, function=function, method=method)
    return lines.named_in(cause)


PREFORK = Lab(
    name="prefork",
    family="hosts",
    needs=("root", "trace", "slow-disk"),
    fires=(FSYNC_HEAVY, SLEEP),
    silent=("net.remote-slow", "cpu.busy"),
    play=play,
)
PREFORK_HEALTHY = Lab(
    name="prefork-healthy",
    family="hosts",
    needs=("trace",),
    fires=(),
    silent=(FSYNC_HEAVY, SLEEP),
    play=play_healthy,
)
