"""Every subcommand: its arguments, a thin function that wires the stages, and its exit code.

No stage is imported at module level: `culpa --help` loads neither numpy nor polars. Data goes to stdout, talk to
stderr.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from culpa import __version__
from culpa.errors import EXIT_FINDING, CulpaError, Interrupted, UsageError
from culpa.talk import LINE_WIDTH, Talk, err, out
from culpa.units import parse_duration, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from culpa.capture.bundle import Capture
    from culpa.collect.options import HttpSettings, Options
    from culpa.collect.redis_link import Link, Tls
    from culpa.collect.window import Share
    from culpa.diagnose.verdict import Cause, Verdict
    from culpa.target import Target

DEFAULT_BUDGET_PERCENT: Final = 20.0
CHECKUP_NS: Final = 10_000_000_000
"""How long a server is watched unless `--for` says otherwise."""
WITH_COMMAND: Final = ("why", "record")
"""Subcommands that take `-- COMMAND`."""


class FailOn(StrEnum):
    """Levels that `--fail-on` takes, weakest first."""

    note = "note"
    warning = "warning"
    critical = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What stood behind `--`; None: there was no `--`."""

    command: tuple[str, ...] | None


def _epilog(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Says whose fault it is that something on this Linux server is slow, with evidence.",
    epilog=_epilog("culpa why http://127.0.0.1:8000/slow-page"),
)
lab_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Trouble made on purpose, with known truth.",
    epilog=_epilog("culpa lab run redis-slow"),
)
app.add_typer(lab_app, name="lab")


