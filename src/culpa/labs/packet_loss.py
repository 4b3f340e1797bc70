"""A service that asks another host over a way on which segments get lost: questions, or what asks for a connection.

In the twin, and in the lab in which the other host is slow, the service asks over a way that loses nothing; a thread of
it that no request waits for talks to the same host over the one that does.
"""

from __future__ import annotations

from typing import Literal

from culpa.labs import ports, remote_slow, stand, tunnel
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.remote_slow import PAUSE_S, REMOTE_SLOW
from culpa.labs.site import Program, Site, opened

NET_LOSS = "net.loss"
LOST: tuple[Literal["question", "connection"], ...] = ("question", "connection")
CHANCE_PERCENT = (50, 75)
"""Of each copy: a request loses one to three of them in the mean."""
SLOW_REQUESTS = 5


def play(conditions: Conditions) -> Played:
    """Over the way that loses segments; the repair is one that does not."""
    with opened(conditions.progress) as here:
        case, host, loss, _ = _raised(here, conditions, lossy=True)
        before = case.seconds("now", requests=SLOW_REQUESTS)
        truth = Truth(
            causes=(NET_LOSS,),
            who=(stand.who(NET_LOSS, case.app.pid),),
            on=(TruthOn(cause=NET_LOSS, peer=f"{tunnel.THERE}:{loss.port}"),),
            path=(TruthStep(kind="remote", pid=case.app.pid),),
            fix="lose nothing on the way there",
        )
        judged = case.judge("now", show=True)
        tunnel.mend(host)
        after = case.seconds("now", requests=stand.FAST_REQUESTS)
        stage = case.stage("as found", "now", truth, judged, Measured(before=before, after_fix=after))
        drawn = {"connection": int(loss.what == "connection"), "percent": round(100 * loss.chance)}
        return Played(stages=(stage,), disk=case.disk.kind, drawn=drawn)


def play_beside(conditions: Conditions) -> Played:
    """The host answers late, and nothing that a request waits for is lost."""
    with opened(conditions.progress) as here:
        case, _, _, peer = _raised(here, conditions, lossy=False)
        return case.troubled("later", remote_slow.truth_of(case, peer), repaired="now")


def play_healthy(conditions: Conditions) -> Played:
    """The host answers at once, and nothing that a request waits for is lost."""
    with opened(conditions.progress) as here:
        case, *_ = _raised(here, conditions, lossy=False)
        return case.sound("now")


def play_mended(conditions: Conditions) -> Played:
    """The host answers at once, and nothing is lost any more."""
    with opened(conditions.progress) as here:
        case, host, *_ = _raised(here, conditions, lossy=False)
        tunnel.mend(host)
        return case.sound("now")


def _raised(here: Site, conditions: Conditions, *, lossy: bool) -> tuple[stand.Stand, Program, tunnel.Loss, str]:
    """The front, the other host, what is lost on one of the ways there, and the end of the other one.

    Requests go over the `lossy` way, or else a thread beside them does.
    """
    chance = conditions.parameters.chance("packet-loss")
    what = chance.choice(LOST)
    clean, bad = ports.free_port(), ports.free_port()
    loss = tunnel.Loss(
        port=bad, what=what, chance=chance.randint(*CHANCE_PERCENT) / 100, seed=conditions.parameters.seed
    )
    host = here.stack.enter_context(tunnel.distant_host(here, port=clean, pause_s=PAUSE_S, loss=loss))
    disk = stand.disk(here, conditions, slow=False)
    ways = (str(bad),) if lossy else (str(clean), str(bad))
    case = stand.raised(here, conditions, app="front", on=disk, arguments=(tunnel.THERE, *ways))
    case.ready("now")
    return case, host, loss, f"{tunnel.THERE}:{clean}"


PACKET_LOSS_LAB = Lab(
    name="packet-loss",
    family="hosts",
    needs=("root", "trace", "ip", "tun"),
    fires=(NET_LOSS,),
    silent=(REMOTE_SLOW, "net.accept-queue", "sleep.by-choice", "cpu.busy"),
    play=play,
)
PACKET_LOSS_BESIDE = Lab(
    name="packet-loss-beside",
    family="hosts",
    needs=("root", "trace", "ip", "tun"),
    fires=(REMOTE_SLOW,),
    silent=(NET_LOSS, "net.accept-queue", "sleep.by-choice", "cpu.busy"),
    play=play_beside,
)
PACKET_LOSS_HEALTHY = PACKET_LOSS_LAB.healthy(silent=(NET_LOSS, REMOTE_SLOW), play=play_healthy)
PACKET_LOSS_BESIDE_HEALTHY = PACKET_LOSS_BESIDE.healthy(silent=(NET_LOSS, REMOTE_SLOW), play=play_mended)
