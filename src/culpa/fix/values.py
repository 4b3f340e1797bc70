"""Which values a setting may be given by a fix: closed sets of words, numbers within bounds, save points."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from culpa.units import parse_cpus

LONGEST_VALUE: Final = 200
"""Characters of any value that is written, or noted as the former one."""
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_SAVE_POINTS: Final = re.compile(r"(?:[1-9][0-9]{0,8} [1-9][0-9]{0,8})(?: [1-9][0-9]{0,8} [1-9][0-9]{0,8}){0,7}")
_PRINTABLE: Final = re.compile(r"[ -~]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """A set of values: how it is called in a sentence, and whether a text is one of them."""

    called: str
    holds: Callable[[str], bool]


def words(*allowed: str) -> Values:
    """One of these."""
    return Values(called=" or ".join(allowed), holds=frozenset(allowed).__contains__)


def number(least: int, most: int) -> Values:
    """A whole number, as `0` or without leading zeros."""
    return Values(
        called=f"a number from {least} to {most}",
        holds=lambda text: bool(_NUMBER.fullmatch(text)) and least <= int(text) <= most,
    )


SAVE_POINTS: Final = Values(
    called="pairs of seconds and changes", holds=lambda text: bool(_SAVE_POINTS.fullmatch(text))
)
"""`3600 1 300 100`: of redis.conf's `save`."""


def can_be_noted(text: str) -> bool:
    """Whether a value that was read can be written down and written again as it is."""
    return len(text) <= LONGEST_VALUE and bool(_PRINTABLE.fullmatch(text))


CPU_LIST: Final = Values(called="a list of CPUs such as 0-3,8", holds=lambda text: bool(parse_cpus(text)))
