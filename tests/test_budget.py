"""`--budget` on the whole program: a verdict from the part that was recorded, and what it says of the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from whole_runs import why

from culpa.capture import schema
from culpa.capture.bundle import open_capture
from culpa.collect.trace.tracer import usable

pytestmark = [pytest.mark.root, pytest.mark.trace]

SYNCING = """\
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
print("ready", flush=True)
while True:
    os.pwrite(fd, b"x" * 4096, 0)
    os.fdatasync(fd)
"""


@contextmanager
def program(code: str, *arguments: str) -> Iterator[int]:
    """A program that said it was ready; killed in the end."""
    argv = [sys.executable, "-S", "-c", code, *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert "ready\n" == child.stdout.readline()
            yield child.pid
        finally:
            child.kill()


def test_above_the_budget_the_verdict_rests_on_what_was_recorded(tmp_path: Path) -> None:
    """The sync loop is named from the first seconds, the sums say that it went on, and the rest is a blind spot."""
    if error := usable():
        pytest.skip(f"tracing is impossible here: {error}")
    saved = tmp_path / "over.culpa"
    with program(SYNCING, str(tmp_path / "ledger.db")) as pid:
        verdict = why(str(pid), "--budget", "0.1", "-o", str(saved))
        whole = why(str(pid), "--budget", "100", "--for", "3s")
    capture = open_capture(saved)
    evidence, window = capture.manifest.evidence, capture.manifest.window
    assert evidence.detail_end_ns is not None
    assert window.start_ns < evidence.detail_end_ns < window.end_ns
    assert not capture.frame(schema.SUMS).is_empty()
    (spot,) = [spot for spot in verdict["blind_spots"] if "single events after" in spot["what"]]
    assert "--budget" in spot["way_out"]
    head = next(cause for cause in verdict["causes"] if cause["id"] == "disk.fsync-heavy")
    same = next(cause for cause in whole["causes"] if cause["id"] == "disk.fsync-heavy")
    assert head["on"]["path"] == same["on"]["path"] == str(tmp_path / "ledger.db")
    assert head["share"] == pytest.approx(same["share"], abs=0.3)
    assert head["confidence"] < same["confidence"]
    (afterwards,) = [fact for fact in head["evidence"] if fact["source"] == "sums"]
    assert "fdatasync" in afterwards["fact"]
    assert float(str(afterwards["value"]).split()[0]) > 20
    assert verdict["window"]["seconds"] * 0.9 > verdict["root"]["seconds"]
    assert [] == [s for s in whole["blind_spots"] if "single events after" in s["what"]]
