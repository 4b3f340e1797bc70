"""Redis' main thread in page faults whose page lies in swap."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from culpa.capture.schema import COUNTERS
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import names_below
from culpa.diagnose.rules.redis_said import NOTHING
from culpa.diagnose.rules.swap import swap_evidence, swap_fixes
from culpa.diagnose.verdict import Evidence, On
from culpa.model.kinds import Kind
from culpa.model.stages import SWAP_IN
from culpa.units import format_bytes

KILOBYTE = 1024
SWAPPED_LEAST = 16 << 20
"""Idle corners of any long-lived process lie in swap where there is one; less says nothing."""
MAJOR_FAULTS_LEAST = 100
"""In the window; the program's own file and its libraries make a few."""


@rule(
    id="redis.mem.swap",
    title="Redis waits for its own memory to come back from swap",
    needs=(),
    fixes=("memory-more", "swap-empty", "swappiness-low"),
    fires=(Lab("redis-swap"),),
    silent=(Lab("redis-swap-healthy"),),
)
@each_server
def swapped(view: RedisView) -> Iterator[Finding]:
    """What it detects: the main thread waits in page faults whose page the kernel had moved to swap.

    Why it slows you: one touch of such a page holds up every client for as long as the swap device takes; a command
    that walks through old keys touches thousands.

    How sure: where the host is traced each wait of the main thread is seen with its kernel stack. Without, part of its
    memory in swap and major faults in the window make it a note: faults that read a file count there as well.

    What to do: maxmemory below what the host can spare, fewer other users of its memory, vm.swappiness 1.
    """
    if view.pid is None:
        raise Unseen("its memory is not visible from here")
    nodes = [n for n in view.nodes(Kind.FAULT) if getattr(view.picture.blame.nodes[n].on, "stage", None) == SWAP_IN]
    told = tuple(_said(view))
    if nodes:
        devices = names_below(view.picture, nodes, Kind.DEVICE)
        moments = view.picture.moments(*nodes)
        yield Finding(
            moments=moments, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid,
            on=On(peer=view.server, device=devices[0] if devices else None),
            evidence=(*swap_evidence(view.picture, nodes, devices), *told, *view.stall_facts(moments)),
            confidence=0.9, fixes=swap_fixes(view.picture),
        )  # fmt: skip
    elif view.picture.sampled and _is_likely(view):
        yield Finding(
            moments=NOTHING, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid, on=On(peer=view.server),
            evidence=told, confidence=0.5, fixes=swap_fixes(view.picture), only_note=True,
        )  # fmt: skip


def _is_likely(view: RedisView) -> bool:
    swapped_kb, faults = view.host_number("Swap"), major_faults(view)
    return (
        swapped_kb is not None
        and swapped_kb * KILOBYTE >= SWAPPED_LEAST
        and faults is not None
        and faults >= MAJOR_FAULTS_LEAST
    )


def _said(view: RedisView) -> Iterator[Evidence]:
    if (swapped_kb := view.host_number("Swap")) is not None:
        yield Evidence(
            fact="of its memory in swap", value=format_bytes(swapped_kb * KILOBYTE), unit="", threshold=None,
            source=f"/proc/{view.pid}/smaps_rollup",
        )  # fmt: skip
    if (faults := major_faults(view)) is not None:
        yield Evidence(
            fact="major page faults of the process in the window", value=int(faults), unit="", threshold=None,
            source=f"/proc/{view.pid}/stat",
        )  # fmt: skip


def major_faults(view: RedisView) -> float | None:
    """How many major faults the process had in the window; None where that was not read twice."""
    mine = (pl.col("field") == "majflt") & (pl.col("object") == str(view.pid))
    values = view.picture.capture.frame(COUNTERS).filter(mine).sort("ts_ns")["value"].to_list()
    return values[-1] - values[0] if len(values) > 1 else None
