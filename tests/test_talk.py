"""What a terminal can show decides the page's width and colour, and whether there is a line that changes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from culpa.talk import LINE_WIDTH

ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short capture of a sleeping process."""
    path = tmp_path_factory.mktemp("talk") / "idle.culpa"
    with subprocess.Popen(["sleep", "60"]) as process:
        argv = [sys.executable, "-m", "culpa", "record", str(process.pid), "--no-trace", "--for", "500ms", "-o", path]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        process.kill()
    assert done.returncode == 0, done.stderr
    return path


def shown(*arguments: str, columns: int = 80, **environment: str) -> str:
    """What a terminal of so many columns gets to see of a run."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "TERM")}
    argv = [sys.executable, "-m", "culpa", *arguments]
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**kept, **environment}) as process:
        os.close(theirs)
        said = b""
        while part := _read(ours):
            said += part
        os.close(ours)
    assert process.returncode == 0, said
    return said.decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # EIO: the other end was closed
        return b""


def widest(text: str) -> int:
    """Letters of the longest line, escape sequences left out."""
    return max(len(re.sub(r"\x1b\[[0-9;]*[a-zA-Z]", "", line)) for line in re.split("[\r\n]", text))


@pytest.mark.parametrize(("columns", "width"), [(40, 40), (60, 60), (200, LINE_WIDTH), (0, LINE_WIDTH)])
def test_a_page_is_as_wide_as_its_terminal(capture: Path, columns: int, width: int) -> None:
    """No row is broken by the terminal; 0 columns is one that does not know."""
    page = shown("why", str(capture), columns=columns, TERM="xterm")
    assert width - 12 <= widest(page) <= width


def test_colour_where_the_terminal_has_it(capture: Path) -> None:
    """And none by NO_COLOR or --no-color."""
    assert ESCAPE in shown("why", str(capture), TERM="xterm")
    assert ESCAPE not in shown("why", str(capture), TERM="xterm", NO_COLOR="1")
    assert ESCAPE not in shown("why", str(capture), "--no-color", TERM="xterm")


def test_the_line_that_changes_fits_the_terminal() -> None:
    """A wrapped line could not be taken away again."""
    with subprocess.Popen(["sleep", "60"]) as process:
        seen = shown("why", str(process.pid), "--no-trace", "--for", "1s", columns=40, TERM="xterm")
        process.kill()
    live = re.findall(r"\r\x1b\[K([^\r\n\x1b]+)", seen)
    assert live
    assert max(map(len, live)) <= 40


@pytest.mark.parametrize("terminal", [{"TERM": "dumb"}, {}])
def test_a_dumb_terminal_gets_text_only(terminal: dict[str, str]) -> None:
    """Neither colours nor a line that changes: it would show the escape sequences."""
    with subprocess.Popen(["sleep", "60"]) as process:
        seen = shown("why", str(process.pid), "--no-trace", "--for", "1s", **terminal)
        process.kill()
    assert ESCAPE not in seen
    assert "\r" not in seen
