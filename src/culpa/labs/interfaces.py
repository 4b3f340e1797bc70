"""Network interfaces of this namespace: listed and removed."""

from __future__ import annotations

from pathlib import Path

from culpa.errors import LabError
from culpa.labs import loopdev
from culpa.labs.waiting import wait_until

_LISTED = Path("/sys/class/net")


def exists(name: str) -> bool:
    """Whether there is an interface of that name here."""
    return (_LISTED / name).exists()


def remove(name: str) -> None:
    """Remove an interface with its other end, and wait until it is gone. It may go by itself meanwhile: the end of
    the namespace at its other end takes it along.

    Raises:
        LabError: it would not go.
    """
    try:
        if exists(name):
            loopdev.run_tool("ip", "link", "delete", name)
    except LabError:
        if exists(name):
            raise
    wait_until(lambda: not exists(name), what=f"{name} to go")
