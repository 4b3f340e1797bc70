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

import msgspec

from culpa.diagnose.verdict import Verdict
from culpa.errors import LabError
from culpa.labs.site import Site

WHY_TIMEOUT_S = 240.0
"""The longest first request culpa waits for is 120 s; the rest is for attaching and judging."""
PAGE_TIMEOUT_S = 60.0
OUTPUT_LIMIT_BYTES = 64 << 20


class NoVerdictError(LabError):
    """culpa failed, or said something that is no verdict: its own fault, and not the lab's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict, and how long (s) it took from culpa's start to its end."""

    verdict: Verdict
    seconds: float


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


def page(site: Site, capture: Path, options: tuple[str, ...] = ()) -> str:
    """`culpa why FILE.culpa`: the page a person reads, from a saved capture."""
    return _culpa(site, ["why", str(capture), *options], timeout_s=PAGE_TIMEOUT_S).decode(errors="replace")


def _culpa(site: Site, arguments: list[str], *, timeout_s: float) -> bytes:
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
    if status != 0:
        raise NoVerdictError(f"culpa {arguments[0]} ended with status {status}: {program.last_words()}")
    with output.open("rb") as file:
        return file.read(OUTPUT_LIMIT_BYTES)
