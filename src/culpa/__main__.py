"""`python -m culpa`, and the `culpa` command: an interrupt during start-up ends as quietly as a later one."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Final

from culpa.errors import Interrupted

MOST_THREADS: Final = 4
"""Threads for tables, on a host with however many CPUs: it has work of its own."""
_ALLOCATOR: Final = "dirty_decay_ms:0,muzzy_decay_ms:0,narenas:1"
LARGE_BYTES: Final = 256 << 10
_M_MMAP_THRESHOLD: Final = -3
"""malloc.h of glibc."""


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(Interrupted.exit_code)


# The first line of the program: from here on an interrupt ends it without a traceback. `cli` takes over later.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)


def _keep_little() -> None:
    """Have polars keep little of the memory it no longer needs: a host that is looked at may have nothing to spare.

    Its allocator otherwise keeps what it freed for a while, and gives each thread a part of the memory of its own, in
    which tables that come and go leave gaps. What stands in the environment already may come from polars in a parent;
    the last word counts.
    """
    inherited = os.environ.get("_RJEM_MALLOC_CONF")
    os.environ["_RJEM_MALLOC_CONF"] = f"{inherited},{_ALLOCATOR}" if inherited else _ALLOCATOR
    os.environ.setdefault("POLARS_MAX_THREADS", str(min(MOST_THREADS, os.cpu_count() or 1)))


def _return_large_blocks() -> None:
    """Have every array above a bound go back to the system when it is freed.

    glibc otherwise raises that bound with each large block that is freed, up to 32 MiB, and then keeps arrays in heaps
    of which only the end can be given back. Another libc has no such function, and no such habit.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def main() -> None:
    """Load the command line and run it; never returns."""
    _keep_little()
    _return_large_blocks()
    from culpa import cli

    cli.main()


if __name__ == "__main__":
    main()
