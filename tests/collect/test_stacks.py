"""When the watched Python processes are looked at, and for how long."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from living import line_of, running, wait_until
from sleeper import LINE, PROGRAM, asleep, binary

from culpa.collect.stacks import StackSampler, is_python


@pytest.fixture
def python(tmp_path: Path) -> Iterator[int]:
    """A program whose two threads sleep."""
    with asleep(tmp_path / "app.py") as pid:
        yield pid


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
    """At a thousandth of a core one recording, of milliseconds, is followed by tens of seconds of rest."""
    sampler = StackSampler([python], budget_share=0.001)
    sampler.start()
    wait_until(lambda: sampler.rows().height > 0)
    cpu_ns = sampler.cpu_ns
    time.sleep(1.0)
    sampler.stop()
    assert sampler.cpu_ns == cpu_ns


def test_what_is_under_way_is_cut_short_at_the_end(python: int) -> None:
    """The window does not wait for the second to pass, and what was seen until then counts."""
    sampler = StackSampler([python], budget_share=0.5)
    sampler.start()
    time.sleep(0.8)
    stopped = time.monotonic()
    sampler.stop()
    assert time.monotonic() - stopped < 0.4
    assert sampler.rows()["line"].to_list().count(LINE) >= 4
    assert sampler.blind_spots() == ()


def test_many_threads_are_looked_at_once_and_again_later() -> None:
    """A recording of a hundred threads would cost a hundred times that of one."""
    code = "import threading, time\n" + "for _ in range(99): threading.Thread(target=time.sleep, args=(60,)).start()\n"
    with running(code + "print('up'); time.sleep(60)") as child:
        assert line_of(child) == "up"
        sampler = StackSampler([child.pid], budget_share=0.01)
        sampler.start()
        wait_until(lambda: sampler.rows().height > 0)
        sampler.stop()
    rows = sampler.rows()
    assert (1, 100) == (rows["ts_ns"].n_unique(), rows["tid"].n_unique())


def test_a_program_executed_later_is_found(tmp_path: Path) -> None:
    """A shell that becomes Python is looked at again."""
    program = tmp_path / "app.py"
    program.write_text(PROGRAM)
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
        wait_until(lambda: sampler.rows().height > 0)
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
    wait_until(lambda: sampler.blind_spots() != ())
    sampler.stop()
    (spot,) = sampler.blind_spots()
    assert "py-spy could not read it" in spot.why
    assert sampler.rows().is_empty()


def test_missing_pyspy_is_a_blind_spot(python: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where a Python process is watched."""
    monkeypatch.setattr("culpa.collect.stacks.find_pyspy", lambda: None)
    assert "pip install py-spy" in StackSampler([python], budget_share=0.5).blind_spots()[0].way_out
    assert StackSampler([], budget_share=0.5).blind_spots() == ()


def test_own_process_is_python() -> None:
    """By the name of its program; a kernel thread has none."""
    assert is_python(os.getpid())
    assert not is_python(2)
