"""Which CPU the time of culpa's own threads went to."""

from __future__ import annotations

import os
import threading
import time

from culpa.collect.ownuse import OwnUse

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def test_a_thread_on_one_cpu_is_charged_there() -> None:
    """Half a second of computing on the last CPU that this process may use; nothing else computes meanwhile."""
    cpu = max(os.sched_getaffinity(0))

    def compute() -> None:
        os.sched_setaffinity(0, {cpu})
        while not over.is_set() and time.thread_time() < 0.5:
            pass
        done.set()
        over.wait()

    over, done = threading.Event(), threading.Event()
    use = OwnUse()
    assert {} == use.look()
    thread = threading.Thread(target=compute)
    thread.start()
    done.wait(60)
    found = use.look()
    over.set()
    thread.join()
    assert 0.45 * TICKS_PER_SECOND <= found[cpu]
    assert sum(found.values()) <= 0.8 * TICKS_PER_SECOND
