"""From the options of `why` and `record` to a capture: opened if the target is a file, else recorded now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from culpa.errors import UsageError
from culpa.units import printable

if TYPE_CHECKING:
    from culpa.capture.bundle import Capture
    from culpa.collect.options import HttpSettings, Options
    from culpa.collect.window import Share
    from culpa.talk import Talk
    from culpa.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What stood behind `--`; None: there was no `--`."""

    command: tuple[str, ...] | None


def target_of(context: typer.Context, text: str | None) -> Target:
    """The target of a command line: TARGET, or what stood behind `--`.

    Raises:
        UsageError: it means nothing, or there are both.
    """
    from culpa.target import command_target, parse_target

    invocation = context.find_object(Invocation)
    if invocation is None or invocation.command is None:
        return parse_target(text)
    if text is not None:
        raise UsageError(f"there is a target, {printable(text, 80)}, and a command", way_out="name one of them")
    return command_target(invocation.command)


def http_settings(
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


def options(
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
    """How to record, as said."""
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


def gather(target: Target, how: Options, talk: Talk) -> Capture:
    """The capture: opened if it is a file, else recorded now."""
    from culpa.collect.options import check
    from culpa.collect.session import opened, record
    from culpa.target import CaptureTarget

    check(target, how)
    if isinstance(target, CaptureTarget):
        return opened(target, how)
    _settle(how, talk)
    try:
        return record(target, how, progress=talk.say, live=talk.live, enough=_share)
    finally:
        talk.clear()


def _settle(how: Options, talk: Talk) -> None:
    """Put back what a culpa that was killed left changed; the server that is examined now is asked then."""
    from culpa.collect.latency_monitor import settle_all
    from culpa.collect.undo import state_directory

    examined = how.checkup.address.shown if how.checkup is not None else None
    for sentence in settle_all(state_directory(), but=examined):
        talk.say(sentence)


def _share(capture: Capture) -> Share | None:
    """The first cause and its share in what was seen so far: recording ends when that is steady."""
    from culpa.collect.window import Share
    from culpa.diagnose.judge import judge
    from culpa.units import NS_PER_SECOND

    verdict = judge(capture)
    first = next((cause for cause in verdict.causes if cause.level != "note"), None)
    return Share(
        cause=first.id if first else None,
        share=first.share if first else 0.0,
        completed=verdict.observed.completed if verdict.observed else 0,
        waited_ns=round(verdict.root.seconds * NS_PER_SECOND),
    )


def redacted(capture: Capture) -> Capture:
    """The capture with hashes in the place of names; their key is thrown away."""
    from culpa.capture.redact import redact

    return redact(capture, os.urandom(32))
