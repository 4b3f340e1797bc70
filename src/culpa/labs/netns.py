"""A network namespace of the lab's own: it lives in a program, and a pair of virtual interfaces leads into it.

No name is given to the namespace, so it ends with the program, and the pair with it, whatever ends the lab. What a
killed lab leaves is therefore only the program, and an interface with the prefix for as long as that lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from culpa.labs import interfaces, ledger, loopdev
from culpa.labs.places import PREFIX
from culpa.labs.site import Program, Site
from culpa.labs.waiting import wait_until

HERE = "198.18.0.1"
THERE = "198.18.0.2"
PREFIX_LENGTH = 30
"""198.18.0.0/15 is set aside for tests within one host or laboratory (RFC 2544)."""
INSIDE = "inside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A program in its own network namespace, reached at `address`."""

    program: Program
    address: str


def start(site: Site, argv: list[str], *, name: str) -> Neighbour:
    """Start a program in a network namespace of its own; it and its interfaces are gone with the site.

    The program must listen on all addresses: its own is given to it a moment after it starts.

    Raises:
        LabError: a tool is missing, or this host does not allow it.
    """
    unshare = loopdev.tool("unshare") or "unshare"
    program = site.start([unshare, "--net", *argv], name=name)
    _wait_apart(program)
    site.stack.enter_context(_linked(program.pid, site))
    return Neighbour(program=program, address=THERE)


def _wait_apart(program: Program) -> None:
    """Until `unshare` has left this namespace; it keeps its pid when it becomes the program."""

    def apart() -> bool:
        program.require_running()
        return Path(f"/proc/{program.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()

    wait_until(apart, what="the network namespace")


@contextmanager
def _linked(pid: int, site: Site) -> Iterator[None]:
    """A pair of interfaces, one here and one in the namespace of `pid`, with an address each."""
    outside = f"{PREFIX}{site.name[-4:]}"  # 14 of at most 15 characters
    site.ledger.note(ledger.Interface(name=outside))
    try:
        with site.endings.deferred():
            loopdev.run_tool("ip", "link", "add", outside, "type", "veth", "peer", "name", INSIDE, "netns", str(pid))
        loopdev.run_tool("ip", "address", "add", f"{HERE}/{PREFIX_LENGTH}", "dev", outside)
        loopdev.run_tool("ip", "link", "set", outside, "up")
        inside = ("--target", str(pid), "--net", "ip")
        loopdev.run_tool("nsenter", *inside, "address", "add", f"{THERE}/{PREFIX_LENGTH}", "dev", INSIDE)
        loopdev.run_tool("nsenter", *inside, "link", "set", INSIDE, "up")
        yield
    finally:
        interfaces.remove(outside)
