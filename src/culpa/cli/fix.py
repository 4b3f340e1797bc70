"""`culpa fix`: what a verdict proposes, tried against the live state; applied and taken back only when asked to."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from culpa.cli import fixsource, fixtrial, output
from culpa.cli.options import InsecureFlag, duration
from culpa.errors import CulpaError, UsageError
from culpa.talk import Talk, columns, out
from culpa.units import NS_PER_SECOND, printable

if TYPE_CHECKING:
    from culpa.diagnose.verdict import Verdict
    from culpa.fix.catalogue import Remedy
    from culpa.fix.hands import Connects
    from culpa.fix.journal import Journal, Record
    from culpa.fix.parameters import Parameters
    from culpa.fix.proposals import Proposal

ALL = "all"


def fix(
    id: Annotated[  # the word of the command line
        str | None,
        typer.Argument(
            metavar="[ID]", help="a fix of the list; with --undo a record such as f1, or all", show_default=False
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="a verdict (--json) or capture, not the last verdict")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="put it in place; without it nothing is changed")] = False,
    persist: Annotated[
        bool, typer.Option("--persist", help="with --apply: also in the configuration file, which is backed up first")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="with --apply: measure before and after, and undo it if that is worse")
    ] = False,
    try_ns: Annotated[
        int | None,
        typer.Option(
            "--try",
            metavar="TIME",
            parser=duration,
            help="turn it off and on so long, and say what it does; as before at the end, unless --apply and faster",
        ),
    ] = None,
    for_ns: Annotated[
        int | None,
        typer.Option("--for", metavar="TIME", parser=duration, help="with --verify: so long before and after (10s)"),
    ] = None,
    ask: Annotated[
        str | None, typer.Option("--ask", metavar="URL", help="what to ask meanwhile, not the verdict's target")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="put back what was before: of ID or of all")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="with --undo: also what others have set since")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="with --undo: change nothing, and forget the record")] = False,
    log: Annotated[bool, typer.Option("--log", help="what was applied and taken back so far")] = False,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="how to reach the Redis server: user, TLS, password")
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="trust this CA for rediss://")] = None,
    certificate: Annotated[Path | None, typer.Option("--cert", metavar="FILE", help="client certificate")] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="its key")] = None,
    insecure: InsecureFlag = False,
    json: Annotated[bool, typer.Option("--json", help="as JSON to stdout, nothing else there")] = False,
) -> None:
    """List the fixes of the last verdict, look at one, try it, apply it, take it back.

    Nothing is changed without --apply, --try or --undo. What is to be undone is on disk before a change is made: in
    /var/lib/culpa/fixes for root, else in the user's own state directory. No configuration file is written but with
    --persist: of the kernel's settings a file of culpa's own in /etc/sysctl.d, of a Redis server its own, by CONFIG
    REWRITE, which writes all that was set at run time. --undo puts the file back as it was, byte for byte.

    --verify and --try ask the verdict's target again and again (a URL by GET, a Redis by PING). Where errors appear, or
    the p99 rises by more than 5 % beyond noise, the fix is undone by itself.
    """
    from culpa.collect.redis_link import Tls
    from culpa.collect.undo import state_directory
    from culpa.fix.journal import Journal

    _check(id, apply=apply or try_ns is not None, undo=undo, anyway=anyway, keep=keep, log=log, source=source)
    if persist and (not apply or verify or try_ns is not None):
        raise UsageError("--persist belongs to --apply alone", way_out="try it first, then write --apply --persist")
    _check_measuring(apply=apply, verify=verify, try_ns=try_ns, for_ns=for_ns, ask=ask)
    journal = Journal(state_directory())
    if log:
        _log(journal, json=json)
        return
    tls = Tls(ca=ca, certificate=certificate, key=key, verify=not insecure)
    ways = fixsource.Ways(server, tls, Talk(quiet=False), trusted=source is None)
    how = _How(journal=journal, connects=ways, json=json)
    if undo:
        _undo(how, id, anyway=anyway, keep=keep)
    elif verify or try_ns is not None:
        plan = fixtrial.Plan(try_ns=try_ns, for_ns=for_ns, keep=apply, ask=ask, verify_tls=not insecure)
        _measure(how, ways, _read(ways, source), id, plan)
    else:
        _from_verdict(how, _read(ways, source), id, apply=apply, persist=persist)


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """What every part of the command needs."""

    journal: Journal
    connects: Connects
    json: bool


def _check(
    id: str | None, *, apply: bool, undo: bool, anyway: bool, keep: bool, log: bool, source: Path | None
) -> None:
    if sum((apply, undo, log)) > 1:
        raise UsageError("--apply or --try, --undo and --log exclude each other", way_out="name one of them")
    if (anyway or keep) and not undo:
        raise UsageError("--anyway and --keep belong to --undo", way_out="write culpa fix --undo ID --anyway")
    if anyway and keep:
        raise UsageError("--anyway puts it back, --keep leaves it as it is", way_out="name one of them")
    if apply and id is None:
        raise UsageError("--apply and --try need the id of one fix", way_out="run culpa fix for the list")
    if undo and source is not None:
        raise UsageError("--undo goes by the records of culpa, not by a verdict", way_out="leave --from out")


def _check_measuring(
    *, apply: bool, verify: bool, try_ns: int | None, for_ns: int | None, ask: str | None
) -> None:  # fmt: skip
    if verify and not apply and try_ns is None:
        raise UsageError("--verify measures what --apply does", way_out="write culpa fix ID --apply --verify")
    if for_ns is not None and (not verify or try_ns is not None):
        raise UsageError("--for belongs to --verify without --try", way_out="write --try 60s for one that alternates")
    if ask is not None and not verify and try_ns is None:
        raise UsageError("--ask belongs to --verify and --try", way_out="write culpa fix ID --try 60s --ask URL")
    for name, given in (("--for", for_ns), ("--try", try_ns)):
        if given is not None and given < NS_PER_SECOND:
            raise UsageError(f"{name} needs a second at least", way_out=f"write {name} 60s")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A verdict, and what it proposes here."""

    verdict: Verdict
    found: Sequence[Proposal]
    seen: float


