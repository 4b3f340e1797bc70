"""A service that asks another program over a new connection each time, and finds its queue full half of the time.

That program accepts what has come together only after each of its shifts. Other clients fill the queue in the second
half of every shift, so that a connection either gets in early, or is dropped and asked for again after a second. The
twin has the same clients, and a program that accepts at once.
"""

from __future__ import annotations

from culpa.labs import loopdev, ports, stand
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Program, Site, opened

ACCEPT_QUEUE = "net.accept-queue"
ALSO = ("sleep.by-choice", "app.loop.blocked")
"""What the program does while those that got in wait in its queue."""
BACKLOGS = (1, 4)
SHIFTS_MS = (240, 340)
MORE_VISITORS = 3
"""Than the queue holds."""
LONG_QUEUE = 64


def play(conditions: Conditions) -> Played:
    """A short queue and long shifts."""
    chance = conditions.parameters.chance("accept-queue")
    backlog, shift_s = chance.randint(*BACKLOGS), chance.randint(*SHIFTS_MS) / 1000
    with opened(conditions.progress) as here:
        case, kiosk, address = _raised(here, conditions, backlog=backlog, shift_s=shift_s, rest_s=shift_s / 2)
        before = case.seconds("ticket")
        judged = case.judge("ticket", show=True)
        sound, _, _ = _raised(here, conditions, backlog=LONG_QUEUE, shift_s=0, rest_s=shift_s / 2, name="quick")
        after = sound.seconds("ticket", requests=stand.FAST_REQUESTS)
        truth = Truth(
            causes=(ACCEPT_QUEUE,),
            may=ALSO,
            who=(stand.who(ACCEPT_QUEUE, kiosk.pid),),
            on=(TruthOn(cause=ACCEPT_QUEUE, peer=address),),
            path=(TruthStep(kind="queued", pid=kiosk.pid),),
            fix="accept at once, and a longer queue",
        )
        stage = case.stage("as found", "ticket", truth, judged, Measured(before=before, after_fix=after))
        return Played(stages=(stage,), disk=case.disk.kind, drawn={"backlog": backlog})


def play_healthy(conditions: Conditions) -> Played:
    """A program that accepts at once."""
    with opened(conditions.progress) as here:
        case, _, _ = _raised(here, conditions, backlog=LONG_QUEUE, shift_s=0, rest_s=SHIFTS_MS[0] / 2000)
        return case.sound("ticket")


def _raised(
    here: Site, conditions: Conditions, *, backlog: int, shift_s: float, rest_s: float, name: str = "slow"
) -> tuple[stand.Stand, Program, str]:
    """The front, the program behind it, and where that listens."""
    perl, port = loopdev.tool("perl") or "perl", ports.free_port()
    scripts = [str(stand.copied(here, file, file)) for file in ("kiosk.pl", "visitors.pl")]
    kiosk = here.start([perl, scripts[0], str(port), str(backlog), str(shift_s)], name=f"kiosk-{name}")
    kiosk.wait_ready()
    visitors = min(backlog, BACKLOGS[1]) + 1 + MORE_VISITORS
    here.start([perl, scripts[1], str(port), str(visitors), str(rest_s)], name=f"visitors-{name}")
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
)
ACCEPT_QUEUE_HEALTHY = ACCEPT_QUEUE_LAB.healthy(silent=(ACCEPT_QUEUE,), play=play_healthy)
