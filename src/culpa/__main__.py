"""`python -m culpa`, and the `culpa` command: an interrupt during start-up ends as quietly as a later one."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Final

from culpa.errors import Interrupted

STREAMS: Final = ("stdin", "stdout", "stderr")
"""By number."""


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(Interrupted.exit_code)


# The first line of the program: from here on an interrupt ends it without a traceback. `cli` takes over later.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)


def _open_streams() -> None:
    """Give what was closed (`>&-`) a place that leads nowhere: else the next file that is opened would be stdout."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < len(STREAMS):
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(STREAMS):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def main() -> None:
    """Load the command line and run it; never returns."""
    _open_streams()
    from culpa import allocators

    allocators.keep_little()
    from culpa import cli

    cli.main()


if __name__ == "__main__":
    main()
