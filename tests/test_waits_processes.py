"""Whole runs of `culpa why` on waits for other processes: children, pipes, and whoever stops them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import LOOP, every, needs_tracing, python, running, share, why

pytestmark = [pytest.mark.trace, needs_tracing]


def pid_of(program: Path) -> str:
    """The pid of the process that runs a file of this test's own."""
    found = subprocess.run(["pgrep", "-f", str(program)], capture_output=True, text=True, check=True)
    return found.stdout.split()[0]


def test_a_child_at_the_other_end_of_a_pipe_is_followed(tmp_path: Path) -> None:
    """The request reads what a child writes after a sleep, and the end of the pipe after another one."""
    body = """
        @page
        def report(): return subprocess.run("sleep 0.1; echo 1; sleep 0.1", shell=True, stdout=-1).stdout
        serve(http.server.HTTPServer)
    """
    with python(tmp_path, body) as url:
        verdict = why(f"{url}/report", "--for", "3s")

    assert share(verdict, lambda node: node["kind"] == "peer", "sleep") > 0.8


def test_a_loop_that_waits_for_the_end_of_its_child_waits_for_what_that_does(tmp_path: Path) -> None:
    """Nothing is written to the pipe; it closes when the child ends, and the request waits in select(2) until then."""
    body = """
        import select
        @page
        def job():
            child = subprocess.Popen(["sh", "-c", "sleep 0.3; :"], stdout=-1)
            select.select([child.stdout], [], [])
            return child.stdout.read() + str(child.wait()).encode()
        serve(http.server.HTTPServer)
    """
    with python(tmp_path, body) as url:
        verdict = why(f"{url}/job", "--for", "3s")

    assert share(verdict, lambda node: node["kind"] == "peer", "sleep") > 0.8
    head = verdict["causes"][0]
    assert ("sleep.by-choice", "sleep") == (head["id"], head["who"]["comm"])


def test_pauses_of_a_script_are_one_cause() -> None:
    """Each by a process of its own, of which none takes a fifth of the time."""
    verdict = why("--", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 0.15; done")
    heads = [cause for cause in verdict["causes"] if cause["level"] != "note"]
    assert ["sleep.by-choice"] == [cause["id"] for cause in heads]
    assert heads[0]["share"] > 0.8
    assert any("7 more processes like it" in one["fact"] for one in heads[0]["evidence"])


def test_a_stopped_server_is_called_stopped_and_who_let_it_go_on_is_named(tmp_path: Path) -> None:
    """SIGSTOP before the window, SIGCONT by a shell within it."""
    with running([sys.executable], tmp_path / "server.py", LOOP) as url:
        pid = pid_of(tmp_path / "server.py")
        subprocess.run(["kill", "-STOP", pid], check=True)
        later = ["sh", "-c", f"read asked; sleep 2; kill -CONT {pid}; read judged"]
        watch = [sys.executable, "-m", "culpa", "why", "--json", url, "--for", "4s"]
        with (
            subprocess.Popen(later, stdin=subprocess.PIPE, text=True) as shell,
            subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching,
        ):
            assert shell.stdin is not None
            assert watching.stderr is not None
            try:
                assert "asks GET" in watching.stderr.readline()
                shell.stdin.write("asked\n")
                shell.stdin.flush()
                verdict = json.loads(watching.communicate(timeout=90)[0])
            finally:
                watching.kill()
                shell.stdin.close()

    stopped = [node for node in every(verdict["blame"]) if node["kind"] == "stopped"]
    assert sum(node["share"] for node in stopped) > 0.5
    assert any("until sh[" in node["label"] for node in stopped)


def test_a_server_that_is_stopped_over_and_over_names_who_does_that(tmp_path: Path) -> None:
    """SIGSTOP and SIGCONT in turns by a shell, which the scheduler and its calls show."""
    with running([sys.executable], tmp_path / "server.py", LOOP) as url:
        pid = pid_of(tmp_path / "server.py")
        turns = f"while kill -STOP {pid}; do sleep 0.1; kill -CONT {pid}; sleep 0.03; done"
        with subprocess.Popen(["sh", "-c", turns], stderr=subprocess.DEVNULL) as shell:
            try:
                verdict = why(url, "--for", "3s")
            finally:
                shell.kill()
        subprocess.run(["kill", "-CONT", pid], check=True)

    head = verdict["causes"][0]
    assert ("proc.stopped", int(pid)) == (head["id"], head["who"]["pid"])
    assert head["title"].startswith("It is stopped by sh[")


@pytest.mark.skipif(not Path("/sys/fs/cgroup/freezer").is_dir(), reason="no freezer of cgroup v1 on this host")
def test_a_frozen_server_is_stopped_by_the_freezer(tmp_path: Path) -> None:
    """A group of its own, frozen and thawed in turns."""
    group = Path("/sys/fs/cgroup/freezer") / tmp_path.name
    with running([sys.executable], tmp_path / "server.py", LOOP) as url:
        pid = pid_of(tmp_path / "server.py")
        group.mkdir()
        (group / "cgroup.procs").write_text(pid)
        turns = "while echo FROZEN; do sleep 0.1; echo THAWED; sleep 0.03; done"
        loop = turns.replace("; do", f" > {group}/freezer.state; do").replace(
            "THAWED;", f"THAWED > {group}/freezer.state;"
        )
        with subprocess.Popen(["sh", "-c", loop]) as shell:
            try:
                verdict = why(url, "--for", "3s")
            finally:
                shell.kill()
                shell.wait()
                (group / "freezer.state").write_text("THAWED")
                (group.parent / "cgroup.procs").write_text(pid)
    group.rmdir()

    head = verdict["causes"][0]
    assert ("proc.stopped", "It is stopped by the freezer of its control group") == (head["id"], head["title"])


def test_a_full_pipe_is_explained_by_its_reader() -> None:
    """The writer has far more to say than a pipe holds; the reader sleeps between its reads."""
    reader = "import sys, time\nwhile sys.stdin.buffer.raw.read(1 << 16): time.sleep(0.03)"
    writer = f"import os, subprocess\np = subprocess.Popen([{sys.executable!r}, '-c', {reader!r}], stdin=-1)\n"
    writer += "for _ in range(40): os.write(p.stdin.fileno(), bytes(1 << 16))\n"
    verdict = why("--", sys.executable, "-c", writer)

    assert share(verdict, lambda node: node["kind"] == "peer" and "write" in node["label"], "sleep") > 0.5