def _read(ways: fixsource.Ways, source: Path | None) -> _Source:
    from culpa.fix.proposals import proposals, seen_unix

    verdict = fixsource.verdict_from(source)
    fixsource.check_host(verdict)
    found = [ways.known(one, verdict) for one in proposals(verdict)]
    return _Source(verdict=verdict, found=found, seen=seen_unix(verdict))


def _from_verdict(how: _How, source: _Source, id: str | None, *, apply: bool, persist: bool) -> None:
    """List, look at one, or apply one."""
    from culpa.fix import run, telling, views

    chosen = source.found if id is None else [_named(source.found, id)]
    verdict, seen = source.verdict, source.seen
    if apply:
        _apply(how, chosen[0], seen, persist=persist)
        return
    looks = [run.look(one.parameters, seen, how.connects) if one.parameters else None for one in chosen]
    records = how.journal.found()
    shown = views.FixList(
        headline=printable(verdict.headline, 300), seen=printable(verdict.window.start, 40),
        fixes=tuple(views.of_proposal(one, now) for one, now in zip(chosen, looks, strict=True)),
        open=tuple(views.of_record(one) for one in records.open), strange=records.strange,
    )  # fmt: skip
    if how.json:
        output.as_json(shown)
    else:
        _say(telling.listing(shown, _width()) if id is None else telling.preview(shown.fixes[0], _width()))


def _named(found: Sequence[Proposal], id: str) -> Proposal:
    for one in found:
        if one.id == id:
            return one
    known = ", ".join(one.id for one in found[:20]) or "it proposes none"
    raise UsageError(f"the verdict proposes no fix {printable(id, 60)!r}: {known}", way_out="run culpa fix for a list")


def _appliable(chosen: Proposal) -> tuple[Remedy, Parameters]:
    """What it does to what.

    Raises:
        CulpaError: it is for a person, or refused.
    """
    if chosen.remedy is None or chosen.parameters is None:
        words = chosen.refused or f"culpa does not do this by itself: {chosen.change}"
        raise CulpaError(f"{chosen.id} was not applied: {words}")
    return chosen.remedy, chosen.parameters


