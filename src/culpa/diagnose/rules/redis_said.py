"""Rules that hold what a Redis server says of itself against a limit: none of these is a measured wait, so each is a
note, or a risk where data or service is at stake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.rule import Rule, rule
from culpa.diagnose.verdict import Evidence, Fix, On

NOTHING = Moments.union(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
"""The moments of what nobody waited for."""
TIMES = frozenset({"s", "ms", "us"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a state says when it holds."""

    evidence: tuple[Evidence, ...]
    fixes: tuple[Fix, ...] = ()
    setting: str | None = None
    command: str | None = None
    risk: bool = False
    confidence: float = 0.9


State = Callable[[RedisView], Said | None]


def state(id: str, title: str, why: str) -> Callable[[State], Rule]:  # the field's own word
    """Make a rule of a function that says what holds; its docstring is what the rule detects."""

    def decorate(holds: State) -> Rule:
        @each_server
        def check(view: RedisView) -> Iterator[Finding]:
            said = holds(view)
            if said is not None and (said.risk or view.picture.is_checkup):
                yield Finding(
                    moments=NOTHING, nearness=Nearness.SETTING, pid=view.pid, tid=None,
                    on=On(peer=view.server, setting=said.setting, command=said.command), evidence=said.evidence,
                    confidence=said.confidence, fixes=said.fixes, only_note=not said.risk,
                    kind="risk" if said.risk else "slowness",
                )  # fmt: skip

        check.__doc__ = (
            f"What it detects: {holds.__doc__}\n\nWhy it slows you: {why}.\n\n"
            "How sure: the server says so itself; nothing is inferred.\n\n"
            "What to do: as the fix says, which is fitted to what this server allows."
        )
        return rule(id=id, title=title, needs=(), fixes=(), fires=(), silent=())(check)

    return decorate


def fact(fact: str, value: float | str, source: str, *, unit: str = "", limit: float | str | None = None) -> Evidence:
    """A measured fact. A time is a float in the JSON, whole or not; a whole number of anything else is an integer."""
    if unit in TIMES:
        value = value if isinstance(value, str) else float(value)
        limit = float(limit) if isinstance(limit, int) else limit
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return Evidence(fact=fact, value=value, unit=unit, threshold=limit, source=source)


def words(id: str, change: str, risk: str) -> Fix:  # the field's own word
    return Fix(id=id, change=change, reversible=True, risk=risk)