def _duration(text: str) -> int:
    try:
        return int(parse_duration(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _version(asked: bool) -> None:
    if asked:
        out(f"culpa {__version__}\n")
        raise typer.Exit


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
    typer.Option("--for", metavar="TIME", parser=_duration, help="watch exactly so long: 10s, 500ms, 2m"),
]
PassiveFlag = Annotated[bool, typer.Option("--passive", help="send nothing, watch the traffic there is")]
NoTraceFlag = Annotated[bool, typer.Option("--no-trace", help="no eBPF, samples of /proc instead")]
BudgetOption = Annotated[
    float,
    typer.Option("--budget", metavar="PERCENT", min=0.1, max=100.0, help="CPU for watching, in percent of a core"),
]
SlowerOption = Annotated[
    int | None,
    typer.Option("--slower-than", metavar="TIME", parser=_duration, help="a request above it is slow (default 200ms)"),
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


@app.callback()
def culpa(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Says whose fault it is that something on this Linux server is slow, with evidence."""


@app.command(
    short_help="Find whose fault it is.",
    epilog=_epilog("culpa why http://127.0.0.1:8000/slow-page", "culpa why -- sort big.txt"),
)
def why(
    context: typer.Context,
    target: TargetArgument = None,
    duration: ForOption = None,
    passive: PassiveFlag = False,
    no_trace: NoTraceFlag = False,
    budget: BudgetOption = DEFAULT_BUDGET_PERCENT,
    slower_than: SlowerOption = None,
    header: HeaderOption = None,
    data: DataOption = None,
    method: MethodOption = None,
    insecure: InsecureFlag = False,
    max_requests: MaxRequestsOption = None,
    repeat: RepeatFlag = False,
    user: UserOption = None,
    save: Annotated[Path | None, typer.Option("-o", "--save", metavar="FILE", help="keep the capture as well")] = None,
    json: JsonFlag = False,
    redact: RedactFlag = False,
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="exit 3 if a finding of this level or above was made")
    ] = None,
    quiet: QuietFlag = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="all facts with their sources, the blame tree")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="no colour, also by NO_COLOR")] = False,
) -> None:
    """Watch, find what the time was spent waiting for, name the culprit, propose fixes."""
    from culpa.diagnose.judge import judge

    talk = Talk(quiet=quiet)
    http = _http(header, data, method, insecure, max_requests, repeat)
    options = _options(duration, passive, no_trace, budget, slower_than, http, user, output_to_stderr=json)
    capture = _gather(_target(context, target), options, talk)
    if redact:
        capture = _redacted(capture)
    failure = _saved(capture, save, talk)
    only = [capture]
    del capture
    verdict = judge(only.pop())  # which then holds the only reference, and may give it up
    if json:
        from culpa.report.envelope import to_json

        out(to_json(verdict).rstrip("\n") + "\n")
    else:
        out(_page(verdict, quiet=quiet, verbose=verbose, no_color=no_color))
    if failure is not None:
        raise failure
    if fail_on is not None and _reaches(verdict.causes, fail_on):
        raise typer.Exit(EXIT_FINDING)


@app.command(short_help="Only watch, and save a capture.", epilog=_epilog("culpa record :6379 --for 10s -o slow.culpa"))
def record(
    context: typer.Context,
    save: Annotated[Path, typer.Option("-o", "--save", metavar="FILE", help="where to save the capture")],
    target: TargetArgument = None,
    duration: ForOption = None,
    passive: PassiveFlag = False,
    no_trace: NoTraceFlag = False,
    budget: BudgetOption = DEFAULT_BUDGET_PERCENT,
    slower_than: SlowerOption = None,
    header: HeaderOption = None,
    data: DataOption = None,
    method: MethodOption = None,
    insecure: InsecureFlag = False,
    max_requests: MaxRequestsOption = None,
    repeat: RepeatFlag = False,
    user: UserOption = None,
    redact: RedactFlag = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="no talk")] = False,
) -> None:
    """Only watch, and save a capture for `culpa why FILE`, here or elsewhere."""
    from culpa.capture.bundle import save as save_capture
    from culpa.target import CaptureTarget

    talk = Talk(quiet=quiet)
    http = _http(header, data, method, insecure, max_requests, repeat)
    options = _options(duration, passive, no_trace, budget, slower_than, http, user, output_to_stderr=False)
    wanted = _target(context, target)
    if isinstance(wanted, CaptureTarget):
        raise UsageError(f"{wanted.display} is a capture already", way_out="judge it with: culpa why FILE")
    capture = _gather(wanted, options, talk)
    save_capture(_redacted(capture) if redact else capture, save)
    talk.say(f"saved {printable(str(save))}; judge it with: culpa why {printable(str(save))}")


@app.command(
    "redis",
    short_help="A check-up of one Redis server.",
    epilog=_epilog("culpa redis redis://127.0.0.1:6379", "culpa redis --for 30s rediss://me@cache.example:6380"),
)
def redis_checkup(
    url: Annotated[str, typer.Argument(metavar="URL", help="redis://HOST:PORT, rediss://..., unix:///PATH")],
    duration: Annotated[
        int, typer.Option("--for", metavar="TIME", parser=_duration, help="watch so long (default 10s)")
    ] = CHECKUP_NS,
    no_trace: NoTraceFlag = False,
    budget: BudgetOption = DEFAULT_BUDGET_PERCENT,
    ca: Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="trust this CA for rediss://")] = None,
    certificate: Annotated[Path | None, typer.Option("--cert", metavar="FILE", help="client certificate")] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="its key")] = None,
    insecure: InsecureFlag = False,
    save: Annotated[Path | None, typer.Option("-o", "--save", metavar="FILE", help="keep the capture as well")] = None,
    json: JsonFlag = False,
    redact: RedactFlag = False,
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="exit 3 if a finding of this level or above was made")
    ] = None,
    quiet: QuietFlag = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="all facts with their sources, the blame tree")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="no colour, also by NO_COLOR")] = False,
) -> None:
    """Examine one server over its protocol, and with the host's view where it runs on this host.

    Read-only. The password is taken from REDISCLI_AUTH, or asked for.
    """
    from culpa.collect.options import Options
    from culpa.collect.redis_link import Tls
    from culpa.diagnose.judge import judge

    talk = Talk(quiet=quiet)
    target, link = _redis_link(url, Tls(ca=ca, certificate=certificate, key=key, verify=not insecure), talk)
    options = Options(for_ns=duration, trace=not no_trace, budget_percent=budget, checkup=link)
    capture = _gather(target, options, talk)
    if redact:
        capture = _redacted(capture)
    failure = _saved(capture, save, talk)
    verdict = judge(capture)
    if json:
        from culpa.report.envelope import to_json

        out(to_json(verdict).rstrip("\n") + "\n")
    else:
        out(_page(verdict, quiet=quiet, verbose=verbose, no_color=no_color))
    if failure is not None:
        raise failure
    if fail_on is not None and _reaches(verdict.causes, fail_on):
        raise typer.Exit(EXIT_FINDING)


@app.command(short_help="What this host lets culpa see.", epilog=_epilog("culpa doctor"))
def doctor(json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """What this host lets culpa see, what not and why, and the command that would change it."""
    import msgspec

    from culpa.collect.doctor import checks

    found = checks()
    if json:
        out(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
        return
    for check in found:
        out(f"{check.state:8} {check.name}: {printable(check.found)}\n")
        if check.way_out:
            out(f"{'':8} {check.meaning}\n{'':8} to change it: {printable(check.way_out)}\n")


@lab_app.command("list", short_help="The labs there are.", epilog=_epilog("culpa lab list"))
def lab_list(json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """The labs, what each must make culpa say, and whether it can run here."""
    import msgspec

    from culpa.labs.catalogue import listing

    labs = listing()
    if json:
        out(msgspec.json.format(msgspec.json.encode(labs), indent=2).decode() + "\n")
        return
    for lab in labs:
        out(f"{lab.name:24} {', '.join(lab.fires) or 'nothing to find'}\n")
        if lab.why_not:
            out(f"{'':24} cannot run here: {printable(lab.why_not)}\n")


@lab_app.command("run", short_help="Run one lab, and score culpa.", epilog=_epilog("culpa lab run redis-slow"))
def lab_run(
    name: Annotated[str, typer.Argument(help="a name of `culpa lab list`")],
    json: Annotated[bool, typer.Option("--json", help="the result as JSON to stdout, nothing else there")] = False,
    no_trace: NoTraceFlag = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="no colour, also by NO_COLOR")] = False,
) -> None:
    """Make the trouble of one lab, let culpa find it, show the verdict beside the truth; exit 5 if it was not found."""
    import msgspec

    from culpa.labs.demo import summary
    from culpa.labs.lab import Parameters
    from culpa.labs.run import run_lab

    talk = Talk(quiet=False)
    result = run_lab(name, parameters=Parameters(), trace=not no_trace, progress=talk.say)
    if json:
        out(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
    else:
        out(_page(result.verdict, quiet=False, verbose=False, no_color=no_color))
        out("".join(f"{line}\n" for line in summary(result)))
    raise typer.Exit(result.exit_code)


@lab_app.command("bench", short_help="Run all labs: the score.", epilog=_epilog("culpa lab bench --sample 5 --seed 7"))
def lab_bench(
    family: Annotated[str | None, typer.Option("--family", help="only labs of this family")] = None,
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="so many labs, drawn at random")] = None,
    seed: Annotated[int, typer.Option("--seed", help="of everything random; the same seed draws the same run")] = 1,
    no_trace: NoTraceFlag = False,
    json: Annotated[bool, typer.Option("--json", help="the score as JSON to stdout, nothing else there")] = False,
) -> None:
    """Run the labs that this host can run, with parameters drawn at random, and say how often culpa was right."""
    import msgspec

    from culpa.labs.bench import Plan, run_bench, table

    plan = Plan(seed=seed, family=family, sample=sample, trace=not no_trace)
    score = run_bench(plan, progress=Talk(quiet=False).say)
    if json:
        out(msgspec.json.format(msgspec.json.encode(score), indent=2).decode() + "\n")
        return
    out("".join(f"{printable(line)}\n" for line in table(score)))


def _target(context: typer.Context, text: str | None) -> Target:
    from culpa.target import command_target, parse_target

    invocation = context.find_object(Invocation)
    if invocation is None or invocation.command is None:
        return parse_target(text)
    if text is not None:
        raise UsageError(f"there is a target, {printable(text, 80)}, and a command", way_out="name one of them")
    return command_target(invocation.command)


def _redis_link(url: str, tls: Tls, talk: Talk) -> tuple[Target, Link]:
    """The server a URL names and how to reach it; a password in the URL works, and earns a word."""
    from culpa.collect.redis_answers import Address, Credentials
    from culpa.collect.redis_link import Link
    from culpa.target import RedisTarget, parse_target

    target = parse_target(url)
    if not isinstance(target, RedisTarget):
        raise UsageError(f"{printable(url, 80)} is no Redis URL", way_out="write redis://HOST:PORT or unix:///PATH")
    if target.password is not None:
        talk.say("the password in the URL can be read by other users in the list of processes; REDISCLI_AUTH is safer")
    password = target.password or os.environ.get("REDISCLI_AUTH") or None
    link = Link(
        address=Address(host=target.host, port=target.port, path=target.path),
        credentials=Credentials(username=target.user, password=password),
        tls=tls if target.tls else None,
    )
    return target, link


def _http(
    header: Sequence[str] | None,
    data: str | None,
    method: str | None,
    insecure: bool,
    max_requests: int | None,
    repeat: bool,
) -> HttpSettings | None:
    """What was said about requests; None: nothing was."""
    from culpa.collect.options import HttpSettings

    settings = HttpSettings(
        headers=tuple(_header(line) for line in header or ()),
        body=data,
        method=method,
        verify_tls=not insecure,
        max_requests=max_requests,
        repeat=repeat,
    )
    return None if settings == HttpSettings() else settings


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise UsageError(f"{printable(line, 40)!r} is not a header", way_out="write -H 'Name: value'")
    return name.strip(), value.strip()


def _options(
    duration: int | None,
    passive: bool,
    no_trace: bool,
    budget: float,
    slower_than: int | None,
    http: HttpSettings | None,
    user: str | None,
    *,
    output_to_stderr: bool,
) -> Options:
    from culpa.collect.options import Options

    return Options(
        for_ns=duration,
        passive=passive,
        trace=not no_trace,
        budget_percent=budget,
        slower_than_ns=slower_than,
        http=http,
        user=user,
        output_to_stderr=output_to_stderr,
    )


def _gather(target: Target, options: Options, talk: Talk) -> Capture:
    """The capture: opened if it is a file, else recorded now."""
    from culpa.collect.options import check
    from culpa.collect.session import opened, record
    from culpa.target import CaptureTarget

    check(target, options)
    if isinstance(target, CaptureTarget):
        return opened(target, options)
    try:
        return record(target, options, progress=talk.say, live=talk.live, enough=_share)
    finally:
        talk.clear()


def _share(capture: Capture) -> Share | None:
    """The first cause and its share in what was seen so far: recording ends when that is steady."""
    from culpa.collect.window import Share
    from culpa.diagnose.judge import judge
    from culpa.units import NS_PER_SECOND

    verdict = judge(capture)
    first = verdict.causes[0] if verdict.causes else None
    return Share(
        cause=first.id if first else None,
        share=first.share if first else 0.0,
        completed=verdict.observed.completed if verdict.observed else 0,
        waited_ns=round(verdict.root.seconds * NS_PER_SECOND),
    )


def _redacted(capture: Capture) -> Capture:
    from culpa.capture.redact import redact

    return redact(capture, os.urandom(32))


def _saved(capture: Capture, path: Path | None, talk: Talk) -> CulpaError | None:
    """Save where asked; a failure is handed back, so that the verdict is not lost with it."""
    from culpa.capture.bundle import save
    from culpa.errors import CaptureError

    if path is None:
        return None
    try:
        save(capture, path)
    except CaptureError as error:
        return error
    talk.say(f"saved {printable(str(path))}")
    return None


def _page(verdict: Verdict, *, quiet: bool, verbose: bool, no_color: bool) -> str:
    from culpa.report import terminal

    if quiet:
        return terminal.headline(verdict) + "\n"
    color = sys.stdout.isatty() and not no_color and not os.environ.get("NO_COLOR")
    return terminal.render(verdict, width=LINE_WIDTH, color=color, verbose=verbose)


def _reaches(causes: Iterable[Cause], level: FailOn) -> bool:
    """Whether a cause, or one in its `because`, is of that level or above."""
    order = list(FailOn)
    return any(
        order.index(FailOn(cause.level)) >= order.index(level) or _reaches(cause.because, level) for cause in causes
    )


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """Arguments before `--` and the command behind it, for the subcommands that take one."""
    if not arguments or arguments[0] not in WITH_COMMAND or "--" not in arguments:
        return list(arguments), None
    at = arguments.index("--")
    return list(arguments[:at]), tuple(arguments[at + 1 :])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of CONTRACT.md."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a job that a script put in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before, command = _split(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=before, prog_name="culpa", obj=Invocation(command=command))
    except CulpaError as error:
        err(f"culpa: {_bounded(error)}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is the interpreter's own way out
    sys.exit(0)


def _bounded(error: CulpaError) -> str:
    """The sentence line by line: names in it are hostile, line ends are ours."""
    return "\n".join(printable(line, 1000) for line in str(error).split("\n"))