def _measure(how: _How, ways: fixsource.Ways, source: _Source, id: str | None, plan: fixtrial.Plan) -> None:
    """Apply one and measure it; exit code 1 where it is not as it was asked to be."""
    from culpa.fix import run, telling, trialviews, views
    from culpa.fix.switch import Switch

    assert id is not None
    chosen = _named(source.found, id)
    remedy, parameters = _appliable(chosen)
    before = run.look(parameters, source.seen, how.connects)
    if before.obstacle:
        raise CulpaError(f"{chosen.id} cannot be applied here: {before.obstacle}; nothing was changed")
    if before.done:
        raise CulpaError(f"{chosen.id} is in effect already, there is nothing to compare it with; nothing was changed")
    switch = Switch(
        remedy, parameters, cause=chosen.cause, seen_unix=source.seen, journal=how.journal, connects=how.connects
    )
    probe = fixtrial.probe_for(source.verdict, chosen, ways, plan)
    measured = fixtrial.measure(switch, probe, plan)
    shown = trialviews.of_measured(views.of_proposal(chosen, before), measured, switch, probe.what)
    if how.json:
        output.as_json(shown)
    else:
        _say(telling.measured(shown, _width()))
    in_vain = plan.keep and measured.result in ("worse", "errors")
    if in_vain or measured.result == "stopped" or (measured.undone and not measured.undone.closed):
        raise typer.Exit(CulpaError.exit_code)


def _apply(how: _How, chosen: Proposal, seen: float, *, persist: bool) -> None:
    from culpa.fix import run, telling, views

    remedy, parameters = _appliable(chosen)
    before = run.look(parameters, seen, how.connects)
    done = run.apply(
        remedy, parameters, cause=chosen.cause, seen_unix=seen, journal=how.journal, connects=how.connects,
        persist=persist,
    )  # fmt: skip
    shown = views.of_applied(views.of_proposal(chosen, before), done)
    if how.json:
        output.as_json(shown)
    else:
        _say(telling.applied(shown, _width()))


def _undo(how: _How, id: str | None, *, anyway: bool, keep: bool) -> None:
    """Newest first; what cannot be put back leaves exit code 1, and the others are put back all the same."""
    from culpa.fix import run, telling, views

    found = how.journal.found()
    undone, refused = [], []
    for record in reversed(_records(found.open, id, how.journal)):
        try:
            undone.append(run.undo(record, journal=how.journal, connects=how.connects, anyway=anyway, keep=keep))
        except CulpaError as error:
            if id != ALL:
                raise
            refused.append(f"{record.id}: {error}")
    shown = views.of_undone(undone, (*found.strange, *refused))
    if how.json:
        output.as_json(shown)
    elif not undone and not shown.strange:
        out(f"There is nothing to take back in {how.journal.directory}.\n")
    else:
        _say(telling.undone(shown, _width()))
    if refused or shown.still_open or (found.strange and id in (None, ALL)):
        raise typer.Exit(CulpaError.exit_code)


def _records(found: Sequence[Record], id: str | None, journal: Journal) -> Sequence[Record]:
    """Those that are meant, by their own id or that of their fix."""
    if id == ALL or (id is None and len(found) < 2):
        return found
    meant = [one for one in found if id in (one.id, one.fix)]
    if len(meant) == 1:
        return meant
    known = ", ".join(f"{one.id} ({one.fix})" for one in (meant or found)) or "none"
    what = f"no fix {printable(id, 60)!r} is in place" if id is not None and not meant else "several fixes are in place"
    way_out = "write culpa fix --undo f1, or culpa fix --undo all"
    raise UsageError(f"{what} by {journal.directory}: {known}", way_out=way_out)


def _log(journal: Journal, *, json: bool) -> None:
    from culpa.fix import telling, views

    shown = views.of_found(journal.found())
    if json:
        output.as_json(shown)
    else:
        _say(telling.log(shown, _width()))


def _say(lines: Iterable[str]) -> None:
    out("".join(f"{line}\n" for line in lines))


def _width() -> int:
    return columns(sys.stdout)
