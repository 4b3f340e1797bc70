"""Where `culpa fix` takes a verdict from, and how it reaches the Redis servers that one names."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from culpa.cli import gathering, lastverdict
from culpa.cli.reaching import PASSWORD_VARIABLE, reach
from culpa.errors import CulpaError
from culpa.talk import Talk
from culpa.units import printable

if TYPE_CHECKING:
    from culpa.collect.redis_answers import NotAnswered
    from culpa.collect.redis_link import Link, Talker, Tls
    from culpa.diagnose.verdict import Verdict
    from culpa.fix.hands import Server, Unreachable
    from culpa.fix.parameters import RedisSetting
    from culpa.fix.proposals import Proposal

SILENCE_SECONDS: Final = 20.0
"""A busy server may take this long for an answer."""
_CAPTURE_BEGINS: Final = b"PK"


def verdict_from(path: Path | None) -> Verdict:
    """The verdict in a file, of a capture in it, or the last one.

    Raises:
        CulpaError: there is none, or it is neither.
    """
    from culpa.report.envelope import parse

    if path is None:
        return parse(lastverdict.last())
    try:
        with path.open("rb") as file:
            is_capture = file.peek(2).startswith(_CAPTURE_BEGINS)
            text = b"" if is_capture else lastverdict.read_bounded(file)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        what = f"{printable(str(path))} cannot be read: {why}"
        raise CulpaError(what, way_out="name a verdict or a capture") from error
    return _judged(path) if is_capture else parse(text)


def _judged(path: Path) -> Verdict:
    from culpa.collect.options import Options
    from culpa.diagnose.judge import judge
    from culpa.target import CaptureTarget

    target = CaptureTarget(path=path, display=printable(path.name))
    return judge(gathering.gather(target, Options(), Talk(quiet=False)))


def check_host(verdict: Verdict) -> None:
    """See that it was made on this host, as far as that can be told.

    Raises:
        CulpaError: it was made on another one.
    """
    here = os.uname()
    if (verdict.host.kernel, verdict.host.machine) != (here.release, here.machine):
        there = printable(f"Linux {verdict.host.kernel} on {verdict.host.machine}", 120)
        what = f"the verdict is of another host or an earlier boot ({there}; this is {here.release} on {here.machine})"
        raise CulpaError(what, way_out="run culpa fix there, or make a new verdict here")


class Ways:
    """How Redis servers are reached: as `--server` says, else without TLS and as the default user.

    A password goes to the server that `--server` names, and to those of culpa's own verdict and records (`trusted`),
    but not to whatever address a file has.
    """

    def __init__(self, url: str | None, tls: Tls, talk: Talk, *, trusted: bool) -> None:
        self.tls = tls
        self._trusted = trusted
        self._link: Link | None = reach(url, tls, talk)[1] if url is not None else None

    def known(self, proposal: Proposal, verdict: Verdict) -> Proposal:
        """The proposal, with the user and TLS of the server it is for."""
        from msgspec import structs

        from culpa.fix.parameters import RedisSetting

        one = proposal.parameters
        if not isinstance(one, RedisSetting):
            return proposal
        if self._link is not None and self._is_named(one):
            user = self._link.credentials.username or ""
            return replace(proposal, parameters=structs.replace(one, tls=self._link.tls is not None, user=user))
        by_tls = verdict.target.name.startswith(f"rediss://{one.host}:{one.port}/")
        return replace(proposal, parameters=structs.replace(one, tls=by_tls)) if by_tls else proposal

    def __call__(self, parameters: RedisSetting) -> Server:
        """Connect. Raises Unreachable."""
        from culpa.collect.redis_answers import NotAnswered
        from culpa.fix.hands import Unreachable

        try:
            return _Answers(parameters.server, self.link_to(parameters).connect(silence_seconds=SILENCE_SECONDS))
        except NotAnswered as reason:
            raise _unreachable(parameters.server, reason) from reason
        except UnicodeError as error:
            raise Unreachable(f"{parameters.server} is no address", way_out="name it with --server URL") from error

    def _is_named(self, one: RedisSetting) -> bool:
        assert self._link is not None
        address = self._link.address
        return (address.host, address.port, address.path) == (one.host, one.port, one.path)

    def link_to(self, one: RedisSetting) -> Link:
        """How that server is reached, with the credentials it may be given."""
        from culpa.collect.redis_answers import PASSWORD_VARIABLE as OTHER_VARIABLE
        from culpa.collect.redis_answers import Address, Credentials
        from culpa.collect.redis_link import Link

        if self._link is not None and self._is_named(one):
            return self._link
        said = (os.environ.get(PASSWORD_VARIABLE) or os.environ.get(OTHER_VARIABLE)) if self._trusted else None
        return Link(
            address=Address(host=one.host, port=one.port, path=one.path),
            credentials=Credentials(username=(one.user or None) if said else None, password=said or None),
            tls=self.tls if one.tls else None,
        )


class _Answers:
    """A connection, with its silence as culpa's own error."""

    def __init__(self, server: str, talker: Talker) -> None:
        self._server = server
        self._talker = talker

    def ask(self, *commands: tuple[str, ...]) -> list[object]:
        from culpa.collect.redis_answers import NotAnswered

        try:
            return list(self._talker.ask(*commands))
        except NotAnswered as reason:
            raise _unreachable(self._server, reason) from reason

    def close(self) -> None:
        self._talker.close()


def _unreachable(server: str, reason: NotAnswered) -> Unreachable:
    from culpa.fix.hands import Unreachable

    more = ", with --server redis://HOST:PORT" if "password" in reason.why else ""
    return Unreachable(f"Redis at {server}: {reason.why}", way_out=f"{reason.way_out}{more}")
