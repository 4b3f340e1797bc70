"""What the tracer's tests share: children that do exactly known things, and the check that tracing works here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from watched_children import DONE, GO, Child, Spawn, line_of

from culpa.collect.trace.tracer import usable


@pytest.fixture(autouse=True)
def _trace_works_here(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("trace") and (error := usable()):
        pytest.skip(f"tracing is impossible here: {error}")


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a Python child that says `ready`, waits for a line, runs the code, says `done` and waits again."""
    children: list[Child] = []

    def start(code: str, *arguments: str) -> Child:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", GO + code + DONE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        children.append(child)
        assert line_of(child) == "ready"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()
