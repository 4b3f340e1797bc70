"""What disturbed a run from outside: CPU time that went to programs of others, and time the host itself was away.

A verdict that names such trouble is right about the host and says nothing about the lab; measured without culpa's help.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

APPS = Path(__file__).parent / "apps"
PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
KTHREADD = 2
OTHERS_SHARE = 0.03
"""Of one CPU, in the whole run: what a quiet host's services never take. A window is a part of a run, and 0.2 s of a
CPU at a bad moment in it are a true `cpu.runqueue`."""
AWAY_MS = 5.0
"""In the whole run: at the wrong moment it is what a client of Redis notices."""
END_TIMEOUT_S = 10.0


class Disturbance:
    """From its making on; `end` says what disturbed, in sentences."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._kernel = _of_kernel_threads(list(_stats()))
        self._others = _seconds_of_others(self._kernel)
        self._metronome = _metronome()

    def end(self) -> tuple[str, ...]:
        """What disturbed the run; nothing on a quiet host."""
        lasted = max(0.001, time.monotonic() - self._started)
        away_ms = self.close()
        share = (_seconds_of_others(self._kernel) - self._others) / lasted
        said = []
        if share >= OTHERS_SHARE:
            said.append(f"programs of others took {share:.0%} of a CPU meanwhile")
        if away_ms >= AWAY_MS:
            said.append(f"the host was away from a CPU for {away_ms:.0f} ms meanwhile")
        return tuple(said)

    def close(self) -> float:
        """End what measures; how long (ms) the worst CPU was away."""
        if self._metronome is None:
            return 0.0
        said, _ = self._metronome.communicate(timeout=END_TIMEOUT_S)
        self._metronome = None
        return max((float(line) for line in said.splitlines()), default=0.0)


@contextmanager
def watched() -> Iterator[Disturbance]:
    """A watch that leaves no process behind."""
    disturbance = Disturbance()
    try:
        yield disturbance
    finally:
        disturbance.close()


def _metronome() -> subprocess.Popen[bytes] | None:
    """Beating on all CPUs; None without root, to whom real-time priorities are kept."""
    if os.geteuid() != 0:
        return None
    argv = [sys.executable, str(APPS / "metronome.py")]
    # Unbuffered, so that no line that belongs to the end is taken with those of the beginning.
    metronome = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    for _ in os.sched_getaffinity(0):
        metronome.stdout.readline()  # type: ignore[union-attr]  # it has a pipe
    return metronome


def _seconds_of_others(kernel: dict[int, int]) -> float:
    """CPU time that all programs have had, without those of this run and without threads of the kernel.

    Args:
        kernel: ticks that such threads had at the beginning: those that have ended since had at least these.
    """
    fields = PROC.joinpath("stat").read_text().split("\n", 1)[0].split()
    user, nice, system = (int(field) for field in fields[1:4])
    stats = list(_stats())
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own = sum(one.ru_utime + one.ru_stime for one in used)
    ticks = user + nice + system - sum((kernel | _of_kernel_threads(stats)).values()) - _of_descendants(stats)
    return ticks / TICKS - own


def _of_kernel_threads(stats: list[tuple[int, int, int]]) -> dict[int, int]:
    """Ticks of CPU time by thread of the kernel."""
    return {pid: ticks for pid, parent, ticks in stats if KTHREADD in (pid, parent)}


def _of_descendants(stats: list[tuple[int, int, int]]) -> int:
    mine, total = {os.getpid()}, 0
    for pid, parent, ticks in sorted(stats):  # a child has the higher number, but where numbers have come round
        if parent in mine:
            mine.add(pid)
            total += ticks
    return total


def _stats() -> Iterator[tuple[int, int, int]]:
    """Process id, parent, and ticks of CPU time (its own and of children it has waited for) of each process."""
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                text = entry.joinpath("stat").read_text(errors="replace")  # a program names itself as it likes
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            fields = text.rpartition(")")[2].split()
            yield int(entry.name), int(fields[1]), sum(int(field) for field in fields[11:15])
