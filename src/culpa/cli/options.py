"""Options that several subcommands share, as typer reads them: name, kind of value, help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from culpa.units import NS_PER_SECOND, parse_duration, printable

DEFAULT_BUDGET_PERCENT: Final = 20.0
LONGEST_NS: Final = 7 * 24 * 3600 * NS_PER_SECOND
"""A week: a capture of more would not be opened again."""


class FailOn(StrEnum):
    """Levels that `--fail-on` takes, weakest first."""

    note = "note"
    warning = "warning"
    critical = "critical"


def example(*lines: str) -> str:
    """The end of a `--help`."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def duration(text: str) -> int:
    try:
        duration_ns = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if duration_ns > LONGEST_NS:
        raise typer.BadParameter(f"more than a week: {printable(text, 40)!r}")
    return duration_ns


TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[TARGET | -- COMMAND...]",
        help="nothing (this host), http(s)://..., redis://..., a capture file, a PID, :PORT, "
        "unit:NAME, container:ID or NAME, cgroup:PATH, a process name",
        show_default=False,
    ),
]
ForOption = Annotated[
    int | None,
    typer.Option("--for", metavar="TIME", parser=duration, help="watch exactly so long: 10s, 500ms, 2m"),
]
PassiveFlag = Annotated[bool, typer.Option("--passive", help="send nothing, watch the traffic there is")]
NoTraceFlag = Annotated[bool, typer.Option("--no-trace", help="no eBPF, samples of /proc instead")]
BudgetOption = Annotated[
    float,
    typer.Option("--budget", metavar="PERCENT", min=0.1, max=100.0, help="CPU for watching, in percent of a core"),
]
SlowerOption = Annotated[
    int | None,
    typer.Option("--slower-than", metavar="TIME", parser=duration, help="a request above it is slow (default 200ms)"),
]
HeaderOption = Annotated[list[str] | None, typer.Option("-H", "--header", metavar="LINE", help="header to send")]
DataOption = Annotated[str | None, typer.Option("-d", "--data", metavar="TEXT", help="body to send, as it is")]
MethodOption = Annotated[str | None, typer.Option("-X", "--request", metavar="METHOD", help="instead of GET")]
InsecureFlag = Annotated[bool, typer.Option("-k", "--insecure", help="accept any certificate")]
MaxRequestsOption = Annotated[int | None, typer.Option("--max-requests", metavar="N", min=1, help="send at most N")]
RepeatFlag = Annotated[bool, typer.Option("--repeat", help="repeat methods other than GET and HEAD, too")]
UserOption = Annotated[str | None, typer.Option("--user", metavar="NAME", help="run COMMAND as this user")]
JsonFlag = Annotated[bool, typer.Option("--json", help="the verdict as JSON to stdout, nothing else there")]
RedactFlag = Annotated[bool, typer.Option("--redact", help="hashes instead of key names, paths and addresses")]
QuietFlag = Annotated[bool, typer.Option("-q", "--quiet", help="the headline only")]
NoColorFlag = Annotated[bool, typer.Option("--no-color", help="no colour, also by NO_COLOR")]
VerboseFlag = Annotated[bool, typer.Option("-v", "--verbose", help="all facts with their sources, the blame tree")]
SaveOption = Annotated[Path | None, typer.Option("-o", "--save", metavar="FILE", help="keep the capture as well")]
FailOnOption = Annotated[
    FailOn | None, typer.Option("--fail-on", help="exit 3 if a finding of this level or above was made")
]
