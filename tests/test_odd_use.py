"""Odd uses of the command line: each ends with the right exit code and one sentence, never with a traceback."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from culpa.errors import exhausted

CULPA = (sys.executable, "-m", "culpa")
FULL = Path("/dev/full")


def culpa(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    """One run, to its end."""
    options: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.run([*CULPA, *arguments], text=True, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return]  # options of every type


def assert_sentence(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The exit code, and one sentence on stderr that has all the words."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.fixture
def sleeper() -> str:
    """The pid of a process that sleeps."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield str(process.pid)
        process.kill()


def test_a_path_to_what_is_no_file_is_wrong_usage(tmp_path: Path) -> None:
    """A directory, a device, a pipe and a socket are called what they are, at once."""
    os.mkfifo(tmp_path / "pipe.culpa")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        assert_sentence(culpa("why", str(tmp_path)), 2, "is a directory, not a capture")
        assert_sentence(culpa("why", "/dev/zero"), 2, "is a device or pipe, not a capture")
        assert_sentence(culpa("why", "pipe.culpa", cwd=tmp_path), 2, "is a device or pipe, not a capture")
        assert_sentence(culpa("why", str(tmp_path / "socket")), 2, "is a socket", "unix://")


def test_files_that_are_no_captures_are_refused(tmp_path: Path) -> None:
    """Nothing in it, zeros, and the first half of a real one."""
    (tmp_path / "empty.culpa").touch()
    (tmp_path / "zeros.culpa").write_bytes(bytes(100_000))
    for name in ("empty.culpa", "zeros.culpa"):
        assert_sentence(culpa("why", str(tmp_path / name)), 1, name, "culpa record")
    whole = tmp_path / "whole.culpa"
    with subprocess.Popen(["sleep", "60"]) as process:
        assert_sentence(
            culpa("record", str(process.pid), "--no-trace", "--for", "500ms", "-q", "-o", str(whole)), 0
        )  # fmt: skip
        process.kill()
    half = tmp_path / "half.culpa"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert_sentence(culpa("why", str(half)), 1, "half.culpa", "cut off or damaged", "again")


def test_a_zombie_has_ended() -> None:
    """Nothing of it can be seen any more: exit 4."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert_sentence(culpa("why", str(process.pid), "--for", "1s"), 4, "ended before anything was seen")


@pytest.mark.root
def test_a_kernel_thread_can_be_watched() -> None:
    """kthreadd has no program, no files and no memory; it has a verdict."""
    done = culpa("why", "2", "--for", "1s", "-q")
    assert_sentence(done, 0)
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("option", ["--for", "--slower-than"])
def test_a_time_without_sense_is_wrong_usage(sleeper: str, option: str) -> None:
    """None at all, and more than a capture could hold."""
    for text in ("0", "-5", "nan", "8000h", "999999999999h"):
        assert_sentence(culpa("why", sleeper, option, text), 2, option)


@pytest.mark.parametrize("arguments", [("doctor",), ("--help",), ("why", "--json", "--for", "500ms", "--no-trace")])
def test_a_full_disk_behind_stdout_is_told(sleeper: str, arguments: tuple[str, ...]) -> None:
    """What was asked for could not be delivered: exit 1."""
    more = (sleeper,) if arguments[0] == "why" else ()
    with FULL.open("w") as full:
        assert_sentence(culpa(*arguments, *more, stdout=full), 1, "no space left")


def test_a_full_disk_behind_stderr_costs_no_verdict(sleeper: str) -> None:
    """What is said there is only talk."""
    with FULL.open("w") as full:
        done = culpa("why", sleeper, "--for", "500ms", "--no-trace", stderr=full)
    assert done.returncode == 0
    assert done.stdout.startswith(sleeper)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nobody_s_files(sleeper: str, tmp_path: Path, closed: str) -> None:
    """What is opened next must not become stdout; what is left open gets its part."""
    saved = tmp_path / "closed.culpa"
    command = f'"$@" {closed}'
    argv = ["sh", "-c", command, "sh", *CULPA, "why", sleeper, "--for", "500ms", "-o", str(saved)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert_sentence(done, 0)
    assert done.stdout.startswith(sleeper) or ">&-" in closed.replace("2>&-", "")
    assert_sentence(culpa("why", str(saved), "-q"), 0)


@pytest.mark.parametrize("descriptors", [24, 12])
def test_few_descriptors_are_a_blind_spot(descriptors: int) -> None:
    """Too few for tracing, and then for py-spy: what is not seen is named with the way out."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        limited = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *CULPA]
        done = subprocess.run(
            [*limited, "why", str(process.pid), "--for", "1s", "-v"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        process.kill()
    assert_sentence(done, 0)
    shown = " ".join(done.stdout.split())
    assert "Too many open files" in shown or os.geteuid() != 0
    if descriptors == 12:
        assert "too many open files; raise the limit with ulimit -n" in shown


def test_what_runs_out_is_named_with_its_way_out() -> None:
    """Memory, descriptors, processes, disk; any other error is culpa's own and stays one."""
    told = [exhausted(MemoryError()), exhausted(OSError(errno.EMFILE, "")), exhausted(OSError(errno.ENOSPC, ""))]
    assert ["cannot allocate memory", "too many open files", "no space left on device"] == [
        each.what for each in told if each is not None and each.way_out
    ]
    assert exhausted(OSError(errno.EBADF, "")) is None


NOBODY = (
    "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
    "--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search",
)  # fmt: skip
"""May do nothing but read files, since the library may lie where only root can read."""


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run by a user without rights."""
    return subprocess.run(
        [*NOBODY, *CULPA, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )  # fmt: skip


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_user_without_rights_gets_what_there_is(sleeper: str, tmp_path: Path) -> None:
    """Samples instead of events, with the reason; what is refused is refused in a sentence."""
    seen = as_nobody("why", sleeper, "--for", "1s", "-v")
    assert_sentence(seen, 0)
    assert "CAP_BPF" in seen.stdout
    assert_sentence(as_nobody("why", "--for", "1s"), 0)
    assert_sentence(as_nobody("doctor"), 0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = f":{listening.getsockname()[1]}"
        assert_sentence(as_nobody("why", port, "--for", "1s"), 1, "run culpa as root")
    assert_sentence(as_nobody("why", "--user", "root", "--", "true"), 2, "without root")
    assert_sentence(as_nobody("why", sleeper, "--for", "1s", "-q", "-o", "/root/x.culpa"), 1, "cannot save the capture")


def programs(of: str = "[0-9]*") -> set[str]:
    """The ids of BPF programs that a process holds, or anybody; services of the host may have their own."""
    numbers = subprocess.run(
        ["sh", "-c", f"grep -h prog_id /proc/{of}/fdinfo/* 2>/dev/null"], capture_output=True, text=True, check=False
    )
    return {line.split()[1] for line in numbers.stdout.splitlines()}


@pytest.mark.root
@pytest.mark.trace
def test_a_killed_run_leaves_nothing(sleeper: str, tmp_path: Path) -> None:
    """SIGKILL in the window of a command's run: no program in the kernel, no half capture; the command goes on."""
    argv = [*CULPA, "why", "-o", str(tmp_path / "killed.culpa"), "--", "sleep", "3"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not programs(str(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # well into the window
        loaded = programs(str(process.pid))
        process.send_signal(signal.SIGKILL)
    assert loaded
    deadline = time.monotonic() + 5
    while programs() & loaded and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set() == programs() & loaded
    assert [] == list(tmp_path.iterdir())
    assert_sentence(culpa("why", sleeper, "--for", "500ms", "-q"), 0)
