"""What a rule hands back before it becomes a cause of the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from culpa.diagnose.moments import Moments
from culpa.diagnose.verdict import Evidence, Fix, On, Predicted


class Nearness(IntEnum):
    """How near a cause is to something that can be changed; the nearest is the head."""

    SETTING = 0
    CODE = 1
    LIMIT = 2
    NEIGHBOUR = 3
    DEVICE = 4
    KERNEL = 5


class Unseen(Exception):
    """A rule cannot look, for the reason given: something was not asked, refused, or is not known to this version."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finding:
    """One finding: where in the root's time it lies, who, on what, how we know, what to do.

    `moments` is the time that would go with the cause. `only_note` caps the level. `by_chance`: any host does this to a
    request now and then, so that what befell the worst one alone does not count for the level unless it was long.
    """

    moments: Moments
    nearness: Nearness
    pid: int | None
    tid: int | None
    on: On | None
    evidence: tuple[Evidence, ...]
    confidence: float
    fixes: tuple[Fix, ...] = ()
    title: str | None = None
    predicted: Predicted | None = None
    only_note: bool = False
    by_chance: bool = False
    kind: Literal["slowness", "risk"] = "slowness"
