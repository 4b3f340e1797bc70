"""`culpa doctor`: what this host lets culpa see."""

from __future__ import annotations

from typing import Annotated

import typer

from culpa.cli import output
from culpa.talk import out
from culpa.units import printable


def doctor(json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """What this host lets culpa see, what not and why, and the command that would change it."""
    from culpa.collect.doctor import checks

    found = checks()
    if json:
        output.as_json(found)
        return
    for check in found:
        out(f"{check.state:8} {check.name}: {printable(check.found)}\n")
        if check.way_out:
            out(f"{'':8} {check.meaning}\n{'':8} to change it: {printable(check.way_out)}\n")
