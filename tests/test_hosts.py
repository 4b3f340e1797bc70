"""Hosts that make it hard: very many threads, files or processes, numbers used twice, clocks that jump, odd names."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from culpa.capture import schema
from culpa.capture.bundle import Capture, open_capture
from culpa.collect.clock import Moment, unsteady_clocks
from culpa.collect.options import Options
from culpa.collect.procfs import namespace_inode
from culpa.collect.session import record
from culpa.collect.trace import events
from culpa.diagnose.judge import judge
from culpa.target import parse_target
from culpa.units import NS_PER_SECOND

WINDOW_SECONDS = 3
PATIENCE_SECONDS = 12
"""From command to verdict beyond the window, on a machine that does other work too."""
MOST_RSS_BYTES = 400 << 20
THREADS = """
import _thread, sys, threading
threading.stack_size(32768)
gate = threading.Event()
for _ in range(int(sys.argv[1])):
    _thread.start_new_thread(gate.wait, ())
print("up", flush=True)
sys.stdin.read()
"""
FILES = """
import os, socket, sys
left, each = int(sys.argv[1]), int(sys.argv[2])
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
ready, tell = os.pipe()
while left > 0:
    if os.fork() == 0:
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(min(left, each))]
        os.write(tell, b".")
        sys.stdin.read()
        os._exit(0)
    left -= each
    os.read(ready, 1)
print("up", flush=True)
sys.stdin.read()
"""
FORKS = """
import os, sys, time
print("up", flush=True)
began, made = time.monotonic(), 0
while time.monotonic() < began + 60:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    made += 1
    time.sleep(max(0, began + made / 1000 - time.monotonic()))
"""
TWICE = """
import os, sys
for line in sys.stdin:
    wanted, name = line.split()
    if int(wanted):
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(int(wanted) - 1))
    pid = os.posix_spawn("/bin/sh", [name, "-c", "sleep 0.2"], {})
    os.waitpid(pid, 0)
    print(pid, flush=True)
"""


@contextlib.contextmanager
def child(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program that has said what it had to say first; killed with all it started."""
    program = (sys.executable, "-u", "-c", code, *arguments)
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    pytest.fail(f"{process.args} ended before it said {word}")


def culpa(*arguments: str) -> tuple[dict, float]:
    """The verdict of a run, and how long the run took beyond its window."""
    began = time.monotonic()
    program = (sys.executable, "-m", "culpa", *arguments, "--for", str(WINDOW_SECONDS), "--json")
    run = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    took = time.monotonic() - began - WINDOW_SECONDS
    assert 0 == run.returncode, run.stderr
    assert "Traceback" not in run.stderr
    return json.loads(run.stdout), took


def assert_bounded(verdict: dict, took: float) -> None:
    assert took < PATIENCE_SECONDS
    assert verdict["cost"]["peak_rss_bytes"] < MOST_RSS_BYTES


BOTH = pytest.mark.parametrize("no_trace", [(), ("--no-trace",)], ids=["traced", "sampled"])


@pytest.mark.root
@BOTH
def test_twenty_thousand_threads(no_trace: tuple[str, ...]) -> None:
    """Start, window and verdict stay within seconds and memory, and what was left out is said or was seen."""
    with child(THREADS, "20000") as process:
        wait_for(process, "up")
        assert 20001 == len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        verdict, took = culpa("why", str(process.pid), *no_trace)
    assert_bounded(verdict, took)
    assert "slow" != verdict["state"]
    if no_trace:
        assert any("threads" in spot["what"] for spot in verdict["blind_spots"])


@pytest.mark.root
@BOTH
def test_a_hundred_thousand_open_files(no_trace: tuple[str, ...]) -> None:
    """Whoever holds the other end of a socket is looked for among all of them."""
    each = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100
    with child(FILES, "100000", str(each)) as process:
        wait_for(process, "up")
        verdict, took = culpa("why", str(process.pid), *no_trace)
    assert_bounded(verdict, took)


@pytest.mark.root
@BOTH
def test_a_thousand_forks_a_second(no_trace: tuple[str, ...]) -> None:
    """Children that ended make room for the next; nothing is lost, and memory stays bounded."""
    with child(FORKS) as process:
        wait_for(process, "up")
        before = total_forks()
        verdict, took = culpa("why", str(process.pid), *no_trace)
        assert total_forks() - before > 1024  # more than the probes add at once
    assert_bounded(verdict, took)
    assert not [spot for spot in verdict["blind_spots"] if "limit of processes" in spot["why"]]


