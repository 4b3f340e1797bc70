"""What the tracer's tests share: children that do exactly known things, and the check that tracing works here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from watched_children import DONE, GO, Child, Spawn, line_of

from culpa.collect.trace.tracer import usable
from culpa.labs import loopdev

IMAGE_BYTES = 256 << 20


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


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh ext4 on a loop device; gone afterwards."""
    place = tmp_path_factory.mktemp("loop")
    image, folder = place / "disk.img", place / "disk"
    folder.mkdir()
    with image.open("xb") as file:
        file.truncate(IMAGE_BYTES)
    with ExitStack() as stack:
        device = loopdev.attach(str(image), direct=False)
        stack.callback(loopdev.detach, device)
        loopdev.run_tool("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        loopdev.mount(device, folder)
        stack.callback(loopdev.unmount, str(folder))
        # Where much is dirty, the kernel writes out everybody's pages, between two writes of a test as well.
        loopdev.run_tool("sync")
        yield folder
