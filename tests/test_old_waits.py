"""Waits older than the window, on the whole program: a sync that hangs on a real disk while culpa looks.

The disk takes 800 writes a second while it is made, and then two: the sync of a few hundred scattered pages takes
minutes. Raising the limit again ends it.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from whole_runs import why

from culpa.capture import schema
from culpa.capture.bundle import open_capture
from culpa.collect.trace.tracer import usable
from culpa.labs import site, slowdisk, throttle
from culpa.labs.places import Places

pytestmark = [pytest.mark.root, pytest.mark.trace]

HANGING = """\
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.pwrite(fd, b"y" * (1 << 20), 0)
os.fsync(fd)
print("ready", flush=True)
sys.stdin.readline()
for page in range(0, 256, 2):
    os.pwrite(fd, b"x" * 4096, page * 4096)
print("hangs", flush=True)
os.{call}(fd)
print("synced", flush=True)
sys.stdin.readline()
"""
HUNG_S = 3.0
SLOW = slowdisk.Slowness(rate=throttle.Rate(per_second=800), image_bytes=128 << 20)
STAGES = ("data written out", "journal", "block layer throttling", "a free place in the device queue")
"""Where a sync can stand while the disk takes two writes a second."""


@contextmanager
def hanging(places: Places, call: str) -> Iterator[tuple[int, Path, int, Callable[[], None]]]:
    """A process in a sync that does not end: its pid, its file, since when (ns), and what ends the sync."""
    with site.opened(print, places=places) as here:
        disk = here.stack.enter_context(slowdisk.slow_disk(here, SLOW))
        path = disk.directory / "journal.db"
        program = [sys.executable, "-S", "-c", HANGING.format(call=call), str(path)]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                disk.admit(child.pid)
                assert "ready\n" == child.stdout.readline()
                limit(disk, 2)
                child.stdin.write("\n")
                child.stdin.flush()
                assert "hangs\n" == child.stdout.readline()
                began_ns = time.monotonic_ns()
                time.sleep(HUNG_S)
                yield child.pid, path, began_ns, lambda: limit(disk, 100_000)
            finally:
                limit(disk, 100_000)
                child.kill()


def limit(disk: slowdisk.Disk, write_iops: int) -> None:
    """Let the disk take so many writes a second from now on."""
    assert disk.limit is not None
    control, device = disk.limit.control, disk.limit.device
    control.write_text(f"{device} wiops={write_iops}" if control.name == "io.max" else f"{device} {write_iops}")


def verdict_of(target: int | str, seconds: float, saved: Path) -> dict:
    """What culpa says of a target after watching it so long."""
    return why(str(target), "--for", f"{seconds}s", "-o", str(saved))


def leaves(node: dict) -> Iterator[dict]:
    """The leaves of a blame tree."""
    if not node["children"]:
        yield node
    for child in node["children"]:
        yield from leaves(child)


def nodes(node: dict) -> Iterator[dict]:
    """All nodes of a blame tree."""
    yield node
    for child in node["children"]:
        yield from nodes(child)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Lock, ledger and runs in the test's own directory."""
    temp = tmp_path / "temp"
    temp.mkdir()
    return Places(temp=temp, state=tmp_path, lock=tmp_path / "lock")


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_sync_that_outlasts_the_window_is_explained(places: Places, tmp_path: Path, call: str) -> None:
    """It makes no event at all; yet call, file, stage and age are there, and the whole time is explained."""
    with hanging(places, call) as (pid, path, began_ns, _):
        assert usable() is None
        verdict = verdict_of(pid, 2, tmp_path / "hang.culpa")
        looked_up = path.stat()
    capture = open_capture(tmp_path / "hang.culpa")
    states = capture.frame(schema.THREAD_STATES).filter(tid=pid)
    assert ["D", "D"] == states["state"].to_list()
    assert [looked_up.st_ino] * 2 == states["ino"].to_list()
    window = capture.manifest.window
    assert began_ns == pytest.approx(states["since_ns"][0], abs=1e9)
    assert states["since_ns"].n_unique() == 1 or abs(states["since_ns"][0] - states["since_ns"][1]) < 5e6
    syncs = [node for node in nodes(verdict["blame"]) if node["kind"] == "fsync"]
    assert [str(path)] == [node["on"]["path"] for node in syncs]
    assert verdict["root"]["seconds"] * 0.95 <= sum(node["seconds"] for node in syncs)
    stages = {node["label"] for node in leaves(verdict["blame"])}
    assert any(known in stage for stage in stages for known in STAGES), stages
    unexplained = sum(node["seconds"] for node in leaves(verdict["blame"]) if node["kind"] == "unexplained")
    assert unexplained <= 0.05 * verdict["root"]["seconds"]
    assert "slow" == verdict["state"]
    facts = [fact for cause in verdict["causes"] for fact in cause["evidence"]]
    ages = [fact["value"] for fact in facts if "before culpa looked" in fact["fact"]]
    assert ages
    assert ages[0] == pytest.approx((window.end_ns - began_ns) / 1e9, abs=1)


