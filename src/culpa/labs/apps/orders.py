"""Orders that are put down in a log, for `serve.py`: `orders.py LOG DUMP-BYTES ROTATE-BYTES`.

/order   takes one order and logs it; at level DEBUG with a dump of everything there is
SIGUSR1 sets the level to DEBUG, SIGUSR2 to WARNING. The log is rotated and one old part of it kept.
"""

from __future__ import annotations

import logging
import logging.handlers
import signal
from collections.abc import Callable

LEVELS = {signal.SIGUSR1: logging.DEBUG, signal.SIGUSR2: logging.WARNING}


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The order book, with a log of its own; it begins at level DEBUG, as somebody left it."""
    file, dump_bytes, rotate_bytes = arguments[0], int(arguments[1]), int(arguments[2])
    log = logging.getLogger("orders")
    handler = logging.handlers.RotatingFileHandler(file, maxBytes=rotate_bytes, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    for number in LEVELS:
        signal.signal(number, lambda given, _frame: log.setLevel(LEVELS[signal.Signals(given)]))
    everything = "0123456789abcdef" * (dump_bytes // 16)
    taken = 0

    def take_order() -> int:
        nonlocal taken
        taken += 1
        log.debug("order %d: %s", taken, everything)
        return taken

    return lambda path: f"order {take_order()} taken" if path == "order" else None
