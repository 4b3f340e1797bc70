"""A service that waits for another host. The twin asks the same host for what it answers at once."""

from __future__ import annotations

from culpa.labs import ports, stand, tunnel
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

REMOTE_SLOW = "net.remote-slow"
PAUSE_S = 0.4


def play(conditions: Conditions) -> Played:
    """What the other host answers after a pause."""
    with opened(conditions.progress) as here:
        case, peer = _raised(here, conditions)
        return case.troubled("later", truth_of(case, peer), repaired="now")


def truth_of(case: stand.Stand, peer: str) -> Truth:
    """The service waits for that host, which answers late."""
    return Truth(
        causes=(REMOTE_SLOW,),
        who=(stand.who(REMOTE_SLOW, case.app.pid),),
        on=(TruthOn(cause=REMOTE_SLOW, peer=peer),),
        path=(TruthStep(kind="remote", pid=case.app.pid),),
        fix="ask /now",
    )


def play_healthy(conditions: Conditions) -> Played:
    """What the other host answers at once."""
    with opened(conditions.progress) as here:
        case, _ = _raised(here, conditions)
        return case.sound("now")


def _raised(here: Site, conditions: Conditions) -> tuple[stand.Stand, str]:
    """The front on this host, and the other host's address and port."""
    port = ports.free_port()
    here.stack.enter_context(tunnel.distant_host(here, port=port, pause_s=PAUSE_S))
    disk = stand.disk(here, conditions, slow=False)
    case = stand.raised(here, conditions, app="front", on=disk, arguments=(tunnel.THERE, str(port)))
    case.ready("now")
    return case, f"{tunnel.THERE}:{port}"


LAB_REMOTE_SLOW = Lab(
    name="remote-slow",
    family="hosts",
    needs=("root", "trace", "ip", "tun"),
    fires=(REMOTE_SLOW,),
    silent=("sleep.by-choice", "cpu.busy", "disk.fsync-heavy"),
    play=play,
)
LAB_REMOTE_SLOW_HEALTHY = LAB_REMOTE_SLOW.healthy(silent=(REMOTE_SLOW,), play=play_healthy)
