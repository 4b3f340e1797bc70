"""Python source lines through the real py-spy."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from living import line_of, running
from sleeper import LINE, PROGRAM, asleep, binary

from culpa.collect.pyspy import Recording, Refused, dump, in_library, parse_dump, parse_record
from culpa.units import Pid


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Where the script is."""
    return tmp_path / "app.py"


@pytest.fixture
def python(program: Path) -> Iterator[int]:
    """A script whose two threads sleep."""
    with asleep(program) as pid:
        yield pid


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


@contextlib.contextmanager
def inside_a_namespace(program: Path) -> Iterator[int]:
    """The program in a pid namespace of its own: its pid on this host."""
    launch = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, program]
    with subprocess.Popen(launch, stdout=subprocess.PIPE) as outer:
        try:
            assert outer.stdout is not None
            outer.stdout.readline()
            outer.stdout.readline()
            (inner,) = map(int, Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split())
            yield inner
        finally:
            outer.kill()


@pytest.mark.root
def test_threads_of_another_pid_namespace_have_their_outer_ids(program: Path) -> None:
    """The interpreter knows its thread by the number inside; the rows name it by the host's."""
    program.write_text(PROGRAM)
    with inside_a_namespace(program) as inner:
        rows, _ = dump(binary(), Pid(inner))
        assert {row.tid for row in rows} == {int(entry.name) for entry in Path(f"/proc/{inner}/task").iterdir()}


def test_a_hanging_pyspy_is_killed(python: int, tmp_path: Path) -> None:
    """Two seconds, then it is refused."""
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    started = time.monotonic()
    with pytest.raises(Refused, match="longer than it may"):
        dump(hanging, Pid(python))
    assert time.monotonic() - started < 4


TURNS = """
import time
def odd():
    while int(time.monotonic() * 2) % 2: time.sleep(0.001)
def even():
    while not int(time.monotonic() * 2) % 2: time.sleep(0.001)
print("up")
while True: odd(); even()
"""
"""Which function it is in, the clock tells: another one each half second."""
ENDING = """
import threading, time
def brief():
    time.sleep(0.02)
print("up")
while True:
    thread = threading.Thread(target=brief)
    thread.start()
    thread.join()
    time.sleep(0.2)
"""


def test_each_stack_of_a_recording_has_its_moment() -> None:
    """By the program's own clock; what is near a turn may be seen a sample later."""
    with running(TURNS) as child:
        assert line_of(child) == "up"
        taken = [Recording(binary(), Pid(child.pid), rate=40).finish() for _ in range(4)]
    rows, cpu_ns = [row for rows, _ in taken for row in rows], sum(cpu_ns for _, cpu_ns in taken)
    seen = [(row.function, row.ts_ns * 2 / 1e9) for row in rows if row.function in ("odd", "even")]
    clear = [(function, turn) for function, turn in seen if 0.1 < turn % 1 < 0.7]
    assert len(clear) >= 40
    right = [function == ("odd" if int(turn) % 2 else "even") for function, turn in clear]
    assert sum(right) >= 0.9 * len(right)
    assert 0 < cpu_ns < 1_000_000_000


def test_a_thread_that_has_ended_is_not_seen_any_longer() -> None:
    """Threads of 20 ms, five a second: their stacks do not last until the end of the recording."""
    with running(ENDING) as child:
        assert line_of(child) == "up"
        taken = [Recording(binary(), Pid(child.pid), rate=40).finish() for _ in range(4)]
    seen = Counter(row.tid for rows, _ in taken for row in rows if row.function == "brief")
    assert seen
    assert all(count <= 5 for count in seen.values()), seen


def test_a_recording_that_is_cut_short_has_what_was_seen(python: int) -> None:
    """The window ends, and the recording with it."""
    started = time.monotonic()
    recording = Recording(binary(), Pid(python), rate=40)
    timer = threading.Timer(0.4, recording.end)
    timer.start()
    rows, _ = recording.finish()
    assert time.monotonic() - started < 0.9
    assert {(row.function, row.line) for row in rows if row.depth == 0} == {("innermost", LINE)}
    assert {row.tid for row in rows} == {int(entry.name) for entry in Path(f"/proc/{python}/task").iterdir()}
    recording.end()  # and once more, when it has ended


@pytest.mark.root
def test_a_recording_knows_the_threads_of_another_pid_namespace(program: Path) -> None:
    """As one stack does."""
    program.write_text(PROGRAM)
    with inside_a_namespace(program) as inner:
        rows, _ = Recording(binary(), Pid(inner), rate=40).finish()
        assert {row.tid for row in rows} == {int(entry.name) for entry in Path(f"/proc/{inner}/task").iterdir()}


STEP = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["thread (7): a", "thread (9)", "thread (x)", "work", ""]),
        "ph": st.sampled_from(["B", "E", "?"]),
        "tid": st.integers(1, 3),
        "ts": st.integers(0, 1_000_000),
        "args": st.fixed_dictionaries({"filename": st.text(max_size=3), "line": st.integers(-1, 5)}),
    }
)


@given(st.lists(STEP, max_size=30))
def test_any_record_gives_rows_of_its_own_time_and_threads(steps: list[dict[str, object]]) -> None:
    """In whatever order calls and returns come, and from whatever threads."""
    rows = list(
        parse_record(
            msgspec.json.encode(steps),
            pid=Pid(1), start_ns=5, period_ns=25_000_000, outer_tid={7: 70, 9: 90}.get, alive={70},
        )
    )  # fmt: skip
    assert {row.tid for row in rows} <= {70, 90}
    assert all(5 <= row.ts_ns <= 1_000_000_005 for row in rows)


@pytest.mark.parametrize("output", [b"", b"{}", b'[{"name": 1}]', b'[{"name": "a", "ph": "B", "tid": 1, "ts": "x"}]'])
def test_a_record_of_another_form_is_refused(output: bytes) -> None:
    """And no traceback."""
    with pytest.raises(Refused):
        list(parse_record(output, pid=Pid(1), start_ns=0, period_ns=1, outer_tid={}.get, alive=()))


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
