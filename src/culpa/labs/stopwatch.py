"""The lab's own clock: one HTTP request at a time, timed without any part of what culpa measures with."""

from __future__ import annotations

import http.client
import statistics
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from culpa.errors import LabError
from culpa.labs.site import Program

ANSWER_LIMIT_BYTES = 64 << 20
READY_TIMEOUT_S = 20.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer; `seconds` from before connecting to the last byte."""

    status: int
    body: bytes
    seconds: float


def get(url: str, *, timeout_s: float = 180.0) -> Answer:
    """One GET over a new connection.

    Raises:
        LabError: no whole answer came, or its status is not 200.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    started = time.monotonic()
    try:
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        body = response.read(ANSWER_LIMIT_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise LabError(f"no answer from {url}: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise LabError(f"{url} answered {response.status}: {body[:200].decode(errors='replace')}")
    return Answer(status=response.status, body=body, seconds=time.monotonic() - started)


def median_seconds(url: str, *, requests: int) -> float:
    """Median of the time of some requests, one after the other."""
    return statistics.median(get(url).seconds for _ in range(requests))


def longest_seconds(url: str, *, for_s: float) -> float:
    """The longest of the requests that fit, one after the other, into some seconds; the last one may outlast them."""
    started = time.monotonic()
    longest = get(url).seconds
    while time.monotonic() < started + for_s:
        longest = max(longest, get(url).seconds)
    return longest


def wait_ready(url: str, program: Program) -> None:
    """Ask until the program answers; raises LabError if it ends or stays silent."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        program.require_running()
        try:
            get(url, timeout_s=READY_TIMEOUT_S)
        except LabError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(POLL_S)
        else:
            return
