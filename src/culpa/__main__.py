"""`python -m culpa`, and the `culpa` command: an interrupt during start-up ends as quietly as a later one."""

from __future__ import annotations

import os
import signal
from types import FrameType

from culpa.errors import Interrupted


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(Interrupted.exit_code)


# The first line of the program: from here on an interrupt ends it without a traceback. `cli` takes over later.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)


# polars' allocator otherwise keeps what it freed for ten seconds, on a host that may have nothing to spare.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")


def main() -> None:
    """Load the command line and run it; never returns."""
    from culpa import cli

    cli.main()


if __name__ == "__main__":
    main()
