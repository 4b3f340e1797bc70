"""The program `beside.c`, compiled for the occasion: it makes known requests to io_uring and libaio."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from culpa.labs import async_io

ROUNDS, BLOCK_BYTES, WORDS = 200, 4096, 10
DIRECT = ("ring", "defer", "fixed", "sqpoll", "read")
"""Ways of direct I/O through a ring, one request at a time."""


def compiled(folder: Path) -> Path:
    """The program; the test is skipped, and says so, where there is no compiler or no io_uring."""
    if reason := async_io.why_not():
        pytest.skip(reason)
    names = [found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))]
    argv = names[:1] or [sys.executable, "-m", "ziglang", "cc"]
    if not names and not importlib.util.find_spec("ziglang"):
        pytest.skip("no C compiler: apt-get install gcc, or pip install ziglang")
    program = folder / "beside"
    subprocess.run([*argv, "-O1", "-o", program, Path(__file__).with_name("beside.c")], check=True)
    return program
