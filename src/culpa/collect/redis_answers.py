"""One Redis server, asked once: a fixed list of read-only commands and their replies as facts.

The protocol half of `redis.py`. What is asked holds no secret; of the slow log only the verb and the number of
arguments are kept. Replies are bounded in number and width, and made printable before anything else sees them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from culpa.units import printable

TIMEOUT_SECONDS: Final = 1.0
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

Reply = bytes | int | float | bool | str | None | list["Reply"] | dict["Reply", "Reply"] | Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server listens: host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

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
    client = _client(address, credentials)
    try:
        (greeting,) = _converse(client, (("PING",),))
        if isinstance(greeting, redis.exceptions.AuthenticationError):
            raise greeting
        if greeting != b"PONG":
            raise NotAnswered("it does not answer PING as a Redis does", "check its state: it may be loading")
        return list(facts_of(COMMANDS, _converse(client, COMMANDS)))
    except redis.exceptions.AuthenticationError as error:
        way_out = f"set {PASSWORD_VARIABLE} in culpa's environment, or name a redis:// URL with the password"
        why = "it wants a password" if credentials.password is None else "it wants another password"
        raise NotAnswered(why, way_out) from error
    except redis.exceptions.TimeoutError as error:
        why = f"it did not answer within {TIMEOUT_SECONDS:.0f} s"
        raise NotAnswered(why, "ask it again when it is less busy", busy=True) from error
    except (redis.exceptions.RedisError, OSError, ValueError) as error:
        raise NotAnswered("it does not answer as a Redis does", "check that it takes plain connections") from error
    finally:
        client.close()


def _client(address: Address, credentials: Credentials) -> redis.Redis:
    """A client that sends nothing of its own, retries nothing and leaves replies as they are."""
    client = redis.Redis(
        host=address.host,
        port=address.port,
        unix_socket_path=address.path,
        username=credentials.username,
        password=credentials.password,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
    )
    client.response_callbacks.clear()
    return client


def _converse(client: redis.Redis, commands: Sequence[tuple[str, ...]]) -> list[Reply]:
    """Send all at once, then read one reply each; a refused command has its error as reply."""
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis has no types for it
    return cast("list[Reply]", pipeline.execute(raise_on_error=False))


def facts_of(commands: Sequence[tuple[str, ...]], replies: Sequence[Reply]) -> Iterator[Fact]:
    """The facts in the replies, one reply a command; a reply of another shape than the command's gives none."""
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, Exception):
            yield Fact(source="refused", field=" ".join(command), value=printable(str(reply).partition(" ")[0], 40))
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
