"""The cycle that deletes expired keys, in the numbers of one server's version and settings (src/expire.c).

Each 1/hz seconds, for each database, it looks at a sample of the keys that have a time to live and deletes the expired
ones; if too many were, it takes another sample at once, until its time is up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from culpa.units import NS_PER_SECOND

if TYPE_CHECKING:
    from culpa.diagnose.redisview import RedisView

SAMPLE, SAMPLE_A_STEP = 20, 5
"""ACTIVE_EXPIRE_CYCLE_KEYS_PER_LOOP (LOOKUPS_PER_LOOP before 6.0); a quarter more for each step of effort above 1."""
STALE_BEFORE_6, STALE_SINCE_6 = 25, 10
"""Percent of a sample: `expired > LOOKUPS_PER_LOOP/4`; ACTIVE_EXPIRE_CYCLE_ACCEPTABLE_STALE, less one for each step."""
TIME_PERCENT, TIME_A_STEP = 25, 2
"""ACTIVE_EXPIRE_CYCLE_SLOW_TIME_PERC of the time between two cycles, and more for each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireCycle:
    """`hz` cycles a second, as the server now runs; `sample` keys each; again from `stale_percent` on; at most
    `longest_ns`.
    """

    hz: float
    sample: int
    stale_percent: int
    longest_ns: int

    @property
    def looked_at(self) -> int:
        """Keys a second and database, where nothing makes it take another sample."""
        return int(self.sample * self.hz)


def of(view: RedisView) -> ExpireCycle | None:
    """That of one server; None where it does not say its version or hz.

    Since 6.0 active-expire-effort (1 to 10) shifts all of it. hz may be above the setting: with dynamic-hz it grows
    with the number of clients, and INFO says what it is now.
    """
    hz = view.number("hz") or view.number("hz", "CONFIG GET")
    if view.version is None or not hz:
        return None
    step = int(view.number("active-expire-effort", "CONFIG GET") or 1) - 1 if view.at_least(6) else 0
    percent = TIME_PERCENT + TIME_A_STEP * step
    return ExpireCycle(
        hz=hz, sample=SAMPLE + SAMPLE_A_STEP * step,
        stale_percent=STALE_SINCE_6 - step if view.at_least(6) else STALE_BEFORE_6,
        longest_ns=int(percent * NS_PER_SECOND / 100 / hz),
    )  # fmt: skip
