"""A service that asks another program over a new connection each time, and finds its queue full.

That program takes a break every 1.25 s, and accepts nobody meanwhile. Other clients fill the queue as soon as it
begins. Whoever comes then is dropped and asks again after a second, when the break is over: what waits is the kernel's
timer.
The twin has the same clients, and a program that takes no breaks.
"""

from __future__ import annotations

from culpa.labs import loopdev, ports, stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Program, Site, opened

ACCEPT_QUEUE = "net.accept-queue"
ALSO = ("sleep.by-choice",)
"""The break, for those that lie in the queue."""
BACKLOGS = (1, 3)
ROUND_MS = 1250
"""A break, and the time until the next: a second after the beginning of a break there is none."""
BREAKS_MS = (500, 750)
REST_S = 0.015
MORE_VISITORS = 2
"""Than the queue holds."""
LONG_QUEUE = 64
MEASURED_S = 2 * ROUND_MS / 1000


def play(conditions: Conditions) -> Played:
    """A short queue, and breaks."""
    chance = conditions.parameters.chance("accept-queue")
    backlog, break_ms = chance.randint(*BACKLOGS), chance.randint(*BREAKS_MS)
    with opened(conditions.progress) as here:
        case, kiosk, address = _raised(here, conditions, backlog=backlog, visitors=backlog, break_ms=break_ms)
        before = case.longest_seconds("ticket", for_s=MEASURED_S)
        judged = case.judge("ticket", show=True)
        sound, _, _ = _raised(here, conditions, backlog=LONG_QUEUE, visitors=backlog, break_ms=0, name="quick")
        after = sound.longest_seconds("ticket", for_s=MEASURED_S)
        truth = Truth(
            causes=(ACCEPT_QUEUE,),
            may=ALSO,
            who=(stand.who(ACCEPT_QUEUE, kiosk.pid),),
            on=(TruthOn(cause=ACCEPT_QUEUE, peer=address),),
            path=(TruthStep(kind="queued", pid=kiosk.pid),),
            fix="no breaks, and a longer queue",
        )
        measured = Measured(before=before, after_fix=after, longest=True)
        stage = case.stage("as found", "ticket", truth, judged, measured)
        return Played(stages=(stage,), disk=case.disk.kind, drawn={"backlog": backlog, "break_ms": break_ms})


def play_healthy(conditions: Conditions) -> Played:
    """A program that takes no breaks."""
    with opened(conditions.progress) as here:
        case, _, _ = _raised(here, conditions, backlog=LONG_QUEUE, visitors=BACKLOGS[0], break_ms=0)
        return case.sound("tour")


def _raised(
    here: Site, conditions: Conditions, *, backlog: int, visitors: int, break_ms: int, name: str = "slow"
) -> tuple[stand.Stand, Program, str]:
    """The front, the program behind it, and where that listens."""
    perl, port = loopdev.tool("perl") or "perl", ports.free_port()
    scripts = [str(stand.copied(here, file, file)) for file in ("kiosk.pl", "visitors.pl")]
    hours = (str(break_ms / 1000), str((ROUND_MS - break_ms) / 1000))
    kiosk = here.start([perl, scripts[0], str(port), str(backlog), *hours], name=f"kiosk-{name}")
    kiosk.wait_ready()
    crowd = visitors + 1 + MORE_VISITORS
    here.start([perl, scripts[1], str(port), str(crowd), str(REST_S)], name=f"visitors-{name}")
    disk = stand.disk(here, conditions, slow=False)
    case = stand.raised(here, conditions, app="front", on=disk, arguments=(ports.LOOPBACK, str(port)))
    return case, kiosk, f"{ports.LOOPBACK}:{port}"


ACCEPT_QUEUE_LAB = Lab(
    name="accept-queue",
    family="hosts",
    needs=("trace", "perl"),
    fires=(ACCEPT_QUEUE,),
    silent=("net.remote-slow", "net.name-lookup", "app.pool.exhausted", "cpu.busy"),
    play=play,
    fast=False,  # one of twenty runs leaves the wait unexplained, and why is not known yet
)
ACCEPT_QUEUE_HEALTHY = ACCEPT_QUEUE_LAB.healthy(silent=(ACCEPT_QUEUE,), play=play_healthy)
