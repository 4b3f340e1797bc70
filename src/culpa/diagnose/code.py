"""Which line of the program asked for what was waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture

MAX_CALLERS = 3
MIN_SAMPLES = 2
"""One sample may be a torn read of a running interpreter; two that agree are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLine:
    """A line outside libraries, its callers (innermost first), and on how many of how many samples it rests."""

    path: str
    line: int | None
    function: str
    callers: tuple[str, ...]
    samples: int
    of: int

    @property
    def place(self) -> str:
        """`path:line in function`."""
        at = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{at} in {self.function}"


def line_of(picture: Picture, where: Mapping[int, Moments], verbs: Iterable[str] = ()) -> CodeLine | None:
    """The function that most samples of these threads stand in, each within its own thread's moments, and its line.

    Args:
        where: tid to when its samples count.
        verbs: commands asked for meanwhile. If a sample's call into a library is named after one of them, only such
            samples count: round trips are far shorter than taking a sample, so the name tells more than the moment.
    """
    frames = picture.capture.frame(schema.CODE).filter(pl.col("tid").is_in(list(where)))
    if frames.is_empty():
        return None
    stacks = [group.sort("depth") for _, group in frames.group_by("tid", "ts_ns", maintain_order=True)]
    named = [stack for stack in stacks if _calls(stack) & {_plain(verb) for verb in verbs}]
    inside = [stack for stack in stacks if _within(where[int(stack["tid"][0])], int(stack["ts_ns"][0]))]
    chosen = named or inside
    places = [found for stack in chosen if (found := _own(stack)) is not None]
    # The function first, then its line: the samples of one hot loop spread over its lines.
    functions = Counter((path, function) for path, _, function, _ in places)
    if not functions:
        return None
    function, count = max(functions.items(), key=lambda entry: (entry[1], entry[0]))
    if count < MIN_SAMPLES and len(chosen) >= MIN_SAMPLES:
        return None
    within = Counter(place for place in places if (place[0], place[2]) == function)
    (path, line, name, callers), _ = max(within.items(), key=lambda entry: (entry[1], -(entry[0][1] or 0)))
    return CodeLine(path=path, line=line, function=name, callers=callers, samples=count, of=len(chosen))


_ALIASES = {"delete": "del", "hmset": "hset", "execute_command": ""}


def _plain(name: str) -> str:
    lowered = name.lower()
    return _ALIASES.get(lowered, lowered)


def _calls(stack: pl.DataFrame) -> set[str]:
    """Names of the library functions between the innermost own frame and the system call."""
    library = stack["library"].fill_null(value=False).to_list()
    first_own = library.index(False) if False in library else len(library)
    return {_plain(name) for name in stack["function"].to_list()[:first_own] if name} - {""}


def _own(stack: pl.DataFrame) -> tuple[str, int | None, str, tuple[str, ...]] | None:
    own = stack.filter(~pl.col("library").fill_null(value=False)).select("path", "line", "function")
    if own.is_empty():
        return None
    rows = [(path or "?", line, function or "?") for path, line, function in own.iter_rows()]
    callers = tuple(f"{function} ({path}:{line})" for path, line, function in rows[1 : 1 + MAX_CALLERS])
    return (*rows[0], callers)


def _within(moments: Moments, ts_ns: int) -> bool:
    return bool(np.any((moments.start_ns <= ts_ns) & (ts_ns < moments.end_ns)))
