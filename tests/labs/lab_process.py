"""A lab in a process of its own, for tests that end it in every way: `lab_process.py DIRECTORY [DIE_AFTER_ENTRIES]`.

It opens a site with a slow disk and a redis-server, says `ready` and waits to be ended. With a second argument it
kills itself with SIGKILL as soon as that many entries are in the ledger; with `unsaid`, instead of writing down the
program it has just started. With `swap` it opens a site with a slow swap area and a memory group instead.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from culpa.labs import ledger, memorygroup, redis_server, site, slowdisk, swaparea, throttle
from culpa.labs.places import Places

DIRECTORY = Path(sys.argv[1])
UNSAID, SWAP = sys.argv[2:] == ["unsaid"], sys.argv[2:] == ["swap"]
DIE_AFTER = int(sys.argv[2]) if len(sys.argv) > 2 and not (UNSAID or SWAP) else 0
SLOWNESS = slowdisk.Slowness(rate=throttle.Rate(per_second=800), dirty_bytes=16 << 20, image_bytes=64 << 20)
PLACES = Places(temp=DIRECTORY / "temp", state=DIRECTORY, lock=DIRECTORY / "lock")

if DIE_AFTER or UNSAID:
    note = ledger.Ledger.note

    def note_and_die(self: ledger.Ledger, entry: ledger.Entry) -> None:
        """Write the entry; at the chosen one, die before the thing it announces is made."""
        if UNSAID and isinstance(entry, ledger.Started):
            wait_for_title(entry.pid)
            os.kill(os.getpid(), signal.SIGKILL)
        note(self, entry)
        if len(PLACES.ledger.read_bytes().splitlines()) == DIE_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger.Ledger.note = note_and_die  # type: ignore[method-assign]


def wait_for_title(pid: int) -> None:
    """Wait until redis-server has overwritten its environment with its title."""
    deadline = time.monotonic() + 20
    while b"CULPA_LAB" in Path(f"/proc/{pid}/environ").read_bytes():
        assert time.monotonic() < deadline, "it still has its environment"
        time.sleep(0.02)


with site.opened(lambda line: print(line, file=sys.stderr), places=PLACES) as here:
    if SWAP:
        rate = throttle.Rate(per_second=800, unit="reads")
        area = here.stack.enter_context(swaparea.slow_swap(here, rate, 8 << 20))
        of_memory = memorygroup.memory_group(book=here.ledger, name=here.name, beside=area.limit.group)
        group = here.stack.enter_context(of_memory)
        group.admit(here.start(["sleep", "120"], name="sleeper").pid)
        print("ready", flush=True)
        time.sleep(120)
    with_disk = here.stack.enter_context(slowdisk.slow_disk(here, SLOWNESS))
    redis_server.start(here, with_disk.directory, appendonly="yes")
    print("ready", flush=True)
    time.sleep(120)
