"""Which function is named for a cause's moments, and when none is."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from culpa.capture import schema
from culpa.diagnose.code import CodeLine, line_of
from culpa.diagnose.moments import Moments
from culpa.diagnose.rules.evidence import code_evidence

PROGRAM = "/usr/bin/shop"
Stack = tuple[str | None, ...]
TID = 7


def found(
    *stacks: Stack, line: int | None = None, path: str = PROGRAM, verbs: Sequence[str] = (), asked: Sequence[str] = ()
) -> CodeLine | None:
    """What is named for stacks of own functions, innermost first; a name with a star in front is a library's.

    `verbs` are the commands it is about, `asked` all that the program sent.
    """
    rows = [
        {
            "ts_ns": at, "tid": TID, "pid": TID, "depth": depth, "function": name and name.lstrip("*"), "path": path,
            "line": line, "library": bool(name and name.startswith("*")), "source": "symbols",
        }
        for at, stack in enumerate(stacks)
        for depth, name in enumerate(stack)
    ]  # fmt: skip
    table = pl.DataFrame(rows, schema=schema.CODE.schema)
    picture = SimpleNamespace(
        capture=SimpleNamespace(frame=lambda _: table),
        own_exchanges=pl.DataFrame({"verb": list(asked)}, schema=["verb"]),
    )
    whole = Moments(item=np.array([0]), start_ns=np.array([0]), end_ns=np.array([1000]))
    return line_of(picture, {TID: whole}, verbs)  # type: ignore[arg-type]


def test_a_function_without_a_line_is_named_with_its_program() -> None:
    """And in the evidence with the callers, which say their file only where it is another one."""
    line = found(("*fsync", "save", "main"), ("*fsync", "save", "main"))

    assert line is not None
    assert f"function save in {PROGRAM}" == line.place
    evidence = code_evidence(line)
    assert ("function", f"save in {PROGRAM} < main") == (evidence.fact, evidence.value)
    assert "code: 2 of 2 stack samples, named by the program's symbols" == evidence.source


def test_a_function_with_a_line_is_named_by_it() -> None:
    """As ever."""
    line = found(("save", "main"), line=12, path="/src/shop.c")

    assert line is not None
    assert "/src/shop.c:12 in save" == line.place
    assert "code line" == code_evidence(line).fact


@pytest.mark.parametrize(
    "stacks",
    [
        (("a", "main"), ("b", "main")),
        (("a", "main"), ("b", "main"), ("c", "main"), ("a", "main")),
        ((None, "handle", "main"), (None, "handle", "main")),
        (("save", "main"), (None, "main"), (None, "main")),
        ((None,),),
        (("*fsync",), ("*fsync",)),
        (),
    ],
    ids=["two", "four", "unknown", "mostly unknown", "one unknown", "libraries alone", "none"],
)
def test_samples_that_disagree_or_do_not_tell_name_nothing(stacks: tuple[Stack, ...]) -> None:
    """Rather than the first, the most frequent by one, or the caller of what is not known."""
    assert found(*stacks) is None


def test_what_the_samples_share_above_is_named_where_they_part_below() -> None:
    """Half a dozen functions below one: the time went to that one, and it is not where the program begins."""
    stacks = [(name, "render", "main") for name in "abcdef"]

    line = found(*stacks, ("sleep", "main"))

    assert line is not None
    assert ("render", 6, 7) == (line.function, line.samples, line.of)


def test_the_innermost_of_those_that_most_samples_hold_is_named() -> None:
    """Not the callers that all of them hold."""
    line = found(("hash", "work", "main"), ("hash", "work", "main"), ("read", "work", "main"))

    assert line is not None
    assert ("hash", ("work", "main")) == (line.function, line.callers)


def test_one_sample_alone_counts() -> None:
    """A single long wait gives a single stack."""
    line = found(("*read", "stuck", "serve", "main"))

    assert line is not None
    assert "stuck" == line.function


def test_a_sample_that_calls_another_command_is_not_of_this_one() -> None:
    """Rather no line than that of the look-up beside the write: both take less than a sample does."""
    looked_up, written = ("*get", "look", "serve", "main"), ("*sadd", "keep", "serve", "main")

    assert found(looked_up, looked_up, verbs=["SADD"], asked=["GET", "SADD"]) is None
    line = found(looked_up, looked_up, looked_up, written, verbs=["SADD"], asked=["GET", "SADD"])
    assert line is not None
    assert "keep" == line.function


def test_a_sample_that_names_no_command_counts_by_its_moment() -> None:
    """A program with a way of its own to send commands."""
    line = found(("*send", "keep", "main"), ("*send", "keep", "main"), verbs=["SADD"], asked=["GET", "SADD"])

    assert line is not None
    assert "keep" == line.function
