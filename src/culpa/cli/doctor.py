"""`culpa doctor`: what this host lets culpa see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from culpa.cli import output
from culpa.talk import out
from culpa.units import printable

if TYPE_CHECKING:
    from culpa.collect.doctor import Check


def doctor(json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """What this host lets culpa see, what not and why, and the command that would change it."""
    from culpa.collect.doctor import checks

    found = (*checks(), _fixes())
    if json:
        output.as_json(found)
        return
    for check in found:
        out(f"{check.state:8} {check.name}: {printable(check.found)}\n")
        if check.way_out:
            out(f"{'':8} {check.meaning}\n{'':8} to change it: {printable(check.way_out)}\n")


def _fixes() -> Check:
    """What `culpa fix` has put in place and not taken back: on purpose, so that nothing is missing."""
    from culpa.collect.doctor import Check
    from culpa.collect.undo import state_directory
    from culpa.fix.journal import Journal
    from culpa.fix.views import of_record

    records = [of_record(record) for record in Journal(state_directory()).found().open]
    told = (f"{one.fix} on {one.target}, since {one.applied} (culpa fix --undo {one.id})" for one in records)
    return Check(
        name="fixes in place",
        state="ok",
        found="; ".join(told) or "none",
        meaning="what was applied on the word of somebody, and stays until it is taken back",
    )
