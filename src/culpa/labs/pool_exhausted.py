"""A service with a few workers, which other clients keep waiting for a colleague; the twin has workers enough."""

from __future__ import annotations

import sys

from culpa.labs import slowdisk, source, stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthStep
from culpa.labs.site import Site, opened

EXHAUSTED = "app.pool.exhausted"
QUICK, SLOW = "stamp", "consult"
REQUESTS = 5
MORE_CLIENTS = 2
"""Than there are workers, so that the queue is never empty."""


def play(conditions: Conditions) -> Played:
    """Two to four workers, each taken for a while by those who ask before; the repair is more of them."""
    chance = conditions.parameters.chance("pool-exhausted")
    desks, wait_ms = chance.randrange(2, 5), chance.randrange(60, 120)
    clients = desks + MORE_CLIENTS
    with opened(conditions.progress) as here:
        case = raised(here, conditions, desks=desks, wait_ms=wait_ms, clients=clients, name="few")
        verdict = case.judge(QUICK)  # first, so that the others are well under way when the clock runs
        before = case.seconds(QUICK, requests=REQUESTS)
        repaired = raised(here, conditions, desks=2 * clients, wait_ms=wait_ms, clients=clients, name="enough")
        measured = Measured(before=before, after_fix=repaired.seconds(QUICK, requests=REQUESTS))
        stage = case.stage("as found", QUICK, _truth(case), verdict, measured)
        return Played(stages=(stage,), disk=case.disk.kind, drawn={"desks": desks, "wait_ms": wait_ms})


def play_healthy(conditions: Conditions) -> Played:
    """The other clients wait as long for their answers, but some workers are free."""
    with opened(conditions.progress) as here:
        return raised(here, conditions, desks=10, wait_ms=80, clients=4, name="enough").sound(QUICK)


def raised(
    here: Site,
    conditions: Conditions,
    *,
    desks: int,
    wait_ms: int,
    clients: int,
    name: str,
    on: slowdisk.Disk | None = None,
    register: tuple[str, ...] = (),
) -> stand.Stand:
    """The service, and other clients, which never stop asking; `register` is where each stamp is entered, in so many
    rows, on that disk.
    """
    disk = on or slowdisk.ordinary_disk(here)
    script = stand.copied(here, "desks.py", "app.py")
    arguments = (str(desks), str(wait_ms), *register)
    case = stand.started(here, conditions, script, on=disk, arguments=arguments, name=f"app-{name}")
    asker = stand.copied(here, "asker.py", "asker.py")
    for number in range(clients):
        here.start([sys.executable, str(asker), f"{case.url}/{SLOW}"], name=f"asker-{name}-{number}")
    return case


def _truth(case: stand.Stand) -> Truth:
    lines = source.function_lines(case.app_file, function=SLOW)
    line = lines.named_in(EXHAUSTED)
    return Truth(
        causes=(EXHAUSTED,),
        may=("cpu.runqueue",),
        who=(stand.who(EXHAUSTED, case.app.pid),),
        on=(line,),
        path=(TruthStep(kind="queued", pid=case.app.pid), TruthStep(kind="sleep", pid=case.app.pid)),
        fix="more workers",
    )


POOL_EXHAUSTED = Lab(
    name="pool-exhausted",
    family="applications",
    needs=("trace",),
    fires=(EXHAUSTED,),
    silent=("app.loop.blocked", "sleep.by-choice", "lock.contention", "disk.fsync-heavy", "net.remote-slow"),
    play=play,
)
POOL_EXHAUSTED_HEALTHY = POOL_EXHAUSTED.healthy(silent=(EXHAUSTED, "app.loop.blocked"), play=play_healthy)
