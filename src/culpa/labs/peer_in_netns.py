"""A service that waits for a server in another network namespace, which sleeps before it answers.

The server is a process of this host, so it is no remote peer: the truth is its sleep. It is a Perl program, of which
no code line is to be had. The twin asks the same server for what it answers at once.
"""

from __future__ import annotations

from culpa.labs import loopdev, netns, ports, stand
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthStep
from culpa.labs.site import Program, Site, opened

SLEEP = "sleep.by-choice"
REMOTE_SLOW = "net.remote-slow"
PAUSE_S = 0.4
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - in a namespace that only this host reaches


def play(conditions: Conditions) -> Played:
    """What the server answers after a pause."""
    with opened(conditions.progress) as here:
        case, peer = _raised(here, conditions)
        truth = Truth(
            causes=(SLEEP,),
            who=(stand.who(SLEEP, peer.pid),),
            path=(TruthStep(kind="peer", pid=peer.pid), TruthStep(kind="sleep", pid=peer.pid)),
            fix="ask /now",
        )
        return case.troubled("later", truth, repaired="now")


def play_healthy(conditions: Conditions) -> Played:
    """What the server answers at once."""
    with opened(conditions.progress) as here:
        case, _ = _raised(here, conditions)
        return case.sound("now")


def _raised(here: Site, conditions: Conditions) -> tuple[stand.Stand, Program]:
    """The front in this namespace, the server behind it in its own."""
    file, port = stand.copied(here, "back.pl", "back.pl"), ports.free_port()
    argv = [loopdev.tool("perl") or "perl", str(file), ANY_ADDRESS, str(port), str(PAUSE_S)]
    peer = netns.start(here, argv, name="back")
    disk = stand.disk(here, conditions, slow=False)
    case = stand.raised(here, conditions, on=disk, app="front", arguments=(peer.address, str(port)))
    case.ready("now")
    return case, peer.program


PEER_IN_NETNS = Lab(
    name="peer-in-netns",
    family="hosts",
    needs=("root", "trace", "ip", "perl"),
    seed=None,
    fires=(SLEEP,),
    silent=(REMOTE_SLOW, "cpu.busy", "disk.fsync-heavy"),
    fast=True,
    play=play,
)
PEER_IN_NETNS_HEALTHY = Lab(
    name="peer-in-netns-healthy",
    family="hosts",
    needs=("root", "trace", "ip", "perl"),
    seed=None,
    fires=(),
    silent=(SLEEP, REMOTE_SLOW),
    fast=True,
    play=play_healthy,
)
