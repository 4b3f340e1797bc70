"""One Redis server, asked once: a fixed list of read-only commands and their replies as facts.

The protocol half of `redis.py`. A password goes only to a server that wants one, over a connection that is proven. What
is asked holds no secret; of the slow log only the verb and the number of arguments are kept. Replies are bounded in
number and width, and made printable before anything else sees them.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from culpa.units import printable

TIMEOUT_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 0.5
"""To an address of this host, or on a link of it."""
MAX_FIELDS: Final = 2000
MAX_VALUE_CHARS: Final = 500
SLOWLOG_ENTRIES: Final = 16
PASSWORD_VARIABLE: Final = "CULPA_REDIS_PASSWORD"  # noqa: S105  # the name of a variable, not a password

SETTINGS: Final = (
    "activedefrag", "activerehashing", "appenddirname", "appendfilename", "appendfsync", "appendonly",
    "auto-aof-rewrite-min-size", "auto-aof-rewrite-percentage", "aof-use-rdb-preamble", "dir", "hz", "dynamic-hz",
    "io-threads", "io-threads-do-reads", "latency-monitor-threshold", "lazyfree-lazy-eviction", "lazyfree-lazy-expire",
    "lazyfree-lazy-server-del", "lazyfree-lazy-user-del", "lazyfree-lazy-user-flush", "maxclients", "maxmemory",
    "maxmemory-policy", "no-appendfsync-on-rewrite", "rdbcompression", "save", "slowlog-log-slower-than",
    "slowlog-max-len", "stop-writes-on-bgsave-error", "tcp-backlog", "timeout",
)  # fmt: skip
_MORE_ARGUMENTS: Final = re.compile(rb"\.\.\. \((\d+) more arguments\)")

Proof = Callable[[socket.socket], bool | None]
"""Whether the other end of a connection is of a certain process; None: nobody has accepted it yet."""
Reply = bytes | int | float | bool | str | None | list["Reply"] | dict["Reply", "Reply"] | Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server listens: host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None
    must_be_proven: bool = False
    """Not the server's own word but a way to it from another network namespace: others may answer there."""

    @property
    def shown(self) -> str:
        """As it may be printed."""
        return printable(f"unix:{self.path}" if self.path else f"{self.host}:{self.port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who to be towards a server; never stored, never shown."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> Credentials:
        """The password in CULPA_REDIS_PASSWORD, if there is one."""
        return cls(password=os.environ.get(PASSWORD_VARIABLE) or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One row of `schema.REDIS`, without server and moment."""

    source: str
    field: str
    value: str


class NotAnswered(Exception):
    """A server did not say what it was asked; the sentence says why."""

    def __init__(self, why: str, way_out: str, *, busy: bool = False, wants_password: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.way_out = way_out
        self.busy = busy
        """It may answer later."""
        self.wants_password = wants_password


_Line = Any
"""A connection of redis-py, which has no types for it."""
COMMANDS: Final[tuple[tuple[str, ...], ...]] = (
    ("INFO",),
    ("INFO", "commandstats"),
    ("LATENCY", "LATEST"),
    ("SLOWLOG", "LEN"),
    ("SLOWLOG", "GET", str(SLOWLOG_ENTRIES)),
    ("CLIENT", "INFO"),
    *(("CONFIG", "GET", name) for name in SETTINGS),
)


def ask(address: Address, credentials: Credentials) -> list[Fact]:
    """Ask one server once, in two round trips.

    Raises:
        NotAnswered: it is silent, is no Redis, or wants a password.
    """
    with asking(address, credentials) as facts:
        return facts


@contextmanager
def asking(address: Address, credentials: Credentials, *, proves: Proof = lambda _: True) -> Iterator[list[Fact]]:
    """Ask one server once; the connection is there until the block ends.

    Args:
        address: where it listens.
        credentials: sent only where a password is wanted, and only over a connection that is proven.
        proves: whether the other end of a connection is whom the questions are meant for.

    Raises:
        NotAnswered: it is silent, is no Redis, or wants a password.
    """
    line = _line(address)
    try:
        yield _asked(line, address, credentials, proves)
    finally:
        line.disconnect()


def _asked(line: _Line, address: Address, credentials: Credentials, proves: Proof) -> list[Fact]:
    try:
        proven = _open(line, proves)
        if address.must_be_proven and not proven:
            raise NotAnswered(f"somebody else answers at {address.shown}", "let it listen where nobody else does")
        greeting = _greeting(line)
        if isinstance(greeting, redis.exceptions.AuthenticationError):
            _say_password(line, credentials, proves)
            greeting = _greeting(line)
        if isinstance(greeting, Exception) and str(greeting).startswith("DENIED"):
            raise NotAnswered("it answers only in its own network namespace (protected-mode)", "ask it from there")
        if greeting != b"PONG":
            raise NotAnswered("it does not answer PING as a Redis does", "check its state: it may be loading")
        return list(facts_of(COMMANDS, _converse(line, COMMANDS)))
    except redis.exceptions.TimeoutError as error:
        why = f"it did not answer within {TIMEOUT_SECONDS:.0f} s"
        raise NotAnswered(why, "ask it again when it is less busy", busy=True) from error
    except (redis.exceptions.RedisError, OSError, ValueError, RecursionError) as error:  # lists in lists in lists
        raise NotAnswered("it does not answer as a Redis does", "check that it takes plain connections") from error


def _line(address: Address) -> _Line:
    """A connection that sends nothing of its own, retries nothing and leaves replies as they are."""
    kind: Any = redis.Connection if address.path is None else redis.UnixDomainSocketConnection
    where: dict[str, str | int | None] = {"host": address.host, "port": address.port}
    return kind(
        **(where if address.path is None else {"path": address.path}),
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
    )


def _open(line: _Line, proves: Proof) -> bool:
    """Connect, and say whether the other end is whom the questions are meant for; a busy server has a moment to accept.

    Raises:
        NotAnswered: it does not accept.
    """
    line.connect()
    deadline, pause = time.monotonic() + TIMEOUT_SECONDS, 0.005
    connection = line._sock  # redis-py shows it to nobody, and nothing has been sent yet
    while (proven := proves(connection)) is None:
        if time.monotonic() > deadline:
            why = f"it did not accept a connection within {TIMEOUT_SECONDS:.0f} s"
            raise NotAnswered(why, "ask it again when it is less busy", busy=True)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return proven


def _greeting(line: _Line) -> Reply:
    return _converse(line, (("PING",),))[0]


def _say_password(line: _Line, credentials: Credentials, proves: Proof) -> None:
    """On a new connection, since redis-py cannot go on after such a refusal; this one must be proven in any case.

    Raises:
        NotAnswered: there is no password, or none that it takes, or somebody else would hear it.
    """
    way_out = f"set {PASSWORD_VARIABLE} in culpa's environment, or name a redis:// URL with the password"
    if credentials.password is None:
        raise NotAnswered("it wants a password", way_out)
    line.disconnect()
    if not _open(line, proves):
        raise NotAnswered("it wants a password, and another program stands between it and culpa", way_out)
    who = () if credentials.username is None else (credentials.username,)
    if isinstance(_converse(line, (("AUTH", *who, credentials.password),))[0], Exception):
        raise NotAnswered("it wants another password", way_out)


def _converse(line: _Line, commands: Sequence[tuple[str, ...]]) -> list[Reply]:
    """Send all at once, then read one reply each; a refused command has its error as reply."""
    line.send_packed_command(line.pack_commands(commands))
    return [_reply(line) for _ in commands]


def _reply(line: _Line) -> Reply:
    try:
        return cast("Reply", line.read_response(disconnect_on_error=False))
    except _REFUSALS as refusal:
        return refusal


_REFUSALS: Final = (
    redis.exceptions.ResponseError,
    redis.exceptions.AuthenticationError,
    redis.exceptions.BusyLoadingError,
)
"""What a server says instead of an answer; the connection goes on."""


def refusal(error: Exception) -> str:
    """An error as the server said it: its code (NOPERM, LOADING), which redis-py takes off those it knows, first."""
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if code else str(error)


def facts_of(commands: Sequence[tuple[str, ...]], replies: Sequence[Reply]) -> Iterator[Fact]:
    """The facts in the replies, one reply a command; a reply of another shape than the command's gives none."""
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, Exception):
            yield Fact(source="refused", field=" ".join(command), value=printable(refusal(reply).partition(" ")[0], 40))
        elif command[0] == "INFO" and isinstance(reply, bytes):
            yield from _info(reply)
        elif command[0] == "CONFIG" and isinstance(reply, list):
            yield from _settings(reply)
        elif command == ("LATENCY", "LATEST") and isinstance(reply, list):
            yield from _latest(reply)
        elif command == ("SLOWLOG", "LEN") and isinstance(reply, int):
            yield Fact(source="SLOWLOG LEN", field="length", value=str(reply))
        elif command[:2] == ("SLOWLOG", "GET") and isinstance(reply, list):
            yield from _slow_entries(reply)
        elif command == ("CLIENT", "INFO") and isinstance(reply, bytes):
            found = re.search(rb"\baddr=(\S+)", reply)
            if found:  # culpa's own connection, so that its questions are not taken for the server's load
                yield Fact(source="CLIENT INFO", field="addr", value=_text(found[1]))


def _info(reply: bytes) -> Iterator[Fact]:
    section = "server"
    for line in reply.splitlines()[:MAX_FIELDS]:
        if line.startswith(b"#"):
            section = _text(line[1:].strip()).lower()
            continue
        name, colon, value = line.partition(b":")
        if colon:
            yield Fact(source=f"INFO {section}", field=_text(name), value=_text(value))


def _settings(reply: list[Reply]) -> Iterator[Fact]:
    for name, value in zip(reply[::2], reply[1::2], strict=False):
        if isinstance(name, bytes) and isinstance(value, bytes) and _text(name) in SETTINGS:
            yield Fact(source="CONFIG GET", field=_text(name), value=_text(value))


def _latest(reply: list[Reply]) -> Iterator[Fact]:
    """Each event of the latency monitor: name, time of the latest spike (unix s), latest ms, all-time maximum ms."""
    for entry in reply[:64]:
        if isinstance(entry, list) and len(entry) >= 4 and isinstance(entry[0], bytes):
            for part, value in zip(("at_unix", "latest_ms", "max_ms"), entry[1:4], strict=True):
                yield Fact(source="LATENCY LATEST", field=f"{_text(entry[0])}.{part}", value=_text(value))


def _slow_entries(reply: list[Reply]) -> Iterator[Fact]:
    """Each entry of the slow log: id, unix time, microseconds, arguments; of these the verb and their number."""
    for entry in reply[:SLOWLOG_ENTRIES]:
        if not isinstance(entry, list) or len(entry) < 4 or not isinstance(entry[3], list) or not entry[3]:
            continue
        arguments = [part for part in entry[3] if isinstance(part, bytes)]
        more = _MORE_ARGUMENTS.fullmatch(arguments[-1]) if arguments else None
        count = len(arguments) - 1 + int(more[1]) if more else len(arguments)
        verb = _text(arguments[0])[:32].upper() if arguments else ""
        for part, value in (("at_unix", entry[1]), ("us", entry[2]), ("verb", verb), ("arguments", count)):
            yield Fact(source="SLOWLOG GET", field=f"{_text(entry[0])}.{part}", value=_text(value))


def _text(value: Reply) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return printable(text, MAX_VALUE_CHARS)
