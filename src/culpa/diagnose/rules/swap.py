"""Waits for memory that is not there: pages that lie in swap, and room that has to be made first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from culpa.capture.schema import OFFCPU
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import names_below, seconds
from culpa.diagnose.rules.memorylimits import (
    has_room_for_swap,
    host_memory,
    limits_reached,
    memory_users,
    swap_traffic,
)
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.model.stages import OF_GROUP, SWAP_IN
from culpa.units import format_count

MIN_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""
LESS_MEMORY = Fix(
    id="memory-more", change="give the host more memory, or run less on it: the largest users are named",
    reversible=True, risk="none",
)  # fmt: skip
SWAPPINESS = Fix(
    id="swappiness-low", argv=("sysctl", "-w", "vm.swappiness=1"), reversible=True,
    risk="under pressure the page cache shrinks sooner; what is in swap stays there until it is touched",
)  # fmt: skip
EMPTY_SWAP = Fix(
    id="swap-empty", change="swapoff -a && swapon -a: everything is read back, the host has room for it",
    reversible=True, risk="it takes a while, in which the swap device is busy",
)  # fmt: skip
_RAISE_LIMIT = Fix(
    id="memory-limit-raise", change="raise the memory limit of that control group, or make the program hold less",
    reversible=True, risk="others on the host have less memory",
)  # fmt: skip


@rule(
    id="mem.swap",
    title="Memory that it needs lies in swap",
    needs=(OFFCPU,),
    fixes=("memory-more", "swap-empty", "swappiness-low"),
    fires=(Lab("mem-swap"),),
    silent=(
        Lab("mem-swap-healthy"),
        Lab("page-faults"),
        Lab("page-faults-healthy"),
        Lab("io-limit"),
        Lab("herring-swap"),
    ),
)
def swap(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits in page faults whose page the kernel had moved to swap.

    Why it slows you: each touch of such a page reads it from the swap device while the thread stands still; no system
    call shows it.

    How sure: each wait is seen with its kernel stack, and the read of the swap device that ended it. A page of a file
    that is read again is no swap, and has other causes.

    What to do: more memory or fewer users of it; where the host was short only once, empty the swap; a lower
    vm.swappiness where the page cache pushes programs out. Where the limit of its own control group did it, that is
    `mem.cgroup-limit`.
    """
    for pid, nodes in swap_waits(picture).items():
        moments = picture.moments(*nodes)
        if picture.share(moments.ns) < MIN_SHARE:
            continue
        devices = names_below(picture, nodes, Kind.DEVICE)
        yield Finding(
            moments=moments, nearness=Nearness.NEIGHBOUR, pid=pid, tid=None,
            on=On(device=devices[0]) if devices else None, evidence=tuple(swap_evidence(picture, nodes, devices)),
            confidence=0.9, fixes=swap_fixes(picture),
        )  # fmt: skip


def swap_fixes(picture: Picture) -> tuple[Fix, ...]:
    """What to do against swap: where the host is no longer short of memory, to read it back."""
    return (EMPTY_SWAP if has_room_for_swap(picture) else LESS_MEMORY, SWAPPINESS)


def swap_waits(picture: Picture) -> dict[int, list[int]]:
    """Waits for pages that lie in swap, by process, largest first."""
    return memory_waits(picture, Kind.FAULT, (SWAP_IN,))


def swap_evidence(picture: Picture, nodes: list[int], devices: list[str]) -> Iterator[Evidence]:
    """How often and how long, where the pages came from, and who has the memory."""
    ns, waits = picture.moments(*nodes).ns, sum(picture.blame.nodes[node].count for node in nodes)
    mean = f"{ns / max(1, waits) / 1e6:.3g} ms"
    first = picture.blame.nodes[nodes[0]].who
    who = picture.objects.thread_name(picture.objects.pid_of.get(first, first))
    yield Evidence(
        fact=f"{who} in {format_count(waits)} page faults served from swap, {mean} each in the mean",
        value=seconds(ns), unit="s", threshold=None, source="offcpu, stacks",
    )  # fmt: skip
    if devices:
        yield Evidence(fact="read from", value=", ".join(devices), unit="", threshold=None, source="blocks")
    yield from swap_traffic(picture)
    yield from host_memory(picture)
    yield from memory_users(picture)


@rule(
    id="mem.cgroup-limit",
    title="Its control group is at its memory limit",
    needs=(OFFCPU,),
    fixes=("memory-limit-raise",),
    fires=(Lab("mem-limit"),),
    silent=(Lab("mem-limit-healthy"), Lab("mem-swap"), Lab("mem-swap-healthy"), Lab("page-faults")),
)
def cgroup_limit(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits while room is made within its own control group (memory.max, memory.high,
    memory.limit_in_bytes), or for pages that this had moved to swap.

    Why it slows you: at the limit each new page pushes another one of the same group out, which is soon wanted back,
    however much memory the host has left.

    How sure: reclaim for a control group has a kernel stack of its own; reclaim because the host is short is not
    counted. Pages from swap are laid at the limit's door only where that limit was reached in the window and the group
    was nearly full; else they are `mem.swap`.

    What to do: raise the limit, or hold less.
    """
    reclaiming, waiting = memory_waits(picture, Kind.RECLAIM, OF_GROUP), swap_waits(picture)
    limits = limits_reached(picture) if reclaiming or waiting else ()
    for pid in dict.fromkeys((*reclaiming, *waiting)):
        held = limits if pid in picture.capture.manifest.target.pids else ()
        rooms, faults = reclaiming.get(pid, []), waiting.get(pid, []) if held else []
        moments = picture.moments(*rooms, *faults)
        if not (rooms or faults) or picture.share(moments.ns) < MIN_SHARE:
            continue
        evidence = [*part(picture, "making room in its control group", rooms)]
        evidence += part(picture, "in page faults served from swap", faults)
        evidence += [fact for limit in held for fact in limit.evidence()]
        yield Finding(
            moments=moments, nearness=Nearness.LIMIT, pid=pid, tid=None,
            on=On(setting=held[0].file) if held else None,
            evidence=(*evidence, *host_memory(picture), *memory_users(picture)),
            confidence=0.9 if held else 0.8, fixes=(_RAISE_LIMIT,),
        )  # fmt: skip


def part(picture: Picture, words: str, nodes: list[int]) -> Iterator[Evidence]:
    """How often and how long, where it happened at all."""
    if nodes:
        waits = sum(picture.blame.nodes[node].count for node in nodes)
        yield Evidence(
            fact=f"{words}, {format_count(waits)} waits", value=seconds(picture.moments(*nodes).ns), unit="s",
            threshold=None, source="offcpu, stacks",
        )  # fmt: skip


def memory_waits(picture: Picture, kind: Kind, stages: tuple[str, ...]) -> dict[int, list[int]]:
    """Nodes of a kind at some stages by process, largest first; the kernel's own threads have no memory to wait for."""
    found: dict[int, list[int]] = defaultdict(list)
    for node in picture.nodes(kind):
        blamed = picture.blame.nodes[node]
        if blamed.on is not None and blamed.on.stage in stages and blamed.who not in picture.objects.kernel_tids:
            found[picture.objects.pid_of.get(blamed.who, blamed.who)].append(node)
    return dict(found)
