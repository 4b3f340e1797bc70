"""Whole runs of `culpa why` on a program in C whose requests are done beside it, by io_uring or libaio.

That a slow disk is then the cause is shown by the lab `async-io`; here the disk is fast, and the tree must say where
the waits were.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from test_why import every, needs_tracing, why

from culpa.labs import loopdev

sys.path.insert(0, str(Path(__file__).parent / "collect" / "trace"))
import beside

pytestmark = [pytest.mark.root, pytest.mark.trace, needs_tracing]

IMAGE_BYTES = 256 << 20
CALLS = ("io_uring_enter", "io_getevents")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program."""
    return beside.compiled(tmp_path_factory.mktemp("beside"))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A fresh ext4 on a loop device, and the device's name; gone afterwards."""
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
        yield folder, Path(device).name


def counted(verdict: dict[str, Any], kind: str, path: Path) -> tuple[int, dict[str, Any]]:
    """How often the program itself was in such a part of the file, and that node."""
    found = [n for n in every(verdict["blame"]) if n["kind"] == kind and n["on"] and n["on"].get("path") == str(path)]
    assert len(found) == 1, outline(verdict)
    return found[0]["count"], found[0]


def outline(verdict: dict[str, Any]) -> str:
    """The tree, a line each, and what was not seen, for whoever reads why a test failed."""
    nodes = [f"{n['kind']} {n['count']} {n['share']:.4f} {n['who']} {n['on']}" for n in every(verdict["blame"])]
    return "\n".join([*nodes, str(verdict["blind_spots"])])


def unexplained_ns(verdict: dict[str, Any]) -> float:
    """Share of the waits in the calls in question that say that they do not know."""
    nodes = [n for n in every(verdict["blame"]) if n["kind"] == "unexplained" and n["on"]]
    return sum(node["share"] for node in nodes if node["on"].get("syscall") in CALLS)


@pytest.mark.parametrize("way", [*beside.DIRECT, "context"])
def test_direct_io_is_its_file_s_and_its_device_s(program: Path, disk: tuple[Path, str], way: str) -> None:
    """Each wait is one for the file, within it for the device; hardly any is left unexplained."""
    folder, device = disk
    verdict = why("--", str(program), way, str(folder / way))
    count, node = counted(verdict, "io", folder / way)
    waited = int((folder / f"{way}.waits").read_text())
    assert waited - 1 <= count <= waited + beside.ROUNDS / 20, outline(verdict)
    # What io_submit gave away, another CPU may have done before io_getevents has to wait.
    assert beside.ROUNDS * (0 if way == "context" else 0.9) < waited
    assert {device} == {n["on"]["device"] for n in every(node) if n["kind"] == "device"}
    assert unexplained_ns(verdict) <= 0.05 * node["share"] + 0.01


def test_an_fsync_in_a_ring_is_what_its_worker_waits_for(program: Path, disk: tuple[Path, str]) -> None:
    """The file that is synced, the worker below it, and below that the journal's thread or the device."""
    folder, device = disk
    verdict = why("--", str(program), "sync", str(folder / "sync"))
    count, node = counted(verdict, "fsync", folder / "sync")
    assert beside.ROUNDS / 2 <= count <= beside.ROUNDS * 2, outline(verdict)
    worker = next(n for n in node["children"] if n["kind"] == "peer")
    assert worker["who"]["comm"].startswith("iou-wrk-")
    below = list(every(worker))
    assert {"journal", "device"} & {n["kind"] for n in below}
    assert {device} >= {n["on"]["device"] for n in below if n["kind"] == "device" and n["on"].get("device")}
    synced = [cause for cause in verdict["causes"] if cause["id"] == "disk.fsync-heavy"]
    assert [str(folder / "sync")] * len(synced) == [cause["on"]["path"] for cause in synced]


def test_words_of_a_child_that_come_through_a_ring_are_the_child_s(program: Path) -> None:
    """The child sleeps before each: the parent's waits are that sleep."""
    verdict = why("--", str(program), "talk")
    slept = sum(n["share"] for n in every(verdict["blame"]) if n["kind"] == "sleep")
    assert slept > 0.8
    assert ("sleep.by-choice", "clock_nanosleep") == (
        verdict["causes"][0]["id"],
        verdict["causes"][0]["on"]["syscall"],
    )
