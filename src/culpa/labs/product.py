"""culpa as its users run it: a separate process, judged by what it prints. A lab never calls the stages itself."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from culpa.diagnose.verdict import Verdict
from culpa.errors import LabError
from culpa.fix.trialviews import FixMeasured
from culpa.fix.views import FixList, FixUndone
from culpa.labs.lab import Repair
from culpa.labs.site import Site

WHY_TIMEOUT_S = 240.0
"""The longest first request culpa waits for is 120 s; the rest is for attaching and judging."""
PAGE_TIMEOUT_S = 60.0
FIX_TIMEOUT_S = 360.0
"""Three answers may be waited for before a fix and three after it, two minutes each way at most."""
DONE, COULD_NOT = 0, 1
_T = TypeVar("_T")
OUTPUT_LIMIT_BYTES = 64 << 20


class NoVerdictError(LabError):
    """culpa failed, or said something that is no verdict: its own fault, and not the lab's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict, and how long (s) it took from culpa's start to its end; `repair` where a fix of it was tried."""

    verdict: Verdict
    seconds: float
    repair: Repair | None = None


def why(site: Site, url: str, *, trace: bool, save: Path | None = None) -> Judged:
    """`culpa why URL --json`: the verdict, decoded strictly.

    Raises:
        NoVerdictError: it failed, said nothing, or said something that is no verdict.
    """
    return _judged(site, ["why", *_options(trace), *(["--save", str(save)] if save else []), url])


def why_command(site: Site, argv: list[str], *, trace: bool) -> Judged:
    """`culpa why --json -- COMMAND`, run as whoever runs the lab; as `why`."""
    return _judged(site, ["why", *_options(trace), "--user", pwd.getpwuid(os.geteuid()).pw_name, "--", *argv])


def redis(site: Site, url: str, *, trace: bool, seconds: int) -> Judged:
    """`culpa redis URL --json`, watching for so many seconds; as `why`."""
    return _judged(site, ["redis", *_options(trace), "--for", f"{seconds}s", url])


def _options(trace: bool) -> list[str]:
    return ["--json"] if trace else ["--json", "--no-trace"]


def _judged(site: Site, arguments: list[str]) -> Judged:
    started = time.monotonic()
    text = _culpa(site, arguments, timeout_s=WHY_TIMEOUT_S)
    seconds = time.monotonic() - started
    try:
        return Judged(verdict=msgspec.json.decode(text, type=Verdict), seconds=seconds)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoVerdictError(f"culpa {arguments[0]} --json printed no verdict: {error}") from error


def _answer(site: Site, arguments: list[str], kind: type[_T], statuses: tuple[int, ...] = (DONE,)) -> _T:
    text = _culpa(site, arguments, timeout_s=FIX_TIMEOUT_S, statuses=statuses)
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoVerdictError(f"culpa fix --json printed something else: {error}") from error


def look_at_fix(site: Site, verdict: Path, fix: str) -> FixList:
    """`culpa fix ID --json`: that fix, tried against the live state; nothing is changed.

    Raises:
        NoVerdictError: it failed, or said something else.
    """
    return _answer(site, ["fix", fix, "--from", str(verdict), "--json"], FixList)


def apply_fix(site: Site, verdict: Path, fix: str) -> FixMeasured:
    """`culpa fix ID --apply --verify --json`: measured before and after, and undone by itself if that is worse; as
    `look_at_fix`.
    """
    arguments = ["fix", fix, "--from", str(verdict), "--apply", "--verify", "--json"]
    return _answer(site, arguments, FixMeasured, (DONE, COULD_NOT))


def undo_fix(site: Site, record: str) -> FixUndone:
    """`culpa fix --undo RECORD --json`; as `look_at_fix`."""
    return _answer(site, ["fix", "--undo", record, "--json"], FixUndone, (DONE, COULD_NOT))


def page(site: Site, capture: Path, options: tuple[str, ...] = ()) -> str:
    """`culpa why FILE.culpa`: the page a person reads, from a saved capture."""
    return _culpa(site, ["why", str(capture), *options], timeout_s=PAGE_TIMEOUT_S).decode(errors="replace")


def _culpa(site: Site, arguments: list[str], *, timeout_s: float, statuses: tuple[int, ...] = (DONE,)) -> bytes:
    output = site.directory / "culpa.out"
    output.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "culpa", *arguments]
    program = site.start(argv, name="culpa", output=output, cwd=Path.cwd())  # a relative PYTHONPATH stays right
    try:
        status = program.popen.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise NoVerdictError(f"culpa {arguments[0]} did not end within {timeout_s:.0f} s") from error
    finally:
        program.stop(by=signal.SIGINT)
    if status not in statuses or (status and not output.stat().st_size):  # a sentence instead of JSON
        raise NoVerdictError(f"culpa {arguments[0]} ended with status {status}: {program.last_words()}")
    with output.open("rb") as file:
        return file.read(OUTPUT_LIMIT_BYTES)
