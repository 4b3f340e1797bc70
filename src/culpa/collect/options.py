"""How to record: what the user said beside the target, checked before anything is started."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from culpa.collect.exchange import HttpPlan, make_plan
from culpa.collect.redis_answers import Credentials
from culpa.collect.redis_link import Link
from culpa.errors import UsageError
from culpa.target import CaptureTarget, CommandTarget, RedisTarget, Target, UrlTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """What the user said about the requests to a URL."""

    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    method: str | None = None
    verify_tls: bool = True
    max_requests: int | None = None
    repeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to record. None means: not said. `budget_percent` is of one core."""

    for_ns: int | None = None
    passive: bool = False
    trace: bool = True
    budget_percent: float = 20.0
    slower_than_ns: int | None = None
    http: HttpSettings | None = None
    user: str | None = None
    output_to_stderr: bool = False
    baseline: bool = False
    """Measure how late this host lets a busy program run, before anything else."""
    checkup: Link | None = None
    """Examine this one Redis server in depth, and ask it PING again and again."""
    latency_monitor: bool = False
    """Switch its latency monitor on for the window."""


def check(target: Target, options: Options) -> None:
    """Refuse what makes no sense together, before anything is started.

    Raises:
        UsageError: an option does not go with the target.
    """
    if options.http is not None and (not isinstance(target, UrlTarget) or options.passive):
        way_out = "name an http:// URL, without --passive" if options.passive else "name an http:// URL"
        raise UsageError(
            "-H, -d, -X, -k, --max-requests and --repeat are about a request that culpa sends", way_out=way_out
        )
    if options.user is not None and not isinstance(target, CommandTarget):
        raise UsageError("--user is about a command that culpa runs", way_out="write it before -- COMMAND")
    if isinstance(target, CommandTarget) and options.passive:
        raise UsageError("--passive and a command exclude each other", way_out="watch a running process by its PID")
    if isinstance(target, CaptureTarget) and (options.for_ns or options.passive or not options.trace):
        raise UsageError(
            "--for, --passive and --no-trace are about recording, and this is a saved capture",
            way_out="leave them out",
        )


def request_plan(target: UrlTarget, options: Options) -> HttpPlan:
    """The request to a URL, with the credentials of the URL as a header.

    Raises:
        UsageError: a part of it cannot be sent.
    """
    said = options.http or HttpSettings()
    headers = said.headers
    given = {name.lower() for name, _ in headers}
    if (target.user is not None or target.password is not None) and "authorization" not in given:
        pair = f"{target.user or ''}:{target.password or ''}".encode()
        headers = (*headers, ("Authorization", f"Basic {base64.b64encode(pair).decode('ascii')}"))
    return make_plan(
        target.url,
        method=said.method,
        headers=headers,
        body=said.body,
        verify_tls=said.verify_tls,
        max_requests=said.max_requests,
        repeat=said.repeat,
    )


def credentials_of(target: Target) -> Credentials | None:
    """Those of a redis:// URL."""
    if isinstance(target, RedisTarget) and target.password is not None:
        return Credentials(username=target.user, password=target.password)
    return None
