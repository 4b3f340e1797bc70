"""Python source lines through the real py-spy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from culpa.collect.stacks import Refused, StackSampler, dump, find_pyspy, in_library, is_python, parse_dump
from culpa.units import Pid

PROGRAM = """\
import os, threading, time

def innermost():
    os.write(1, b"ready\\n")
    time.sleep(60)  # the line to find

def caller():
    innermost()

threading.Thread(target=caller, daemon=True).start()
caller()
"""
LINE = PROGRAM.split("\n").index("    time.sleep(60)  # the line to find") + 1


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A script whose two threads sleep in a line that is known."""
    path = tmp_path / "app.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def python(program: Path) -> Iterator[int]:
    """The script, running, both threads in their sleep."""
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        wait_until(lambda: all(b"nanosleep" in place for place in places(process.pid)))
        yield process.pid
        process.kill()


def wait_until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition, and fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def places(pid: int) -> list[bytes]:
    """Where in the kernel each thread of a process sleeps."""
    return [(thread / "wchan").read_bytes() for thread in Path(f"/proc/{pid}/task").iterdir()]


def binary() -> Path:
    """The installed py-spy."""
    found = find_pyspy()
    assert found is not None
    return found


def test_the_installed_pyspy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one on the PATH: there is none."""
    monkeypatch.setenv("PATH", "/nowhere")
    version = subprocess.run([binary(), "--version"], capture_output=True, check=True)
    assert version.stdout.startswith(b"py-spy ")


def test_line_function_and_thread_are_right(python: int, program: Path) -> None:
    """Both threads, by their kernel ids, in the known line, with their callers and what is library."""
    rows, cpu_ns = dump(binary(), Pid(python))
    threads = {int(entry.name) for entry in Path(f"/proc/{python}/task").iterdir()}
    assert {row.tid for row in rows} == threads
    inner = [row for row in rows if row.depth == 0]
    assert {(row.function, row.path, row.line, row.library) for row in inner} == {
        ("innermost", str(program), LINE, False)
    }
    assert {row.function for row in rows if row.depth == 1} == {"caller"}
    assert any(row.library for row in rows if row.path.endswith("threading.py"))
    assert 0 < cpu_ns < 1_000_000_000


@pytest.mark.root
def test_threads_of_another_pid_namespace_have_their_outer_ids(program: Path) -> None:
    """The interpreter knows its thread by the number inside; the rows name it by the host's."""
    launch = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, program]
    with subprocess.Popen(launch, stdout=subprocess.PIPE) as outer:
        try:
            assert outer.stdout is not None
            outer.stdout.readline()
            outer.stdout.readline()
            (inner,) = map(int, Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split())
            rows, _ = dump(binary(), Pid(inner))
            assert {row.tid for row in rows} == {int(entry.name) for entry in Path(f"/proc/{inner}/task").iterdir()}
        finally:
            outer.kill()


def test_the_sampler_takes_samples_within_its_budget(python: int) -> None:
    """The first after 0.3 s; another program and a process that is gone are passed over without a blind spot."""
    with subprocess.Popen(["sleep", "60"]) as other:
        sampler = StackSampler([python, other.pid, 2**22 - 1], budget_share=0.5)
        started = time.monotonic_ns()
        sampler.start()
        wait_until(lambda: sampler.rows()["ts_ns"].n_unique() >= 2)
        sampler.stop()
        other.kill()
    rows = sampler.rows()
    assert rows["pid"].unique().to_list() == [python]
    assert rows["ts_ns"].min() - started >= 300_000_000
    assert rows["line"].to_list().count(LINE) >= 4
    assert sampler.blind_spots() == ()
    assert sampler.cpu_ns > 0


def test_a_tiny_budget_stretches_the_interval(python: int) -> None:
    """At a thousandth of a core one dump of milliseconds is followed by seconds of rest."""
    sampler = StackSampler([python], budget_share=0.001)
    sampler.start()
    wait_until(lambda: sampler.rows().height)
    time.sleep(1.0)
    sampler.stop()
    assert sampler.rows()["ts_ns"].n_unique() == 1


def test_a_program_executed_later_is_found(program: Path) -> None:
    """A shell that becomes Python is looked at again."""
    with subprocess.Popen(
        ["sh", "-c", 'read _; exec "$0" "$1"', sys.executable, program], stdin=subprocess.PIPE
    ) as shell:
        sampler = StackSampler([shell.pid], budget_share=0.5)
        sampler.start()
        assert not is_python(shell.pid)
        assert shell.stdin is not None
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        wait_until(lambda: is_python(shell.pid))
        sampler.watch([shell.pid])
        wait_until(lambda: sampler.rows().height)
        sampler.stop()
        shell.kill()
    assert sampler.blind_spots() == ()


@pytest.mark.root
def test_refused_is_a_blind_spot(python: int, tmp_path: Path) -> None:
    """Without the right to read memory there are no lines, and that is said."""
    refusing = tmp_path / "refusing"
    refusing.write_text(f'#!/bin/sh\nexec setpriv --reuid=65534 --clear-groups {binary()} "$@"\n')
    refusing.chmod(0o755)
    sampler = StackSampler([python], budget_share=0.5, binary=refusing)
    sampler.start()
    wait_until(sampler.blind_spots)
    sampler.stop()
    (spot,) = sampler.blind_spots()
    assert "py-spy could not read it" in spot.why
    assert sampler.rows().is_empty()


def test_missing_pyspy_is_a_blind_spot(python: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where a Python process is watched."""
    monkeypatch.setattr("culpa.collect.stacks.find_pyspy", lambda: None)
    assert "pip install py-spy" in StackSampler([python], budget_share=0.5).blind_spots()[0].way_out
    assert StackSampler([], budget_share=0.5).blind_spots() == ()


def test_a_hanging_pyspy_is_killed(python: int, tmp_path: Path) -> None:
    """Two seconds, then it is refused."""
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    started = time.monotonic()
    with pytest.raises(Refused, match="longer than two seconds"):
        dump(hanging, Pid(python))
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("path", "library"),
    [
        ("/usr/lib/python3.11/socket.py", True),
        ("/usr/lib/python3/dist-packages/redis/client.py", True),
        ("/srv/venv/lib/python3.12/site-packages/flask/app.py", True),
        ("/opt/py/lib/python3.13t/threading.py", True),
        ("<frozen importlib._bootstrap>", True),
        ("<string>", True),
        ("/usr/lib/python311.zip/os.py", True),
        ("/srv/lib/shop/app.py", False),
        ("app.py", False),
        ("/home/python3/app.py", False),
        ("/app/library/site.py", False),
    ],
)
def test_what_is_library(path: str, library: bool) -> None:
    """By the interpreter's folders, not by names of applications."""
    assert in_library(path) is library


@given(st.binary(max_size=400))
def test_any_output_is_refused_or_read(output: bytes) -> None:
    """What py-spy prints holds names that the target chose."""
    try:
        rows = list(parse_dump(output, pid=Pid(1), ts_ns=0, outer_tid={}.get))
    except Refused:
        return
    assert rows == []


def test_own_process_is_python() -> None:
    """By the name of its program; a kernel thread has none."""
    assert is_python(os.getpid())
    assert not is_python(2)
