"""Command lines fit to be stored: passwords masked, control characters made visible, length bounded.

/proc/PID/cmdline holds whatever a process wants, often with credentials in it. Masking is by form, not by program: it
would rather hide a harmless word than store a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from culpa.collect.procfs import decoded, read_bounded
from culpa.units import printable

MAX_CMDLINE_BYTES = 4096
MAX_CMDLINE_CHARS = 500
MASK = "***"

_TELLING = r"pass(?:w(?:or)?d|phrase)?|pwd|secret|token|auth|credential|api-?_?key|access-?_?key|private-?_?key"
_SECRET_OPTION = re.compile(rf"(?i)--?[\w.-]*(?:{_TELLING})[\w.-]*")
_SECRET_WORD = re.compile(r"(?i)(?:auth|requirepass|masterauth|primaryauth|identified|password|bearer|basic)")
_SHORT_OPTION = re.compile(r"-[ap]")
_ATTACHED = re.compile(r"-p(?=.*\S)(?!\w*-)\S+")
_ASSIGNMENT = re.compile(rf"(?i)([\w.:-]*(?:{_TELLING})[\w.-]*)=([^&\s]+)")
_USERINFO = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@]*(?:@[^/\s@]*)*@")
_HEADER = re.compile(rf"(?i)^((?:[\w-]*(?:{_TELLING})[\w-]*|authorization|cookie|set-cookie)\s*:).*", re.DOTALL)
_USER_OPTION = re.compile(r"(?:-u|--user|--proxy-user)")
_PORT_NUMBER = re.compile(r"\d{1,5}")
_BLANKS = re.compile(r"(\s+)")


def read_cmdline(proc_root: Path, pid: int) -> str | None:
    """The masked command line of a process; None where it is gone, empty for kernel threads and zombies."""
    raw = read_bounded(proc_root / str(pid) / "cmdline", MAX_CMDLINE_BYTES)
    return None if raw is None else parse_cmdline(raw)


def parse_cmdline(raw: bytes) -> str:
    """Arguments joined by blanks, masked and bounded; `raw` is NUL-separated as the kernel gives it."""
    return printable(" ".join(masked_arguments(arguments_of(raw))), MAX_CMDLINE_CHARS)


def arguments_of(raw: bytes) -> tuple[str, ...]:
    """The arguments of a cmdline file, unmasked: for looking up names, never for storing."""
    return tuple(decoded(part) for part in raw.rstrip(b"\0").split(b"\0")) if raw.strip(b"\0") else ()


def masked_arguments(arguments: Iterable[str]) -> list[str]:
    """Each argument with its secrets replaced by `***`; an argument after a password option is hidden whole."""
    shown: list[str] = []
    before = ""
    for argument in arguments:
        shown.append(_masked_after(before, argument))
        before = argument
    return shown


def _masked_after(before: str, argument: str) -> str:
    if _SECRET_OPTION.fullmatch(before) or _SECRET_WORD.fullmatch(before):
        return MASK
    if _SHORT_OPTION.fullmatch(before) and not argument.startswith("-"):
        is_port = before == "-p" and _PORT_NUMBER.fullmatch(argument) is not None
        return argument if is_port else MASK
    if _USER_OPTION.fullmatch(before) and ":" in argument:
        return f"{argument.partition(':')[0]}:{MASK}"
    return _masked(argument)


def _masked(argument: str) -> str:
    header = _HEADER.match(argument)
    if header is not None:
        return f"{header[1]} {MASK}"
    if _BLANKS.search(argument):
        return _masked_sentence(argument)
    attached = _ATTACHED.fullmatch(argument)
    if attached is not None and not argument.startswith("--"):
        return f"-p{MASK}"
    return _ASSIGNMENT.sub(rf"\1={MASK}", _USERINFO.sub(rf"\1{MASK}@", argument))


def _masked_sentence(argument: str) -> str:
    """An argument with blanks: a shell command, a connection string, or a title set by the process itself."""
    parts = _BLANKS.split(_USERINFO.sub(rf"\1{MASK}@", argument))
    return "".join(word + blank for word, blank in zip(masked_arguments(parts[::2]), [*parts[1::2], ""], strict=True))
