"""Who asks the victim while a fix is off and on: the interface, and a watch over what it answers.

The questions are the caller's, as no collector is imported here. Times are CLOCK_MONOTONIC; a question belongs to the
stretch of time in which it was sent, whenever its answer came.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np

from culpa.fix.alternation import Times, far_worse, worse
from culpa.units import NS_PER_SECOND, format_seconds, format_share

POLL_SECONDS: Final = 0.05
STALL_SECONDS: Final = 1.0
STALL_FACTOR: Final = 3.0
"""A question that waits longer than that many times the slowest without the fix, and a second, is a standstill."""
FEW_ERRORS: Final = 3
"""Where some fail without the fix as well: fewer than so many in a stretch are no news."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question that was answered, or came to nothing. `seconds`: None where no answer came."""

    start_ns: int
    seconds: float | None
    error: str = ""


class Probe(Protocol):
    """Asks the same again and again, at most one at a time, until it is stopped."""

    @property
    def what(self) -> str:
        """What it asks, in words that may be printed."""
        ...

    def start(self) -> None:
        """Ask the first time."""
        ...

    def answers(self) -> Sequence[Answer]:
        """Those that ended so far, in the order they were sent; only ever appended to."""
        ...

    def waits_since_ns(self) -> int | None:
        """When the question was sent that has no answer yet."""
        ...

    def stop(self) -> None:
        """Ask no more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Answers to what was asked in a stretch of time. `began`: seconds of CLOCK_MONOTONIC, of each in `times`."""

    times: Times
    began: Times
    errors: int = 0
    last_error: str = ""

    @property
    def count(self) -> int:
        """Questions that ended."""
        return len(self.times) + self.errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Why a fix has to go at once, in words that follow "with the fix". `sure`: no burst of noise is so."""

    kind: Literal["errors", "worse"]
    words: str
    sure: bool = True


def stretch(answers: Sequence[Answer], start_ns: int, end_ns: int) -> Stretch:
    """What was asked from `start_ns` on and before `end_ns`."""
    first, last = (bisect_left(answers, moment, key=lambda one: one.start_ns) for moment in (start_ns, end_ns))
    inside = answers[first:last]
    sound = [one for one in inside if not one.error and one.seconds is not None]
    wrong = [one for one in inside if one.error or one.seconds is None]
    return Stretch(
        times=np.array([one.seconds for one in sound], np.float64),
        began=np.array([one.start_ns / NS_PER_SECOND for one in sound], np.float64),
        errors=len(wrong), last_error=wrong[-1].error if wrong else "",
    )  # fmt: skip


def alarm(off: Sequence[Stretch], on: Stretch, waits_seconds: float) -> Alarm | None:
    """Whether a stretch with the fix is worse than those without it: errors, a standstill, a slower p99.

    Args:
        off: stretches without the fix so far.
        on: the present stretch.
        waits_seconds: how long the open question of that stretch has been waiting.
    """
    errors_off, asked_off = sum(one.errors for one in off), sum(one.count for one in off)
    usual = errors_off / asked_off if asked_off else 0.0
    if on.errors and (not errors_off or (on.errors >= FEW_ERRORS and on.errors > 3 * usual * on.count)):
        before = f"{errors_off} of {asked_off} before" if errors_off else "none did before"
        return Alarm(kind="errors", words=f"questions fail ({on.last_error or 'no answer'}), {before}")
    slowest = max((float(one.times.max()) for one in off if len(one.times)), default=0.0)
    if waits_seconds > max(STALL_SECONDS, STALL_FACTOR * slowest):
        words = f"a question waits for {format_seconds(waits_seconds)}, the slowest before took"
        return Alarm(kind="worse", words=f"{words} {format_seconds(slowest)}")
    calm = [one.times for one in off if len(one.times)]
    sure = far_worse(calm, on.times)
    if sure or worse(calm, on.times):
        p99 = float(np.quantile(np.concatenate(calm), 0.99))
        above = float((on.times > p99).mean())
        words = f"{format_share(above)} of the answers are slower than the p99 without it"
        return Alarm(kind="worse", words=f"{words} ({format_seconds(p99)})", sure=sure)
    return None


class Watch:
    """Waits while a probe asks, and looks on."""

    def __init__(self, probe: Probe, say: Callable[[str], None]) -> None:
        self._probe = probe
        self._say = say

    def until(self, deadline: float, state: str, look: Callable[[], Alarm | None] = lambda: None) -> Alarm | None:
        """Wait until that moment (time.monotonic), or until `look` gives an alarm; `state` is the line that changes."""
        while (left := deadline - time.monotonic()) > 0:
            self._say(f"{state}, {left:.0f} s left")
            time.sleep(min(POLL_SECONDS, left))
            if (found := look()) is not None:
                return found
        return None

    def asked(self, start_ns: int, end_ns: int | None = None) -> Stretch:
        """What was asked since then."""
        return stretch(self._probe.answers(), start_ns, time.monotonic_ns() + 1 if end_ns is None else end_ns)

    def waits_seconds(self, start_ns: int) -> float:
        """Of the open question, if it was sent since then."""
        since = self._probe.waits_since_ns()
        return (time.monotonic_ns() - since) / NS_PER_SECOND if since is not None and since >= start_ns else 0.0
