"""A Redis server as the user names it: where it is, who to be, and the password from the environment or a prompt."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import typer

from culpa.errors import UsageError
from culpa.talk import Talk
from culpa.units import printable

if TYPE_CHECKING:
    from culpa.collect.redis_link import Link, Tls
    from culpa.target import RedisTarget

PASSWORD_VARIABLE: Final = "REDISCLI_AUTH"  # noqa: S105  # the name of a variable, not a password


def reach(url: str, tls: Tls, talk: Talk) -> tuple[RedisTarget, Link]:
    """The server that a URL names, and how to reach it; a password in the URL works, and earns a word."""
    from culpa.collect.redis_answers import Address, Credentials
    from culpa.collect.redis_link import Link
    from culpa.target import RedisTarget, parse_target

    target = parse_target(url)
    if not isinstance(target, RedisTarget):
        raise UsageError(f"{printable(url, 80)} is no Redis URL", way_out="write redis://HOST:PORT or unix:///PATH")
    if target.password is not None:
        talk.say(f"the password in the URL can be read in the list of processes; {PASSWORD_VARIABLE} is safer")
    password = target.password or os.environ.get(PASSWORD_VARIABLE) or None
    link = Link(
        address=Address(host=target.host, port=target.port, path=target.path),
        credentials=Credentials(username=target.user, password=password),
        database=target.database,
        tls=tls if target.tls else None,
    )
    if link.credentials.password is None and link.wants_password():
        somebody_there = sys.stdin is not None and sys.stdin.isatty()
        asked = f"password of {target.display}"
        typed = typer.prompt(asked, hide_input=True, err=True, default="") if somebody_there else ""
        link = link.with_password(typed or None)
    return target, link
