"""Whole recordings of real processes: order, ends, identities, and that nothing stays behind."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.collect.options import HttpSettings, Options, check
from culpa.collect.ranking import busiest
from culpa.collect.session import record
from culpa.collect.window import Share
from culpa.errors import CulpaError, TargetVanished, UsageError
from culpa.target import HostTarget, PidTarget, PortTarget, Target, command_target, parse_target

pytestmark = pytest.mark.root
SERVER = """\
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked", flush=True)
        time.sleep(float(self.path[1:].partition("?")[0]))
        self.send_response(200); self.end_headers(); self.wfile.write(b"hi")
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a condition, and fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@contextmanager
def program(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at the end."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def serving() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A web server that sleeps as long as the path says, and writes a line at each request: the program and its port.

    None of the tests asks so often that these lines would fill the pipe.
    """
    with program(sys.executable, "-c", SERVER) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())


@pytest.fixture
def server(serving: tuple[subprocess.Popen[bytes], int]) -> tuple[int, int]:
    """Its pid and port."""
    process, port = serving
    return process.pid, port


def steady(_: Capture) -> Share:
    """A judge that is always of the same mind."""
    return Share(cause="x", share=0.5, completed=1, waited_ns=0)


def recorded(target: Target, *, said: list[str] | None = None, **how: object) -> Capture:
    """One recording, without tracing unless it is asked for."""
    options = Options(**({"trace": False} | how))  # type: ignore[arg-type]
    check(target, options)
    return record(target, options, progress=(said if said is not None else []).append, enough=steady)


def test_a_url_is_asked_and_its_server_watched(server: tuple[int, int]) -> None:
    """The processes behind the port are the target, culpa itself is not among the processes."""
    pid, port = server
    said: list[str] = []
    capture = recorded(parse_target(f"http://u:secret@127.0.0.1:{port}/0.1?key=secret"), said=said)
    manifest = capture.manifest
    assert manifest.target.kind == "url"
    assert manifest.target.pids == (pid,)
    assert manifest.window.ended_by == "steady"
    assert 3e9 <= manifest.window.end_ns - manifest.window.start_ns < 6e9
    requests = capture.frame(schema.REQUESTS)
    assert requests.height >= 10
    assert requests["start_ns"].min() >= manifest.window.start_ns
    assert (requests["end_ns"].drop_nulls() <= manifest.window.end_ns).all()
    assert capture.frame(schema.PROCESSES).filter(role="target")["pid"].to_list() == [pid]
    assert os.getpid() not in capture.frame(schema.SAMPLES)["pid"]
    assert "asks GET" in said[0]
    assert "secret" not in repr(manifest) + "".join(said)
    assert capture.frame(schema.THREAD_STATES)["ts_ns"].n_unique() >= 2
    assert capture.frame(schema.COUNTERS)["ts_ns"].n_unique() >= 3


def test_a_long_request_ends_the_window(server: tuple[int, int]) -> None:
    """And is sent once only."""
    capture = recorded(parse_target(f"http://127.0.0.1:{server[1]}/3.5"))
    assert capture.manifest.window.ended_by == "request"
    (row,) = capture.frame(schema.REQUESTS).to_dicts()
    assert 3.5e9 <= row["end_ns"] - row["start_ns"] < 5e9


def test_passive_sends_nothing(server: tuple[int, int]) -> None:
    """The traffic there is: none."""
    capture = recorded(parse_target(f"http://127.0.0.1:{server[1]}/0"), passive=True, for_ns=10**9)
    assert capture.frame(schema.REQUESTS).is_empty()
    assert capture.manifest.window.ended_by == "limit"


def test_the_asked_length_is_exact(server: tuple[int, int]) -> None:
    """A request still open at the end has no end in the capture."""
    capture = recorded(parse_target(f"http://127.0.0.1:{server[1]}/30"), for_ns=10**9)
    window = capture.manifest.window
    assert 1e9 <= window.end_ns - window.start_ns < 1.5e9
    assert capture.frame(schema.REQUESTS)["end_ns"].to_list() == [None]


def test_refused_ends_with_a_sentence() -> None:
    """Nobody listens: found without waiting for a window."""
    with socket.socket() as held:  # bound, so that nobody else is given the port, culpa's own end least of all
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(CulpaError, match="refused"):
            recorded(parse_target(f"http://127.0.0.1:{port}/"))
        assert time.monotonic() - started < 3
        with pytest.raises(CulpaError, match=f"port {port}"):
            recorded(PortTarget(port=port, display=f":{port}"))


def test_a_target_that_ends_is_judged_on_what_was_seen() -> None:
    """Its exit ends the window."""
    with program("sleep", "1.5") as process:
        capture = recorded(PidTarget(pid=process.pid, display="x"))
    assert capture.manifest.window.ended_by == "exit"
    assert capture.frame(schema.SWEEPS).height > 0


def test_a_target_that_is_gone() -> None:
    """No such process is one sentence; a zombie has ended before anything was seen."""
    with program("true") as process:
        process.wait()
        with pytest.raises(CulpaError, match=f"no process {process.pid}"):
            recorded(PidTarget(pid=process.pid, display="x"))
    zombie = os.spawnvp(os.P_NOWAIT, "true", ["true"])
    try:
        os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)  # it has ended, and stays what it is
        with pytest.raises(TargetVanished):
            recorded(PidTarget(pid=zombie, display="x"))
    finally:
        os.waitpid(zombie, 0)


def test_a_command_from_exec_to_exit() -> None:
    """One request with its exit status, under its own name although it was short."""
    said: list[str] = []
    capture = recorded(command_target(["sh", "-c", "exit 7", "--password=hunter2"]), said=said)
    (request,) = capture.frame(schema.REQUESTS).to_dicts()
    assert request["status"] == 7
    assert capture.manifest.target.kind == "command"
    assert capture.manifest.window.ended_by == "exit"
    (process,) = capture.frame(schema.PROCESSES).filter(role="target").to_dicts()
    assert process["comm"] == "sh"
    assert process["cmdline"].startswith("sh -c exit 7")
    assert "hunter2" not in process["cmdline"]
    assert any("status 7" in sentence for sentence in said)


def test_a_command_longer_than_the_window_goes_on() -> None:
    """It is the user's: culpa names it and leaves it running."""
    said: list[str] = []
    capture = recorded(command_target(["sleep", "60"]), said=said, for_ns=10**9)
    (pid,) = capture.manifest.target.pids
    try:
        assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
        assert any(f"process {pid}" in sentence for sentence in said)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_gives_what_was_seen(serving: tuple[subprocess.Popen[bytes], int], number: signal.Signals) -> None:
    """Once the server has been asked, and a second of capture; the handlers are as before."""
    process, port = serving
    before = signal.getsignal(number)

    def interrupt() -> None:
        assert process.stdout is not None
        if process.stdout.readline() == b"asked\n":
            time.sleep(1.0)
            os.kill(os.getpid(), number)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    capture = recorded(parse_target(f"http://127.0.0.1:{port}/30"))
    interrupting.join()
    assert capture.manifest.window.ended_by == "interrupt"
    assert 1e9 <= capture.manifest.window.end_ns - capture.manifest.window.start_ns
    assert capture.frame(schema.REQUESTS).height == 1
    assert signal.getsignal(number) is before


def threads_of_culpa() -> set[str]:
    """Names of the threads that the collectors run."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("culpa-")}


def open_descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("trace", [False, pytest.param(True, marks=pytest.mark.trace)])
def test_nothing_stays_behind(server: tuple[int, int], trace: bool) -> None:
    """No thread, descriptor or child, neither after a recording nor after one that failed."""

    def children() -> str:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    def fail(_: Capture) -> Share:
        raise CulpaError("judging failed")

    target = parse_target(f"http://127.0.0.1:{server[1]}/0.05")
    gc.collect()  # what other tests let go of is not freed, nor their children taken leave of, while it is counted
    recorded(target, trace=trace, for_ns=10**9)  # what is loaded once and kept is loaded now
    before = threads_of_culpa(), open_descriptors(), children()
    recorded(target, trace=trace, for_ns=10**9)
    with pytest.raises(CulpaError, match="judging failed"):
        record(target, Options(trace=trace), progress=lambda _: None, enough=fail)
    assert (threads_of_culpa(), open_descriptors(), children()) == before


@pytest.mark.trace
def test_events_are_seen_from_the_first_request_on(server: tuple[int, int]) -> None:
    """Attached before the probe asks: every answer was a request that the server read, and it read no other in the
    window. One at the very end may be sent within it and read after it.
    """
    capture = recorded(parse_target(f"http://127.0.0.1:{server[1]}/0.05"), trace=True, for_ns=15 * 10**8)
    assert capture.manifest.evidence.waits == "events"
    requests = capture.frame(schema.REQUESTS)
    answered = set(requests.filter(pl.col("end_ns").is_not_null())["local_port"].to_list())
    heard = capture.frame(schema.MESSAGES).filter(pid=server[0], direction="in", kind="request")
    sockets = capture.frame(schema.SOCKETS)
    ends = heard.join(sockets.select("ino", "peer_port"), on="ino", validate="m:1")
    within = ends.filter(pl.col("exit_ns") <= capture.manifest.window.end_ns)
    assert len(answered) >= 10
    assert answered <= set(ends["peer_port"].to_list())
    assert set(within["peer_port"].to_list()) <= set(requests["local_port"].to_list())
    assert capture.manifest.cost.lost_events == 0


@pytest.mark.trace
def test_a_traced_command_is_seen_from_its_exec_on() -> None:
    """The very execve of the command is among the system calls."""
    capture = recorded(command_target(["true"]), trace=True)
    (pid,) = capture.manifest.target.pids
    calls = capture.frame(schema.SYSCALLS).filter(pid=pid)
    assert 59 in calls["nr"].to_list() or os.uname().machine != "x86_64"
    assert calls.height > 10


@pytest.mark.trace
def test_a_child_that_ended_before_anybody_looked_has_its_parent() -> None:
    """Its number too is told by the kernel alone: each lives for a moment."""
    loop = "while :; do (read -r word < /dev/null); sleep 0.05; done"
    with program("sh", "-c", loop) as process:
        capture = recorded(PidTarget(pid=process.pid, display="shell"), trace=True, for_ns=10**9)
    gone = capture.frame(schema.PROCESSES).filter(pl.col("starttime").is_null(), pl.col("comm").is_in(["sh", "sleep"]))
    assert gone.height >= 10
    assert set(gone["ppid"]) == {process.pid}


def test_the_peers_are_watched_too(tmp_path: Path, server: tuple[int, int]) -> None:
    """Who the target talks to is in the capture as a peer, with both ends of the socket."""
    client = f"import socket; s = socket.create_connection(('127.0.0.1', {server[1]})); print(1, flush=True); s.recv(1)"
    with program(sys.executable, "-c", client) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: sockets_of(server[0]) == 2)  # the one that listens, and the one that was accepted
        capture = recorded(PidTarget(pid=process.pid, display="client"), for_ns=10**9)
    roles = dict(capture.frame(schema.PROCESSES).select("pid", "role").iter_rows())
    assert roles == {process.pid: "target", server[0]: "peer"} | dict.fromkeys([os.getpid()] & roles.keys(), "culpa")
    ends = capture.frame(schema.SOCKETS).filter(pl.col("peer_ino").is_not_null())
    assert {process.pid, server[0]} == set(ends["pid"].to_list())


def sockets_of(pid: int) -> int:
    """How many a process holds."""
    return sum(os.readlink(link).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir())  # noqa: PTH115


def test_a_host_is_its_busiest_processes() -> None:
    """A program that computes is found, culpa and its family are not."""
    with program("sh", "-c", "while :; do :; done") as process:
        ranked = busiest(exclude={os.getpid()}, stopping=threading.Event())
        assert process.pid in [one.pid for one in ranked[:3]]
        assert not {os.getpid(), os.getppid()} & {one.pid for one in ranked}
        capture = recorded(HostTarget(), for_ns=10**9)
    assert process.pid in capture.manifest.target.pids
    assert len(capture.manifest.target.pids) <= 12


def test_who_waits_for_the_lock_of_a_file_does_not_idle(tmp_path: Path) -> None:
    """Its holder does, and so does one that sleeps beside them."""
    file = str(tmp_path / "lock")
    with program("flock", "-F", file, "sleep", "60") as holder, program("sleep", "60") as idle:
        wait_until(lambda: f" {holder.pid} " in Path("/proc/locks").read_text())
        with program("flock", "-F", file, "true") as waiter:
            ranked = [one.pid for one in busiest(exclude={os.getpid()}, stopping=threading.Event())]
    assert waiter.pid in ranked
    assert not {holder.pid, idle.pid} & set(ranked)


@pytest.mark.parametrize(
    ("target", "how"),
    [
        (PidTarget(pid=1, display="1"), {"http": HttpSettings(repeat=True)}),
        (parse_target("http://127.0.0.1/"), {"http": HttpSettings(body="x"), "passive": True}),
        (parse_target("http://127.0.0.1/"), {"user": "nobody"}),
        (command_target(["true"]), {"passive": True}),
    ],
)
def test_what_makes_no_sense_together(target: Target, how: dict[str, object]) -> None:
    """Found before anything is started."""
    with pytest.raises(UsageError):
        check(target, Options(**how))  # type: ignore[arg-type]
