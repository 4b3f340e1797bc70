"""Whole runs of `culpa why` on waits for files: mapped ones, and those opened to be synced."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_runs import every, needs_tracing, why

from culpa.labs import site, slowdisk, throttle

pytestmark = [pytest.mark.trace, needs_tracing]


@pytest.fixture
def behind_loops() -> Iterator[Path]:
    """A folder on loop devices. A thread of the kernel serves these, so that each request is waited for; what a fast
    device has done before a thread would sleep needs no waiting for.
    """
    with site.opened(print) as here:
        unlimited = slowdisk.Slowness(rate=throttle.Rate(per_second=10_000_000), image_bytes=128 << 20)
        yield here.stack.enter_context(slowdisk.slow_disk(here, unlimited)).directory


@pytest.mark.root
def test_a_page_fault_names_the_mapped_file_and_the_device_below_it(behind_loops: Path, tmp_path: Path) -> None:
    """A program reads pages of a mapping in no order; the page cache has none of them. It counts its waits itself."""
    file, told = behind_loops / "mapped", tmp_path / "told"
    file.write_bytes(os.urandom(32 << 20))
    program = """
        import mmap, os, random, resource, sys
        descriptor = os.open(sys.argv[1], os.O_RDWR)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        pages = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        pages.madvise(mmap.MADV_RANDOM)
        chosen = random.Random(1).sample(range(len(pages) >> 12), 2000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        for number in chosen: pages[number << 12]
        after = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        open(sys.argv[2], "w").write(str(after - before))
    """
    verdict = why("--", sys.executable, "-c", textwrap.dedent(program), str(file), str(told))

    faults = [node for node in every(verdict["blame"]) if node["kind"] == "fault" and node["on"]]
    (mapped,) = [node for node in faults if node["on"]["path"] == str(file)]
    # What the program itself is made of need not be in memory either.
    assert all(Path(node["on"]["path"]).is_file() and node["count"] < 1000 for node in faults if node is not mapped)
    waits = int(told.read_text())
    assert waits > 1900
    assert 0.98 * waits <= mapped["count"] <= 2000
    below = [child["share"] for child in mapped["children"] if child["kind"] == "device"]
    assert sum(below) > 0.9 * mapped["share"]


def test_writes_that_are_synced_one_by_one_are_syncs(tmp_path: Path) -> None:
    """dd(1) with O_DSYNC: no call is named sync."""
    file = tmp_path / "log"
    verdict = why("--", "dd", "if=/dev/zero", f"of={file}", "bs=4k", "count=1500", "oflag=dsync", "status=none")

    syncs = [node for node in every(verdict["blame"]) if node["kind"] == "fsync"]
    assert {str(file)} == {node["on"]["path"] for node in syncs}
    cause = next(cause for cause in verdict["causes"] if cause["id"] == "disk.fsync-heavy")
    assert ("dd", "write", str(file)) == (cause["who"]["comm"], cause["on"]["syscall"], cause["on"]["path"])
