"""A service in Perl that looks a name up for every request, and a name server that answers late.

It lies on an address of loopback of the lab's own; only the service has it in its /etc/resolv.conf. It answers after a
pause, or not before a question is repeated. The twin looks up a name that is answered at once, each time as well.
"""

from __future__ import annotations

import random
from pathlib import Path

from culpa.labs import loopdev, ports, stand
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

NAME_LOOKUP = "net.name-lookup"
HABITS = ("late", "lost")
AGAIN_AFTER_S = 1
"""After which the service's resolver repeats its question; whole seconds."""
PAUSES_MS = (200, 700)
IN_ITS_OWN_ROOM = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


def play(conditions: Conditions) -> Played:
    """A name of which the answer comes late."""
    with opened(conditions.progress) as here:
        case, server = _raised(here, conditions)
        truth = Truth(
            causes=(NAME_LOOKUP,),
            who=(stand.who(NAME_LOOKUP, case.app.pid),),
            on=(TruthOn(cause=NAME_LOOKUP, peer=f"{server}:53"),),
            path=(TruthStep(kind="remote", pid=case.app.pid),),
            fix="ask /near",
        )
        return case.troubled("far", truth, repaired="near")


def play_healthy(conditions: Conditions) -> Played:
    """A name of which the answer comes at once."""
    with opened(conditions.progress) as here:
        case, _ = _raised(here, conditions)
        return case.sound("ring")


def _raised(here: Site, conditions: Conditions) -> tuple[stand.Stand, str]:
    """The service, and the address of its name server."""
    chance = conditions.parameters.chance("name-lookup")
    server, room = registered(here, chance)
    perl, port = loopdev.tool("perl") or "perl", ports.free_port()
    file, domain = stand.copied(here, "switchboard.pl", "switchboard.pl"), f"lines{chance.randrange(10**6)}.test"
    disk = stand.disk(here, conditions, slow=False)
    argv = [*room, perl, str(file), str(port), domain]
    return stand.served(here, conditions, argv, file=file, port=port, on=disk), server


def registered(here: Site, chance: random.Random) -> tuple[str, list[str]]:
    """Start a name server; its address, and the command by which a program is started that asks there."""
    server = ".".join(["127", *(str(chance.randint(1, 254)) for _ in range(3))])
    pause_s, habit = chance.randint(*PAUSES_MS) / 1000, chance.choice(HABITS)
    registry = stand.copied(here, "registry.pl", "registry.pl")
    argv = [loopdev.tool("perl") or "perl", str(registry), server, str(pause_s), habit]
    here.start(argv, name="registry").wait_ready()
    settings = _resolver_settings(here.directory, server)
    unshare = loopdev.tool("unshare") or "unshare"
    return server, [unshare, "--mount", "sh", "-c", IN_ITS_OWN_ROOM, "sh", str(settings)]


def _resolver_settings(directory: Path, server: str) -> Path:
    """A resolv.conf that names the server."""
    file = directory / "resolv.conf"
    file.write_text(f"nameserver {server}\noptions timeout:{AGAIN_AFTER_S} attempts:3\n")
    return file


NAME_LOOKUP_LAB = Lab(
    name="name-lookup",
    family="hosts",
    needs=("root", "trace", "perl"),
    fires=(NAME_LOOKUP,),
    silent=("net.remote-slow", "sleep.by-choice", "cpu.busy"),
    play=play,
)
NAME_LOOKUP_HEALTHY = NAME_LOOKUP_LAB.healthy(silent=(NAME_LOOKUP, "net.remote-slow"), play=play_healthy)
