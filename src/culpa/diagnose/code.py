"""Which line of the program asked for what was waited for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby, takewhile
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.moments import Moments

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

MAX_CALLERS = 3
MIN_SAMPLES = 2
"""One sample may be a torn read of a running interpreter; two that agree are not."""
SAMPLED_NS = 10_000_000
"""Taking a sample of a stack takes so long: short calls with less between them share their samples."""
MIN_PART = 0.5
"""A function that not more of the samples stand in or below is not what the time went to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLine:
    """A line outside libraries, its callers (innermost first), and on how many of how many samples it rests.

    Without a line, `path` is the program that holds the function. `source` is as in the table `code`.
    """

    path: str
    line: int | None
    function: str
    callers: tuple[str, ...]
    samples: int
    of: int
    source: str

    @property
    def place(self) -> str:
        """`path:line in function`; `function NAME in PATH` where no line is known."""
        if self.line is None:
            return f"function {self.function} in {self.path}"
        return f"{self.path}:{self.line} in {self.function}"


def line_of(picture: Picture, where: Mapping[int, Moments], verbs: Iterable[str] = ()) -> CodeLine | None:
    """The innermost function that most samples of these threads stand in or below, each within its thread's moments.

    Args:
        where: tid to when its samples count.
        verbs: commands asked for meanwhile. If a sample's call into a library is named after one of them, only such
            samples count: round trips are far shorter than taking a sample, so the name tells more than the moment.
            A call that is named after another command of the program's does not count in any case.

    Returns:
        The function and its most frequent line; None where the samples disagree, or the program does not tell.
    """
    samples = _samples(picture, list(where))
    wanted = {_plain(verb) for verb in verbs}
    named = [sample for sample in samples if sample.calls & wanted]
    others = _asked(picture) - wanted if wanted else set()
    inside = [sample for sample in samples if _within(where[sample.tid], sample.ts_ns) and not sample.calls & others]
    chosen = named or inside
    own = [stack for sample in chosen if (stack := sample.own)]
    function = _innermost_common(own)
    if function is None:
        return None
    places = [stack[at:] for stack in own if (at := _index(stack, function)) is not None]
    if len(places) < MIN_SAMPLES <= len(chosen):
        return None
    # The function first, then its line: the samples of one hot loop spread over its lines.
    lines = Counter((place[0].line, place[1 : 1 + MAX_CALLERS]) for place in places)
    (line, callers), _ = max(lines.items(), key=lambda entry: (entry[1], -(entry[0][0] or 0)))
    return CodeLine(
        path=places[0][0].path,
        line=line,
        function=places[0][0].function or "?",
        callers=tuple(caller.text(places[0][0].path) for caller in callers),
        samples=len(places),
        of=len(chosen),
        source=places[0][0].source,
    )


def sampled_threads(picture: Picture) -> list[int]:
    """The threads whose stacks were sampled."""
    tids: list[int] = picture.capture.frame(schema.CODE)["tid"].drop_nulls().unique().to_list()
    return tids


@dataclass(frozen=True, slots=True)
class _Frame:
    path: str
    line: int | None
    function: str | None
    source: str
    library: bool

    def text(self, within: str) -> str:
        """The caller of a function in `within`: with its line, or with its file if that is another one."""
        if self.line is not None:
            return f"{self.function or '?'} ({self.path}:{self.line})"
        return (self.function or "?") + (f" ({self.path})" if self.path != within else "")


_Stack = tuple[_Frame, ...]
"""The frames outside libraries, innermost first."""


@dataclass(frozen=True, slots=True)
class _Sample:
    tid: int
    ts_ns: int
    frames: tuple[_Frame, ...]

    @property
    def own(self) -> _Stack:
        return tuple(frame for frame in self.frames if not frame.library)

    @property
    def calls(self) -> set[str]:
        """Names of the library functions between the innermost own frame and the system call."""
        library = takewhile(lambda frame: frame.library, self.frames)
        return {_plain(frame.function) for frame in library if frame.function} - {""}


def _samples(picture: Picture, tids: list[int]) -> list[_Sample]:
    """The samples of these threads, by thread and time."""
    frames = picture.capture.frame(schema.CODE).filter(pl.col("tid").is_in(tids)).sort("tid", "ts_ns", "depth")
    path, source = pl.col("path").fill_null("?"), pl.col("source").fill_null("")
    rows = frames.select("tid", "ts_ns", path, "line", "function", source, pl.col("library").fill_null(value=False))
    return [
        _Sample(tid, ts_ns, tuple(_Frame(*row[2:]) for row in stack))
        for (tid, ts_ns), stack in groupby(rows.iter_rows(), itemgetter(0, 1))
    ]


def _asked(picture: Picture) -> set[str]:
    """The commands that the root's threads sent."""
    return {_plain(verb) for verb in picture.own_exchanges["verb"].drop_nulls().unique()}


def _innermost_common(stacks: list[_Stack]) -> tuple[str, str] | None:
    """Path and name of the innermost function that more than `MIN_PART` of the stacks hold.

    A stack whose innermost function is not known holds none: its callers would be named in its place. Where the stacks
    part ways at once, what they share is where the program begins, which says nothing.
    """
    depths: dict[tuple[str, str], list[int]] = defaultdict(list)
    for stack in stacks:
        if stack[0].function is None:
            continue
        for function in {(frame.path, frame.function) for frame in stack if frame.function is not None}:
            depths[function].append(_index(stack, function) or 0)
    held = {function: found for function, found in depths.items() if len(found) > MIN_PART * len(stacks)}
    if not held:
        return None
    function = min(held, key=lambda entry: (sum(held[entry]) / len(held[entry]), -len(held[entry]), entry))
    innermost = sum(_index(stack, function) == 0 for stack in stacks)
    outermost = sum(_index(stack, function) == len(stack) - 1 for stack in stacks)
    return None if innermost <= MIN_PART * len(stacks) < outermost else function


def _index(stack: _Stack, function: tuple[str, str]) -> int | None:
    """Where a stack holds a function, its innermost call."""
    return next((at for at, frame in enumerate(stack) if (frame.path, frame.function) == function), None)


_ALIASES = {"delete": "del", "hmset": "hset", "execute_command": ""}


def _plain(name: str) -> str:
    lowered = name.lower()
    return _ALIASES.get(lowered, lowered)


def _within(moments: Moments, ts_ns: int) -> bool:
    return bool(np.any((moments.start_ns <= ts_ns) & (ts_ns < moments.end_ns)))
