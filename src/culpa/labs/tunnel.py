"""Another host at the end of a tunnel: a program that answers the packets of a TUN device.

To the kernel it is as remote as any: no socket here holds its address. Device and routes end with the program,
whatever ends the lab.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from culpa.labs import interfaces, ledger, loopdev, stand
from culpa.labs.places import PREFIX
from culpa.labs.site import Program, Site
from culpa.labs.waiting import wait_until

HERE = "198.18.0.5"
THERE = "198.18.0.6"
PREFIX_LENGTH = 30
"""198.18.0.0/15 is set aside for tests within one host or laboratory (RFC 2544)."""
PROGRAM = "distant_host.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What gets lost on the way to another port of the host: each copy by that chance, drawn from the seed."""

    port: int
    what: Literal["question", "connection"]
    chance: float
    seed: int

    @property
    def words(self) -> list[str]:
        """As the program takes them."""
        return [str(self.port), self.what, str(self.chance), str(self.seed)]


def mend(host: Program) -> None:
    """From now on nothing gets lost."""
    os.kill(host.pid, signal.SIGUSR1)


@contextmanager
def distant_host(site: Site, *, port: int, pause_s: float, loss: Loss | None = None) -> Iterator[Program]:
    """The program behind `THERE`, reachable from here; `port` is where it answers, over a way that loses nothing.

    Raises:
        LabError: this host does not allow it.
    """
    device = f"{PREFIX}{site.name[-4:]}"  # 14 of at most 15 characters
    site.ledger.note(ledger.Interface(name=device))
    argv = [sys.executable, str(stand.copied(site, PROGRAM, PROGRAM)), device, THERE, str(port), str(pause_s)]
    argv += loss.words if loss else []
    program = site.start(argv, name="distant-host")
    try:
        wait_until(lambda: _made(program, device), what=f"{device} to be made")
        loopdev.run_tool("ip", "address", "add", f"{HERE}/{PREFIX_LENGTH}", "dev", device)
        loopdev.run_tool("ip", "link", "set", device, "up")
        yield program
    finally:
        program.stop()
        interfaces.remove(device)


def _made(program: Program, device: str) -> bool:
    program.require_running()
    return interfaces.exists(device)
