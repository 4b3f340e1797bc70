"""Which processes of a host are worth watching when no target was named: those that do not idle.

One second of /proc: per process the CPU time used, the time runnable without a CPU, and how often one of its threads
was found in uninterruptible sleep or stopped, or it among those that wait for the lock of a file. Whoever is only
asleep otherwise is idle and scores nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from culpa.collect import filelocks
from culpa.collect.procfs import PROC, numbers_in, parse_schedstat, parse_stat, read_bounded
from culpa.units import NS_PER_SECOND

LOOK_NS: Final = NS_PER_SECOND
LOOKS: Final = 10
MAX_PROCESSES: Final = 12
MAX_LOOKED_AT: Final = 4000
MIN_NS: Final = LOOK_NS // 200
"""Half a percent of the look: less than that is idling."""
_WAITING: Final = frozenset("DTt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """One process and the time in ns it did not idle in a look of `LOOK_NS`."""

    pid: int
    busy_ns: int


def busiest(
    *, exclude: Collection[int], stopping: threading.Event, proc_root: Path = PROC, look_ns: int = LOOK_NS
) -> list[Busy]:
    """The processes that idle least, most active first; kernel threads, `exclude` and its ancestors left out.

    Takes `look_ns`; ends early, with what was seen, when `stopping` is set.
    """
    family = {ancestor for pid in exclude for ancestor in _with_ancestors(proc_root, pid)}
    pids = [pid for pid in numbers_in(proc_root)[-MAX_LOOKED_AT:] if pid not in family and _is_user(proc_root, pid)]
    before = {pid: _cpu_and_delay_ns(proc_root, pid) for pid in pids}
    waiting: Counter[int] = Counter()
    for _ in range(LOOKS):
        if stopping.wait(look_ns / LOOKS / NS_PER_SECOND):
            break
        waiting.update(dict.fromkeys(_want_locks(proc_root), look_ns // LOOKS))
        enough_ns = time.monotonic_ns() + look_ns // LOOKS // 2  # a host of many threads is looked at in part
        for pid in pids:
            waiting[pid] += _waiting_threads(proc_root, pid) * (look_ns // LOOKS)
            if time.monotonic_ns() > enough_ns:
                break
    scores = []
    for pid in pids:
        now, then = _cpu_and_delay_ns(proc_root, pid), before[pid]
        if now is not None and then is not None:
            scores.append(Busy(pid=pid, busy_ns=now - then + waiting[pid]))
    scores.sort(key=lambda one: (-one.busy_ns, one.pid))
    return [one for one in scores[:MAX_PROCESSES] if one.busy_ns >= MIN_NS]


def _with_ancestors(proc_root: Path, pid: int) -> set[int]:
    """A process and those above it: who watches the shell that culpa was started from watches culpa as well."""
    found: set[int] = set()
    while pid and pid not in found:
        found.add(pid)
        stat = parse_stat(read_bounded(proc_root / str(pid) / "stat") or b"")
        pid = stat.ppid if stat is not None else 0
    return found


def _is_user(proc_root: Path, pid: int) -> bool:
    stat = parse_stat(read_bounded(proc_root / str(pid) / "stat") or b"")
    return stat is not None and not stat.kernel


def _cpu_and_delay_ns(proc_root: Path, pid: int) -> int | None:
    """CPU time and run-queue delay of all threads so far; None where the process is gone."""
    stat = parse_stat(read_bounded(proc_root / str(pid) / "stat") or b"")
    if stat is None:
        return None
    ticks = stat.user_ticks + stat.system_ticks
    delay = 0
    for tid in numbers_in(proc_root / str(pid) / "task"):
        sched = parse_schedstat(read_bounded(proc_root / str(pid) / "task" / str(tid) / "schedstat") or b"")
        delay += sched.run_delay_ns if sched is not None else 0
    return ticks * NS_PER_SECOND // os.sysconf("SC_CLK_TCK") + delay


def _waiting_threads(proc_root: Path, pid: int) -> int:
    """How many threads of a process are in uninterruptible sleep or stopped now."""
    states = (
        parse_stat(read_bounded(proc_root / str(pid) / "task" / str(tid) / "stat") or b"")
        for tid in numbers_in(proc_root / str(pid) / "task")
    )
    return sum(stat is not None and stat.state in _WAITING for stat in states)


def _want_locks(proc_root: Path) -> set[int]:
    """Processes that wait for the lock of a file now: that is no idling, though the kernel calls it a plain sleep."""
    return {lock.pid for lock in filelocks.parse_locks(read_bounded(proc_root / "locks") or b"") if lock.waits}
