"""How long the host kept a server from its CPU while a test looked at it: by the kernel's count and by a clock on each
CPU, without culpa's help. What a verdict says of the host is true as far as that goes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from culpa.diagnose.verdict import Verdict
from culpa.labs import disturbance

HOSTS_DOING = frozenset({"cpu.runqueue", "redis.cpu.starved", "redis.stall.unattributed"})
"""What is said of a server that the host kept waiting; the last one where waits were not followed one by one."""


@dataclass(slots=True)
class Kept:
    """Milliseconds, once measured: in the run queue, and while the hypervisor or the kernel had its CPU."""

    queued_ms: float = 0.0
    away_ms: float = 0.0

    @property
    def ms(self) -> float:
        """Both."""
        return self.queued_ms + self.away_ms


@contextmanager
def measured(client: redis.Redis) -> Iterator[Kept]:
    """Of the server's main thread, from here to the end of the block; the server must live so long."""
    kept, pid = Kept(), int(client.info("server")["process_id"])
    with disturbance.watched() as watch:
        before_ns = _queued_ns(pid)
        yield kept
        kept.queued_ms = (_queued_ns(pid) - before_ns) / 1e6
        kept.away_ms = watch.close()


def _queued_ns(pid: int) -> int:
    """Time in which the main thread was ready to run, without a CPU."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1])


def above_a_note(verdict: Verdict, kept: Kept) -> set[str]:
    """The causes above a note but those of the host's doing that it was measured to have done, at least by half."""
    found = set()
    for one in verdict.causes:
        lasted_ms = 1000 * one.share * verdict.root.seconds
        if one.level == "note":
            continue
        if one.id in HOSTS_DOING and lasted_ms <= 2 * kept.ms:
            warnings.warn(f"{one.id}: the host kept the server from a CPU for {kept.ms:.0f} ms", stacklevel=2)
        else:
            found.add(one.id)
    return found
