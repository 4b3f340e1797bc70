"""What the user pointed at: the TARGET argument as one of a closed set of values.

The bottom layer: text in, a value out. Which processes a target stands for is found by `collect/resolve.py`.
Meaning is tried in this order: scheme, file, number, prefix, name. Credentials of a URL are kept apart, in fields that
never print, so that `display` can go into captures and reports.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from culpa.errors import UsageError
from culpa.units import printable

ZIP_MAGIC = b"PK\x03\x04"
CAPTURE_SUFFIX = ".culpa"
MAX_TARGET_CHARS = 4096
MAX_PORT = 65535
REDIS_PORT = 6379
HTTP_PORTS = {"http": 80, "https": 443}
FORMS = (
    "a URL, redis://HOST:PORT, a capture file, a PID, :PORT, unit:NAME, container:NAME, cgroup:PATH, a process name, "
    "or -- COMMAND"
)

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_GROUPS: dict[str, GroupKind] = {"unit": "unit", "container": "container", "cgroup": "cgroup"}
_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f]")
_SECRET_PARAMETER = re.compile(r"(?i)([^=&?]*(?:pass|pwd|secret|token|auth|key|sig|session|credential)[^=&?]*)=[^&]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTarget:
    """The whole host."""

    display: str = "this host"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlTarget:
    """An HTTP URL. `url` has neither credentials nor fragment; `display` has no secret query values either."""

    url: str = field(repr=False)
    display: str
    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTarget:
    """A Redis server: `host` and `port`, or `path` of a unix socket (then `host` is empty and `port` 0)."""

    display: str
    host: str
    port: int
    path: str | None = None
    tls: bool = False
    database: int = 0
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureTarget:
    """A saved capture."""

    path: Path
    display: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PidTarget:
    """One process by number."""

    pid: int
    display: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortTarget:
    """Whoever listens on a TCP port of this host."""

    port: int
    display: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTarget:
    """A process by its name, or by the path of its program."""

    name: str
    display: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandTarget:
    """A command to run and explain. The arguments may hold secrets, so `display` is the program alone."""

    argv: tuple[str, ...] = field(repr=False)
    display: str


GroupKind = Literal["unit", "container", "cgroup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTarget:
    """The processes of a control group and all below it: a systemd unit, a container, or a path."""

    kind: GroupKind
    name: str
    display: str


Target = (
    HostTarget
    | UrlTarget
    | RedisTarget
    | CaptureTarget
    | PidTarget
    | PortTarget
    | NameTarget
    | GroupTarget
    | CommandTarget
)


def parse_target(text: str | None) -> Target:
    """Say what TARGET means; `None` is the whole host.

    Raises:
        UsageError: it means nothing, or is of a form that culpa does not take yet.
    """
    if text is None:
        return HostTarget()
    if not text.strip() or len(text) > MAX_TARGET_CHARS or "\0" in text:
        raise UsageError("the target is empty, too long or holds a zero byte", way_out=f"name {FORMS}")
    return _by_scheme(text) or _by_file(text) or _by_number(text) or _by_prefix(text) or _by_name(text)


def command_target(argv: Sequence[str]) -> CommandTarget:
    """The target of `-- COMMAND ARGS...`.

    Raises:
        UsageError: there is no command.
    """
    if not argv or not argv[0]:
        raise UsageError("no command after --", way_out="write for example: culpa why -- sort big.txt")
    return CommandTarget(argv=tuple(argv), display=printable(Path(argv[0]).name))


def _by_scheme(text: str) -> Target | None:
    match = _SCHEME.match(text)
    if match is None:
        return None
    scheme = match[1].lower()
    if scheme not in {"http", "https", "redis", "rediss", "unix"}:
        raise UsageError(f"cannot watch a {printable(scheme, 20)}:// URL", way_out=f"name {FORMS}")
    parts = _split_url(text)
    if scheme in HTTP_PORTS:
        return _http(scheme, parts)
    return _redis_socket(parts) if scheme == "unix" else _redis(scheme, parts)


def _split_url(text: str) -> SplitResult:
    shown = _hide_credentials(text)
    if _UNSAFE_IN_URL.search(text):
        raise UsageError(f"the URL {shown} holds a space or control character", way_out="write it percent-encoded")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise UsageError(f"the URL {shown} is malformed", way_out="write scheme://host:port/path, port 1 to 65535")
    return parts


def _http(scheme: str, parts: SplitResult) -> UrlTarget:
    host = _host_of(parts)
    bare = parts.netloc.rpartition("@")[2]
    url = urlunsplit((scheme, bare, parts.path or "/", parts.query, ""))
    query = _SECRET_PARAMETER.sub(r"\1=***", parts.query)
    return UrlTarget(
        url=url,
        display=printable(urlunsplit((scheme, bare, parts.path or "/", query, "")), MAX_TARGET_CHARS),
        scheme=scheme,
        host=host,
        port=parts.port or HTTP_PORTS[scheme],
        user=_decoded(parts.username),
        password=_decoded(parts.password),
    )


def _redis(scheme: str, parts: SplitResult) -> RedisTarget:
    host = _host_of(parts)
    port = parts.port or REDIS_PORT
    database = _database(parts.path.strip("/") or "0")
    name = f"[{host}]" if ":" in host else host
    return RedisTarget(
        display=printable(f"{scheme}://{name}:{port}/{database}"),
        host=host,
        port=port,
        tls=scheme == "rediss",
        database=database,
        user=_decoded(parts.username) or None,
        password=_decoded(parts.password),
    )


def _redis_socket(parts: SplitResult) -> RedisTarget:
    path = unquote(parts.path)
    if not path.startswith("/") or parts.hostname:
        raise UsageError("a unix:// URL needs an absolute path", way_out="write unix:///run/redis/redis.sock")
    return RedisTarget(
        display=printable(f"unix://{path}"),
        host="",
        port=0,
        path=path,
        database=_database(dict(_pairs(parts.query)).get("db", "0")),
        user=_decoded(parts.username) or None,
        password=_decoded(parts.password),
    )


def _pairs(query: str) -> list[tuple[str, str]]:
    return [(name, unquote(value)) for name, _, value in (part.partition("=") for part in query.split("&"))]


def _database(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise UsageError(f"{printable(text, 40)} is not the number of a Redis database", way_out="write redis://HOST/0")
    return int(text)


def _host_of(parts: SplitResult) -> str:
    if not parts.hostname:
        raise UsageError("the URL names no host", way_out="write for example http://127.0.0.1:8000/path")
    return parts.hostname


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _hide_credentials(text: str) -> str:
    """For messages about a URL that could not be parsed: everything up to the last @ may be a credential."""
    scheme, _, rest = text.partition("://")
    return printable(f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}")


def _by_file(text: str) -> CaptureTarget | None:
    path = Path(text)
    looks_saved = path.suffix == CAPTURE_SUFFIX
    try:
        mode = path.stat().st_mode
    except OSError as problem:
        if looks_saved:
            raise UsageError(
                f"cannot find the capture {printable(text)}: {problem.strerror}", way_out="check the path"
            ) from problem
        return None
    # A path to a file that is neither a capture nor a program can only be meant as a capture; opening it says what is
    # wrong. A bare word may also be a process name.
    regular = stat.S_ISREG(mode)
    if not regular and (looks_saved or "/" in text):
        raise _no_capture(text, mode)
    meant = looks_saved or ("/" in text and not os.access(path, os.X_OK))
    if regular and (meant or _starts_like_zip(path)):
        return CaptureTarget(path=path, display=printable(path.name))
    return None


def _no_capture(text: str, mode: int) -> UsageError:
    """About a path to something that is neither a capture nor a program."""
    if stat.S_ISSOCK(mode):
        return UsageError(f"{printable(text)} is a socket", way_out="write unix:///PATH if a Redis listens there")
    kind = "directory" if stat.S_ISDIR(mode) else "device or pipe"
    return UsageError(f"{printable(text)} is a {kind}, not a capture", way_out="name a file made by culpa record")


def _starts_like_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    except OSError:
        return False


def _by_number(text: str) -> PidTarget | None:
    if not _is_number(text):
        return None
    if int(text) == 0:
        raise UsageError("there is no process 0", way_out="name a PID above 0, or nothing for the whole host")
    return PidTarget(pid=int(text), display=str(int(text)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10


def _by_prefix(text: str) -> PortTarget | GroupTarget | None:
    if text.startswith(":"):
        number = text[1:]
        if not _is_number(number) or not 0 < int(number) <= MAX_PORT:
            raise UsageError(f"{printable(text, 40)} is not a port", way_out="write :PORT, 1 to 65535")
        return PortTarget(port=int(number), display=f":{int(number)}")
    kind, _, name = text.partition(":")
    if kind not in _GROUPS:
        return None
    if not name.strip("/") and kind != "cgroup":
        raise UsageError(f"{printable(text, 40)} names nothing", way_out=f"write {kind}:NAME")
    if ".." in name.split("/"):
        raise UsageError(f"{printable(text)} leads upwards", way_out="write the path as /proc/PID/cgroup has it")
    return GroupTarget(kind=_GROUPS[kind], name=name, display=printable(text))


def _by_name(text: str) -> NameTarget:
    return NameTarget(name=text, display=printable(text))
