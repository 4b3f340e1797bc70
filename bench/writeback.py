"""How many of the bytes that reach a disk go to the right process and file? The writers themselves are the witness.

Eight processes write to an ext4 on two stacked loop devices, each in its own way: whole files, many small ones, deleted
ones, one file together with another process, a mapped file, a log. Kernel threads write it all out.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
from measure import Effort, Row, at_least, at_most
from stand import HERE, Child

from culpa.collect.trace.tracer import Tracer, TraceResult, usable
from culpa.labs import loopdev
from culpa.model import cargo

WRITERS: Final = ("large", "large", "small", "deleted", "shared", "shared", "mapped", "appended")
SYNC_SECONDS: Final = 0.7
IMAGE_BYTES: Final = 2 << 30
NAME: Final = "eight writers, flushed bytes that go to the right process and file"
COST: Final = "eight writers, probe CPU per page or large folio made dirty"
GOAL: Final = at_least(0.95)
Owned = dict[tuple[int, int, int], int]


def measure(effort: Effort) -> Iterator[Row]:
    """The share of the bytes, and what it cost."""
    if usable() is not None or os.geteuid() != 0:
        yield Row(name=NAME, value=None, unit="share", goal=GOAL)
        return
    shares, costs = [], []
    for run in range(effort.times(3, 1)):
        share, cost = _one(run, effort.choose(8.0, 3.0))
        shares.append(share)
        costs.append(cost)
    yield Row(name=NAME, value=float(np.median(shares)), unit="share", goal=GOAL, runs=tuple(shares))
    yield Row(name=COST, value=float(np.median(costs)), unit="ns", goal=at_most(500), runs=tuple(costs))


def _one(run: int, seconds: float) -> tuple[float, float]:
    with ExitStack() as stack:
        device, folder = stacked_disk(stack)
        children = [_writer(stack, way, folder, 8 * run + i, seconds) for i, way in enumerate(WRITERS)]
        with Tracer(pids=(), exclude_pids={os.getpid()}) as tracer:
            for child in children:
                child.tell("go")
            end = time.monotonic() + seconds
            while time.monotonic() < end:  # pages are flushed and dirtied anew while they are written
                time.sleep(SYNC_SECONDS)
                loopdev.run_tool("sync", "--file-system", str(folder))
            said = {child.pid: json.loads(child.line()) for child in children}
            loopdev.run_tool("sync", "--file-system", str(folder))
            cost = tracer.cost_of("on_dirty", "on_dirty_direct")
            result = tracer.stop()
    return _share(result, said, device), cost


def stacked_disk(stack: ExitStack) -> tuple[int, Path]:
    """A fresh ext4 on a loop device on a loop device: the upper one's dev_t and the folder. Undone with the stack."""
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="culpa-bench-")))
    image, folder = place / "disk.img", place / "disk"
    folder.mkdir()
    with image.open("xb") as file:
        file.truncate(IMAGE_BYTES)
    lower = loopdev.attach(str(image), direct=False)
    stack.callback(loopdev.detach, lower)
    upper = loopdev.attach(lower, direct=True)
    stack.callback(loopdev.detach, upper)
    loopdev.run_tool("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", upper)
    loopdev.mount(upper, folder)
    stack.callback(loopdev.unmount, str(folder))
    return _dev_t(Path(upper).stat().st_rdev), folder


def _writer(stack: ExitStack, way: str, folder: Path, seed: int, seconds: float) -> Child:
    argv = [sys.executable, "-S", str(HERE / "writer_child.py"), way, str(folder), str(seed), str(seconds)]
    child = Child(argv)
    stack.callback(child.stop)
    child.line()
    return child


def _share(result: TraceResult, said: dict[int, list[list[int]]], device: int) -> float:
    """Bytes of files that culpa gives to a process that wrote as many into that file, of all bytes flushed."""
    tables = result.tables
    found = cargo.of(tables["blocks"], tables["block_parts"], tables["dirtied"])
    on = tables["blocks"]["dev"].to_numpy()[found.request] == device
    data = np.flatnonzero(on & found.cached & (found.ino > 0))
    pid_of = dict(tables["dirtied"].select("tid", "pid").iter_rows())
    given: Owned = defaultdict(int)
    for row in data.tolist():
        owner = int(found.owner[row])
        given[pid_of.get(owner, owner), int(found.dev[row]), int(found.ino[row])] += int(found.bytes[row])
    truth: Owned = defaultdict(int)
    for pid, files in said.items():
        for dev, ino, size in files:
            truth[pid, _dev_t(dev), ino] += size
    right = sum(min(size, truth.get(key, 0)) for key, size in given.items())
    return right / max(1, sum(given.values()))


def _dev_t(number: int) -> int:
    return os.major(number) << 20 | os.minor(number)
