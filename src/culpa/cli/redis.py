"""`culpa redis`: a check-up of one server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from culpa.cli import gathering, judging
from culpa.cli.options import (
    DEFAULT_BUDGET_PERCENT,
    BudgetOption,
    FailOnOption,
    InsecureFlag,
    JsonFlag,
    NoColorFlag,
    NoTraceFlag,
    QuietFlag,
    RedactFlag,
    SaveOption,
    VerboseFlag,
    duration,
)
from culpa.cli.reaching import reach
from culpa.talk import Talk
from culpa.units import NS_PER_SECOND

LENGTH_NS: Final = 10 * NS_PER_SECOND
"""How long a server is watched unless `--for` says otherwise."""


def redis(
    url: Annotated[str, typer.Argument(metavar="URL", help="redis://HOST:PORT, rediss://..., unix:///PATH")],
    length: Annotated[
        int | None, typer.Option("--for", metavar="TIME", parser=duration, help="watch so long (default 10s)")
    ] = None,
    checklist: Annotated[
        bool, typer.Option("--checklist", help="go through the list for a slow Redis as well")
    ] = False,
    latency_monitor: Annotated[
        bool, typer.Option("--latency-monitor", help="switch the server's latency monitor on meanwhile (CONFIG SET)")
    ] = False,
    no_trace: NoTraceFlag = False,
    budget: BudgetOption = DEFAULT_BUDGET_PERCENT,
    ca: Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="trust this CA for rediss://")] = None,
    certificate: Annotated[Path | None, typer.Option("--cert", metavar="FILE", help="client certificate")] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="its key")] = None,
    insecure: InsecureFlag = False,
    save: SaveOption = None,
    json: JsonFlag = False,
    redact: RedactFlag = False,
    fail_on: FailOnOption = None,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
    no_color: NoColorFlag = False,
) -> None:
    """Examine one server over its protocol, and with the host's view where it runs on this host.

    Nothing is changed, unless --latency-monitor is given; then its threshold is put back at the end, and by the next
    run if this one is killed. The password is taken from REDISCLI_AUTH, or asked for.
    """
    from culpa.collect.options import Options
    from culpa.collect.redis_link import Tls

    talk = Talk(quiet=quiet)
    tls = Tls(ca=ca, certificate=certificate, key=key, verify=not insecure)
    target, link = reach(url, tls, talk)
    options = Options(
        for_ns=length or LENGTH_NS,
        trace=not no_trace,
        budget_percent=budget,
        checkup=link,
        baseline=checklist,
        latency_monitor=latency_monitor,
    )
    capture = gathering.gather(target, options, talk)
    if redact:
        capture = gathering.redacted(capture)
    only = [capture]
    del capture
    judging.show(
        only.pop(), save=save, json=json, quiet=quiet, verbose=verbose, no_color=no_color, fail_on=fail_on,
        checklist=checklist, remember=not redact,
    )  # fmt: skip
