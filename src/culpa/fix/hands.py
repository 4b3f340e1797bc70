"""What changes things: the interface of a hand, and who or what a target was when a record was written.

A hand reads the present state of one target, sets it, and knows how a person would. It decides nothing: whether a value
is somebody else's, and what is then done, is `run.py`'s.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import msgspec

from culpa.errors import CulpaError
from culpa.fix.parameters import RedisSetting, State

CLOCKS_SECONDS: Final = 2.0
"""Clocks that count whole seconds, and the wall clock that a window's start was taken from, agree within this."""


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which one it was: the boot of this host, the start of a process, a Redis server's name for its own process, the
    inode of a control group's directory.
    """

    boot_id: str = ""
    starttime: int = 0
    run_id: str = ""
    inode: int = 0


Standing = Literal["same", "gone", "unclear"]
"""Of a target now, against one noted before; `gone`: what was set is gone with it."""


class Unreachable(CulpaError):
    """The target cannot be asked or told; what it is set to is not known."""


class Refused(CulpaError):
    """The target does not take a value; how far it was changed has to be read."""


class Hand(Protocol):
    """One target."""

    def identity(self) -> Identity:
        """Which one it is. Raises Unreachable."""
        ...

    def standing(self, noted: Identity, at_unix: float) -> tuple[Standing, str]:
        """Whether it is the one that was noted at that time, with a sentence where it is not. Raises Unreachable."""
        ...

    def stale(self, seen_unix: float) -> str | None:
        """Why a verdict of that time is not about it. Raises Unreachable."""
        ...

    def obstacle(self) -> str | None:
        """Why it cannot be set here, as far as that is known without setting it. Raises Unreachable."""
        ...

    def read(self) -> State:
        """What it is set to. Raises Unreachable."""
        ...

    def plan(self, before: State) -> State:
        """What `read` will give once the fix is applied."""
        ...

    def goal(self, before: State, during: State, now: State) -> State:
        """What is to be written so that it is as `before` again: parts that are gone left out, new ones included."""
        ...

    def write(self, wanted: State) -> None:
        """Set it. Raises Refused, Unreachable."""
        ...

    def by_hand(self, wanted: State) -> tuple[str, ...]:
        """The same as command lines for a shell."""
        ...

    def lasts(self) -> str:
        """What ends it besides an undo, in words."""
        ...

    def close(self) -> None:
        """It is no longer needed."""
        ...


class Server(Protocol):
    """A connection to a Redis server."""

    def ask(self, *commands: tuple[str, ...]) -> list[object]:
        """One reply for each: bytes, numbers, lists, or the error that refuses it. Raises Unreachable."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Connects(Protocol):
    """Opens a connection to the server that parameters name. Raises Unreachable."""

    def __call__(self, parameters: RedisSetting) -> Server:
        """Over TLS and as a user where they say so; passwords are the caller's."""
        ...