def total_forks() -> int:
    """Processes and threads made since boot, by the kernel's own count."""
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("processes"))


@pytest.mark.root
@pytest.mark.trace
def test_a_number_used_twice_is_said(tmp_path: Path) -> None:
    """Two processes had one number, one after the other: the verdict says that it cannot tell them apart."""
    file = tmp_path / "twice.culpa"
    with child(TWICE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        program = (sys.executable, "-m", "culpa", "record", str(process.pid), "--for", "4", "-o", str(file))
        with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as run:
            assert run.stderr is not None
            assert run.stderr.readline()  # "watches ..."
            numbers = [spawn(process, 0, "first")]
            for _ in range(20):  # another process may take the number in between
                numbers.append(spawn(process, numbers[0], "second"))
                if numbers[-1] == numbers[0]:
                    break
            assert numbers[-1] == numbers[0]
            assert 0 == run.wait(30)
    said = [spot for spot in open_capture(file).manifest.blind_spots if str(numbers[0]) in spot.what]
    assert said
    assert "another got its number" in said[0].why


def spawn(process: subprocess.Popen[str], wanted: int, name: str) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{wanted} {name}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@pytest.mark.root
@pytest.mark.trace
def test_lost_events_lower_the_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny lanes that overflow: the verdict counts what was lost, says so, and trusts itself less."""
    write = (
        "import os, tempfile, time\nfile = tempfile.TemporaryFile()\nprint('up', flush=True)\n"
        "while True:\n    os.write(file.fileno(), b'x')\n    os.fsync(file.fileno())\n"
        "    [os.getppid() for _ in range(300)]\n"  # more than a tiny lane holds, and few in the mean
        "    time.sleep(0.005)\n"
    )
    with child(write) as process:
        wait_for(process, "up")
        whole = judged(process.pid)
        monkeypatch.setattr(events, "lane_slots", lambda spec, cpus: 128)
        holed = judged(process.pid)
    assert 0 == whole.cost.lost_events
    assert holed.cost.lost_events > holed.cost.events / 1000
    assert any("events" in spot.what for spot in holed.blind_spots)
    surest = [max((cause.confidence for cause in one.causes), default=0.0) for one in (holed, whole)]
    assert surest[0] < surest[1]


def judged(pid: int):
    return judge(recorded(pid))


def recorded(pid: int) -> Capture:
    """What culpa sees of a process in two seconds, in this process."""
    options = Options(for_ns=2 * NS_PER_SECOND)
    return record(parse_target(str(pid)), options, progress=lambda _: None, enough=lambda _: None)


@pytest.mark.root
def test_a_namespace_that_vanishes(tmp_path: Path) -> None:
    """Its last process ends while culpa watches: there is a verdict on what was seen."""
    inside = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", sys.executable, "-c")
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen((*inside, code), stdin=subprocess.PIPE) as process:
        try:
            wait_until(lambda: children_of(process.pid) != [])
            (pid,) = children_of(process.pid)
            assert namespace_inode(Path("/proc"), pid, "net") != namespace_inode(Path("/proc"), os.getpid(), "net")
            file = tmp_path / "gone.culpa"
            program = (sys.executable, "-m", "culpa", "record", str(pid), "--for", "20", "-o", str(file))
            with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as run:
                assert run.stderr is not None
                assert "watches" in run.stderr.readline()
                time.sleep(1)  # something has to be seen
                assert process.stdin is not None
                process.stdin.close()
                _, said = run.communicate(timeout=60)
        finally:
            process.kill()
    assert 0 == run.returncode, said
    capture = open_capture(file)
    assert "exit" == capture.manifest.window.ended_by
    assert pid in capture.frame(schema.PROCESSES).filter(pl.col("netns").is_not_null())["pid"].to_list()


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(true) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.root
@BOTH
def test_names_of_any_bytes(tmp_path: Path, no_trace: tuple[str, ...]) -> None:
    """A newline, no UTF-8, and a path of nearly 4,096 bytes: a row each, nothing unprintable in the verdict."""
    room = 4090 - len(os.fsencode(tmp_path))
    longest = os.fsencode(tmp_path) + b"".join(b"/" + b"d" * min(200, room - at - 1) for at in range(0, room - 2, 201))
    Path(os.fsdecode(longest)).mkdir(parents=True)
    names = [
        os.fsencode(tmp_path) + b"/a\nb",
        os.fsencode(tmp_path) + b"/\xff\xfe\x1b[31m",
        longest + b"/f",
    ]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(b"")
    sync = (
        "import os, sys\nopened = [os.open(os.fsencode(name), os.O_WRONLY) for name in sys.argv[1:]]\n"
        "print('up', flush=True)\n"
        "while True:\n    for fd in opened:\n        os.pwrite(fd, b'x' * 4096, 0); os.fsync(fd)\n"
    )
    with child(sync, *map(os.fsdecode, names)) as process:
        wait_for(process, "up")
        file = tmp_path / "names.culpa"
        verdict, _ = culpa("why", str(process.pid), "-o", str(file), *no_trace)
    shown = json.dumps(verdict, ensure_ascii=False)
    assert all(character.isprintable() for character in shown)
    if not no_trace:
        inodes = {Path(os.fsdecode(name)).stat().st_ino for name in names}
        seen = open_capture(file).frame(schema.FILES).filter(pl.col("ino").is_in(list(inodes)))
        assert inodes == set(seen["ino"])


@pytest.mark.root
def test_threads_that_end_between_open_and_read() -> None:
    """Threads that live for a moment: /proc files vanish under the sampler thousands of times, and it goes on."""
    code = (
        "import threading, time\nprint('up', flush=True)\n"
        "while True:\n    threads = [threading.Thread(target=time.sleep, args=(0.002,)) for _ in range(20)]\n"
        "    [one.start() for one in threads]; [one.join() for one in threads]\n"
    )
    with child(code) as process:
        wait_for(process, "up")
        verdict, _ = culpa("why", str(process.pid), "--no-trace", "--budget", "50")
    assert verdict["blame"]["seconds"] > 0


@pytest.mark.root
@pytest.mark.parametrize("arguments", [("why",), ("why", "1", "--no-trace"), ("doctor",)], ids=" ".join)
def test_no_proc_at_all(arguments: tuple[str, ...]) -> None:
    """One sentence with the way out."""
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    program = (*hidden, sys.executable, "-m", "culpa", *arguments)
    run = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert 1 == run.returncode
    assert "culpa: cannot see any process: /proc is not mounted; mount -t proc proc /proc\n" == run.stderr


def test_a_redis_target_that_is_none() -> None:
    """An HTTP server behind a redis:// URL is told apart, in words."""
    with socket_server() as port:
        verdict, _ = culpa("why", f"redis://127.0.0.1:{port}")
    assert any("does not answer as a Redis does" in spot["why"] for spot in verdict["blind_spots"])


@contextlib.contextmanager
def socket_server() -> Iterator[int]:
    """A web server in a process of its own."""
    code = (
        "import http.server\nserver = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
        "print(server.server_port, flush=True)\nserver.serve_forever()\n"
    )
    with child(code) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


def moment(monotonic_s: float, realtime_s: float, boottime_s: float) -> Moment:
    def ns(seconds: float) -> int:
        return round(seconds * NS_PER_SECOND)

    return Moment(monotonic_ns=ns(monotonic_s), realtime_ns=ns(realtime_s), boottime_ns=ns(boottime_s))


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (moment(15, 1015, 65), None),
        (moment(15, 1015.04, 65), None),  # steered
        (moment(15, 1315, 65), "set forward by 300 s"),
        (moment(15, 1013, 65), "set back by 2.00 s"),
        (moment(15, 1075, 125), "suspended"),
    ],
)
def test_clocks_that_step(end: Moment, said: str | None) -> None:
    """A wall clock that was set and a host that slept are told apart; steering is neither."""
    found = unsteady_clocks(moment(5, 1005, 55), end)
    assert (said is not None) == bool(found)
    assert said is None or said in found[0].what + found[0].why
    assert len(found) <= 1


def test_the_three_clocks_of_now_agree() -> None:
    """Two moments of this host, a little apart and under load."""
    begin = Moment.now()
    spinner = threading.Thread(target=lambda: sum(range(3_000_000)))
    spinner.start()
    spinner.join()
    assert [] == unsteady_clocks(begin, Moment.now())