def test_a_wait_that_ends_in_the_window_keeps_what_it_was(places: Places, tmp_path: Path) -> None:
    """The end of the sync is an event, its beginning is not: a sync on that file all the same, as long as it was."""
    saved = tmp_path / "ended.culpa"
    with hanging(places, "fdatasync") as (pid, path, began_ns, end):
        program = [sys.executable, "-m", "culpa", "why", str(pid), "--for", "5s", "--json", "-o", str(saved)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stderr is not None
            assert "watches" in watching.stderr.readline()
            time.sleep(2)
            end()
            out, _ = watching.communicate(timeout=90)
    verdict = json.loads(out)
    capture = open_capture(saved)
    (call,) = capture.frame(schema.SYSCALLS).filter(pl.col("tid") == pid, pl.col("nr") == 75).to_dicts()
    assert call["enter_ns"] is None
    assert call["exit_ns"] is not None
    waited_s = (call["exit_ns"] - capture.manifest.window.start_ns) / 1e9
    syncs = [node for node in nodes(verdict["blame"]) if node["kind"] == "fsync"]
    assert {str(path)} == {node["on"]["path"] for node in syncs}
    assert sum(node["seconds"] for node in syncs) == pytest.approx(waited_s, rel=0.1)
    facts = [fact for cause in verdict["causes"] for fact in cause["evidence"]]
    ages = [fact["value"] for fact in facts if "before culpa looked" in fact["fact"]]
    assert ages
    assert ages[0] == pytest.approx((call["exit_ns"] - began_ns) / 1e9, abs=1)


SERVER = """\
import http.server, os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.pwrite(fd, b"y" * (1 << 20), 0)
os.fsync(fd)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        for page in range(0, 256, 2):
            os.pwrite(fd, b"x" * 4096, page * 4096)
        os.fdatasync(fd)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_a_request_that_nobody_reads_waits_for_what_keeps_the_server_busy(places: Places, tmp_path: Path) -> None:
    """The only thread hangs in a request that was read before the window and is not answered in it."""
    with site.opened(print, places=places) as here:
        disk = here.stack.enter_context(slowdisk.slow_disk(here, SLOW))
        program = [sys.executable, "-S", "-c", SERVER, str(disk.directory / "orders.db")]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as child:
            try:
                assert child.stdout is not None
                disk.admit(child.pid)
                port = int(child.stdout.readline())
                limit(disk, 2)
                with socket.create_connection(("127.0.0.1", port)) as earlier:
                    earlier.sendall(b"GET /first HTTP/1.1\r\nHost: here\r\n\r\n")
                    time.sleep(HUNG_S)
                    verdict = verdict_of(f"http://127.0.0.1:{port}/second", 2, tmp_path / "unread.culpa")
            finally:
                limit(disk, 100_000)
                child.kill()
    unexplained = sum(node["seconds"] for node in leaves(verdict["blame"]) if node["kind"] == "unexplained")
    assert unexplained <= 0.1 * verdict["root"]["seconds"]
    assert any(node["who"] and node["who"]["pid"] == child.pid for node in nodes(verdict["blame"]))
    assert 1 == verdict["observed"]["in_flight"]
    ages = [f["value"] for cause in verdict["causes"] for f in cause["evidence"] if "before culpa" in f["fact"]]
    assert ages
    assert HUNG_S * 0.9 <= ages[0] <= HUNG_S + 15
