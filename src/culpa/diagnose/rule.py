"""A rule: data and one pure function from the picture to findings; and its four possible answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NewType

from culpa.capture.columns import Table
from culpa.diagnose.finding import Finding, Unseen
from culpa.diagnose.picture import Picture

Lab = NewType("Lab", str)
"""The name of a lab; labs lie above this room, so only their names are known here."""

Check = Callable[[Picture], Iterator[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """The rule found something."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear:
    """The rule looked and found nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """The rule could not look, and why."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The rule broke; shown as a blind spot, the other rules go on."""

    error: str


Answer = Fired | Clear | Skipped | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule, its data and its documentation page (`doc`, with the four fixed headings)."""

    id: str
    title: str
    needs: tuple[Table, ...]
    fixes: tuple[str, ...]
    fires: tuple[Lab, ...]
    silent: tuple[Lab, ...]
    check: Check
    doc: str
    unmade: str = ""
    """Why no lab makes it: then captures made by hand show when it fires and when not."""
    last: bool = False
    """Asked after all others, with what these explained in `Picture.explained`."""

    def ask(self, picture: Picture) -> Answer:
        """Put the rule to a picture."""
        missing = [table.name for table in self.needs if not picture.capture.has(table)]
        if missing:
            return Skipped(why=f"not recorded: {', '.join(missing)}")
        try:
            findings = tuple(self.check(picture))
        except Unseen as reason:
            return Skipped(why=str(reason))
        except Exception as error:  # one broken rule must not hide what the others know; it is shown as a blind spot
            return Failed(error=f"{type(error).__name__}: {error}")
        return Fired(findings=findings) if findings else Clear()


def rule(
    *,
    id: str,  # the field's own word
    title: str,
    needs: tuple[Table, ...],
    fixes: tuple[str, ...],
    fires: tuple[Lab, ...],
    silent: tuple[Lab, ...],
    unmade: str = "",
    last: bool = False,
) -> Callable[[Check], Rule]:
    """Make a rule of a function; its docstring becomes the rule's page."""

    def decorate(check: Check) -> Rule:
        return Rule(
            id=id, title=title, needs=needs, fixes=fixes, fires=fires, silent=silent, check=check,
            doc=inspect.getdoc(check) or "", unmade=unmade, last=last,
        )  # fmt: skip

    return decorate
