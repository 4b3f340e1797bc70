"""The whole command line: its subcommands in the order of `--help`, and the exit codes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Final, NoReturn

import typer

from culpa import __version__
from culpa.cli import doctor, fix, lab, record, redis, why
from culpa.cli.gathering import Invocation
from culpa.cli.options import example
from culpa.errors import CulpaError, Interrupted, exhausted
from culpa.priority import PRIORITY
from culpa.talk import err, out
from culpa.units import printable

WITH_COMMAND: Final = ("why", "record")
"""Subcommands that take `-- COMMAND`."""
LOOKS_ON: Final = ("why", "record", "redis")
"""Subcommands that watch a host at work."""
SWALLOWS_EXCEPTIONS: Final = ("<frozen importlib._bootstrap>", "cb")
"""A weak reference's callback, run at every import."""
AGAIN_SECONDS: Final = 0.01

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Says whose fault it is that something on this Linux server is slow, with evidence.",
    epilog=example("culpa why http://127.0.0.1:8000/slow-page"),
)
app.command(
    short_help="Find whose fault it is.",
    epilog=example("culpa why http://127.0.0.1:8000/slow-page", "culpa why -- sort big.txt"),
)(why.why)
app.command(short_help="Only watch, and save a capture.", epilog=example("culpa record :6379 --for 10s -o slow.culpa"))(
    record.record
)
app.command(
    short_help="A check-up of one Redis server.",
    epilog=example("culpa redis redis://127.0.0.1:6379", "culpa redis rediss://me@cache.example:6380 --for 30s"),
)(redis.redis)
app.command(
    short_help="Apply a fix, measure what it does, and take it back.",
    epilog=example(
        "culpa fix", "culpa fix redis-hz --try 60s", "culpa fix redis-hz --apply --verify", "culpa fix --undo all"
    ),
)(fix.fix)
app.command(short_help="What this host lets culpa see.", epilog=example("culpa doctor"))(doctor.doctor)
app.add_typer(lab.app, name="lab")


def _version(asked: bool) -> None:
    if asked:
        out(f"culpa {__version__}\n")
        raise typer.Exit


@app.callback()
def culpa(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Says whose fault it is that something on this Linux server is slow, with evidence."""


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """Arguments before `--` and the command behind it, for the subcommands that take one."""
    if not arguments or arguments[0] not in WITH_COMMAND or "--" not in arguments:
        return list(arguments), None
    at = arguments.index("--")
    return list(arguments[:at]), tuple(arguments[at + 1 :])


def interrupted(_number: int, frame: FrameType | None) -> None:
    """What Ctrl-C does while nothing is recorded: as Python's own, and never lost.

    What is raised while importlib lets go of a lock ends there; so it comes again a moment later.
    """
    if frame is not None and (frame.f_code.co_filename, frame.f_code.co_name) == SWALLOWS_EXCEPTIONS:
        threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()
        return
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with one of the codes of `errors.py`."""
    before, command = _split(sys.argv[1:] if arguments is None else arguments)
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a job that a script put in the background
            signal.signal(signal.SIGINT, interrupted)
        if before[:1] and before[0] in LOOKS_ON:
            PRIORITY.give_way()
        app(args=before, prog_name="culpa", obj=Invocation(command=command))
    except CulpaError as error:
        _end(error)
    except (OSError, MemoryError) as error:
        told = exhausted(error)
        if told is None:
            raise
        _end(CulpaError(f"cannot go on: {told.what}", way_out=told.way_out))
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is the interpreter's own way out
    sys.exit(0)


def _end(error: CulpaError) -> NoReturn:
    err(f"culpa: {_bounded(error)}\n")
    sys.exit(error.exit_code)


def _bounded(error: CulpaError) -> str:
    """The sentence line by line: names in it are hostile, line ends are ours."""
    return "\n".join(printable(line, 1000) for line in str(error).split("\n"))
