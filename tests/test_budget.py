"""`--budget` on the whole program: a verdict from the part that was recorded, and what it says of the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from whole_runs import why

from culpa.capture import schema
from culpa.capture.bundle import Capture, open_capture
from culpa.collect.trace.tracer import usable
from culpa.diagnose import detail

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
    (afterwards,) = [fact for fact in head["evidence"] if fact["source"] == "sums"]
    assert "fdatasync" in afterwards["fact"]
    assert float(str(afterwards["value"]).split()[0]) > 20
    recorded_s = (evidence.detail_end_ns - window.start_ns) / 1e9
    if recorded_s < detail.SHORT_NS / 1e9:  # as it is on a machine that lets culpa look at its cost in time
        assert head["confidence"] < same["confidence"]
        assert verdict["window"]["seconds"] * 0.9 > verdict["root"]["seconds"]
    else:
        warnings.warn(f"records ended only after {recorded_s:.1f} s, which is no small sample", stacklevel=1)
        assert head["confidence"] == same["confidence"]
    assert [] == [s for s in whole["blind_spots"] if "single events after" in s["what"]]


LATER = """\
import os, signal, sys, time
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
print("ready", flush=True)
while not told:
    for _ in range(2000): os.getppid()
    time.sleep(0.02)
while True:
    os.pwrite(fd, b"x" * 4096, 0)
    {rest}
"""
RECORDS_S = (5.0, 15.0)
"""Above so small a budget records end two or three seconds after culpa began to watch; on a busy machine later."""
REST_S = 5


def verdict_of_later(rest: str, folder: Path) -> tuple[int, dict, Capture]:
    """Pid, verdict and capture of a program that begins with something else once the records have ended.

    If they had not ended by then, by the capture's own clock, all is done again, more slowly, for all to see.
    """
    for records_s in RECORDS_S:
        saved = folder / f"later-{records_s:.0f}.culpa"
        with program(LATER.format(rest=rest), str(folder / "ledger.db")) as pid:
            verdict, told_ns = _told_later(pid, records_s, saved)
        capture = open_capture(saved)
        ended_ns = capture.manifest.evidence.detail_end_ns
        if (ended_ns is not None and ended_ns < told_ns) or records_s == RECORDS_S[-1]:
            break
        warnings.warn(f"again: records had not ended after {records_s:.0f} s", stacklevel=2)
    return pid, verdict, capture


def _told_later(pid: int, records_s: float, saved: Path) -> tuple[dict, int]:
    """The verdict, and when (ns) the program was told."""
    argv = [sys.executable, "-m", "culpa", "why", str(pid), "--json", "--budget", "0.1", "-o", str(saved)]
    argv += ["--for", f"{records_s + REST_S:.0f}s"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        assert "watches" in watching.stderr.readline()
        time.sleep(records_s)
        told_ns = time.monotonic_ns()
        os.kill(pid, signal.SIGUSR1)
        out, _ = watching.communicate(timeout=90)
    return json.loads(out), told_ns


def test_what_begins_after_the_records_is_told_by_the_sums(tmp_path: Path) -> None:
    """No single event of the syncs was recorded: their number, file and time are, and the verdict rests on these."""
    if error := usable():
        pytest.skip(f"tracing is impossible here: {error}")
    pid, verdict, capture = verdict_of_later("os.fdatasync(fd)", tmp_path)
    assert capture.manifest.evidence.detail_end_ns is not None
    fdatasync = 75
    assert fdatasync not in capture.frame(schema.SYSCALLS).filter(tid=pid)["nr"].to_list()
    summed = capture.frame(schema.SUMS).filter(tid=pid, what="call", nr=fdatasync)
    head = verdict["causes"][0]
    assert ("disk.fsync-heavy", "slow", str(tmp_path / "ledger.db")) == (
        head["id"], verdict["state"], head["on"]["path"]
    )  # fmt: skip
    assert ("fdatasync", pid) == (head["on"]["syscall"], head["who"]["pid"])
    assert 0.7 >= head["confidence"]
    assert "sums" == head["evidence"][0]["source"]
    assert f"{summed['count'].sum():,} calls" in head["evidence"][0]["fact"]
    assert summed["total_ns"].sum() / 1e9 == pytest.approx(head["evidence"][0]["value"], rel=0.02)
    assert [spot for spot in verdict["blind_spots"] if "single events after" in spot["what"]]


def test_sums_of_a_program_that_does_nothing_bad_name_nothing(tmp_path: Path) -> None:
    """The same program that writes now and then and does not sync."""
    if error := usable():
        pytest.skip(f"tracing is impossible here: {error}")
    _, verdict, _ = verdict_of_later("time.sleep(0.01)", tmp_path)
    assert [spot for spot in verdict["blind_spots"] if "single events after" in spot["what"]]
    # On a machine that does other work too, it may well have waited for a CPU.
    assert {"cpu.runqueue"} >= {cause["id"] for cause in verdict["causes"] if cause["level"] != "note"}


SERVING = """\
import http.server, os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        end = __import__("time").monotonic() + 5
        while __import__("time").monotonic() < end:
            os.pwrite(fd, b"x" * 4096, 0)
            os.fdatasync(fd)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print("ready", flush=True)
print(server.server_port, file=open(sys.argv[1] + ".port", "w"), flush=True)
server.serve_forever()
"""


def test_a_request_that_outlasts_the_events_keeps_its_length_and_its_prediction(tmp_path: Path) -> None:
    """Its length is measured by culpa's own clock, whatever the events cost; the part seen stands for the rest."""
    if error := usable():
        pytest.skip(f"tracing is impossible here: {error}")
    with program(SERVING, str(tmp_path / "ledger.db")):
        deadline = time.monotonic() + 10
        while not (tmp_path / "ledger.db.port").exists() or not (tmp_path / "ledger.db.port").read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        url = f"http://127.0.0.1:{(tmp_path / 'ledger.db.port').read_text().strip()}/"
        verdict = why(url, "--budget", "0.1")
    assert [spot for spot in verdict["blind_spots"] if "single events after" in spot["what"]]
    assert verdict["observed"]["completed"] == 1
    assert 5.0 <= verdict["observed"]["p50"] < 8.0
    head = next(cause for cause in verdict["causes"] if cause["id"] == "disk.fsync-heavy")
    assert head["predicted"] is not None
    assert head["predicted"]["p50"] < verdict["observed"]["p50"] * (1.05 - head["share"])
    assert head["saves_seconds"] == pytest.approx(verdict["observed"]["p50"] * head["share"], rel=0.3)
