"""Hold culpa's blame against the simulator's truth, nanosecond by nanosecond."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from culpa.capture.bundle import Capture
from culpa.diagnose import blame, root
from culpa.model import requests, timeline, waitgraph
from culpa.model.writeback import OLDER
from culpa.sim import emit, engine, truth
from culpa.sim.log import Log
from culpa.sim.program import Program
from culpa.sim.random_programs import Nature, random_program
from culpa.sim.truth import Leaf

_IN_TREE = {"swap": "fault", "host": "reclaim", "group": "reclaim", "compaction": "reclaim", "high": "reclaim"}
"""The kind of node that each thing a thread does for memory has."""
_ROOMS = {
    "swap-in": "swap",
    "memory reclaim": "host",
    "reclaim at the limit of its control group": "group",
    "memory compaction": "compaction",
    "a pause above memory.high of its control group": "high",
}
"""What the tree calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """[start_ns, end_ns) of a root thread's time as culpa charged it; `chain` begins with the root's thread.

    `behind` is whose other request the device served meanwhile, `room` what the thread at the end did for memory.
    """

    start_ns: int
    end_ns: int
    kind: str
    chain: tuple[int, ...]
    behind: int | None
    room: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A program's run, what culpa made of it, and the root it chose."""

    program: Program
    log: Log
    basis: str
    root_ns: int
    probed: bool
    blame: blame.Blame
    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where the two disagree; None: that side has no such time."""

    start_ns: int
    end_ns: int
    charge: Charge | None
    leaf: Leaf | None

    @property
    def is_wrong(self) -> bool:
        """Somebody was charged who does not stand on the true chain, or time that is not the root's."""
        return self.charge is not None and (self.leaf is None or not stops_early(self.charge, self.leaf))


def stops_early(charge: Charge, leaf: Leaf) -> bool:
    """culpa followed the true chain up to a point and says that it does not know more from there.

    That a device is waited for within a page fault, or while room is made, is told by the request that ended the wait.
    """
    if charge.room != leaf.room and charge.kind != "unexplained" and charge.chain == leaf.chain:
        return False
    if (charge.kind, charge.chain, charge.behind) == (leaf.kind, leaf.chain, None):
        return True
    if leaf.room is not None and (charge.kind, charge.chain) == (_IN_TREE[leaf.room], leaf.chain):
        return leaf.kind == "device"
    on_the_way = leaf.chain[: len(charge.chain)] == charge.chain
    # The edge that leads on from there, and the one that led there: the holder of a lock may be known by name alone.
    onward = leaf.edges[len(charge.chain) - 1] if len(charge.chain) <= len(leaf.edges) else None
    led = leaf.edges[len(charge.chain) - 2] if 1 < len(charge.chain) <= len(leaf.edges) + 1 else None
    unknown = charge.kind == "unexplained" or (charge.kind == onward and onward in ("journal", "lock"))
    return on_the_way and (unknown or (charge.kind == led == "lock"))


def run(seed: int, size: int, nature: Nature) -> tuple[Program, Log]:
    """A random program and its run."""
    program = random_program(seed, size=size, nature=nature)
    return program, engine.run(program)


def judge(program: Program, log: Log, capture: Capture | None = None, *, probed: bool = False) -> Judged:
    """What culpa makes of a run; with `probed` the client on another host is its own probe."""
    seen = capture or emit.capture(program, log, probed=probed)
    spans = timeline.build(seen)
    found = requests.find(seen)
    graph = waitgraph.build(seen, spans, found)
    base = root.find(seen, graph, found)
    shared = blame.share_out(graph, base.interval, root.seed(base), queued=base.queued)
    thread_of = {
        item: int(graph.axis.tids[start // graph.axis.span])
        for part in (base.interval, base.queued)
        for item, start in zip(part.item.tolist(), part.start.tolist(), strict=True)
    }
    charges = tuple(_charges(shared, thread_of))
    return Judged(
        program=program, log=log, basis=base.basis, root_ns=base.ns, probed=probed, blame=shared, charges=charges
    )


def _charges(shared: blame.Blame, thread_of: dict[int, int]) -> Iterator[Charge]:
    rows = shared.coverage
    for row in np.flatnonzero(rows.leaf).tolist():
        node = int(rows.node[row])
        if shared.nodes[node].who == blame.NO_ONE and shared.nodes[node].parent == blame.ROOT:
            continue  # no thread's time: the way of an answer, or a request that nobody took
        chain = [thread_of[int(rows.item[row])]]
        behind = room = None
        for step in shared.path(node)[1:]:
            on = shared.nodes[step].on
            room = _ROOMS.get(on.stage or "", room) if on is not None else room
            if on is not None and on.other is not None:
                behind = shared.nodes[step].who if on.other != OLDER else None
            elif shared.nodes[step].who != chain[-1]:
                chain.append(shared.nodes[step].who)
        yield Charge(
            start_ns=int(rows.start_ns[row]),
            end_ns=int(rows.end_ns[row]),
            kind=shared.nodes[node].kind.name.lower(),
            chain=tuple(chain),
            behind=behind if behind != chain[-1] else None,
            room=room,
        )


def true_leaves(judged: Judged) -> list[Leaf]:
    """The truth for the root that culpa chose: the requests of the target, or all that its threads did."""
    program, log = judged.program, judged.log
    roots = truth.probed_roots if judged.probed else truth.roots
    spans = [(span.tid, span.start_ns, span.end_ns) for span in roots(program, log)]
    if judged.basis == "threads":
        spans = [(t.tid, *program.window) for p in program.processes if p.pid == program.target_pid for t in p.threads]
    return [leaf for span in spans for leaf in truth.explain(program, log, *span)]


def differences(judged: Judged) -> list[Difference]:
    """Every stretch of a root on which culpa and the truth do not say the same kind and the same chain."""
    charges, leaves = _by_thread(judged.charges), _by_thread(true_leaves(judged))
    return [d for tid in sorted({*charges, *leaves}) for d in _compare(charges[tid], leaves[tid])]


def _by_thread(items: Iterable[Charge | Leaf]) -> defaultdict[int, list[Charge | Leaf]]:
    found: defaultdict[int, list[Charge | Leaf]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.start_ns):
        found[item.chain[0]].append(item)
    return found


def _compare(charges: list[Charge], leaves: list[Leaf]) -> Iterator[Difference]:
    cuts = sorted({moment for item in (*charges, *leaves) for moment in (item.start_ns, item.end_ns)})
    at_charge, at_leaf = _Walk(charges), _Walk(leaves)
    for start, end in pairwise(cuts):
        charge, leaf = at_charge.at(start), at_leaf.at(start)
        idle = leaf is not None and leaf.kind == "idle" and len(leaf.chain) == 1
        if charge is None and (leaf is None or idle):
            continue
        if charge is None or leaf is None or _said(charge) != _said(leaf):
            yield Difference(start_ns=start, end_ns=end, charge=charge, leaf=leaf)


def _said(item: Charge | Leaf) -> tuple[str, tuple[int, ...], int | None, str | None]:
    return item.kind, item.chain, item.behind, item.room


class _Walk:
    """Goes through intervals that are sorted and do not overlap, forwards."""

    def __init__(self, items: list[Charge] | list[Leaf]) -> None:
        for before, after in pairwise(items):
            assert before.end_ns <= after.start_ns, (before, after)
        self._items, self._next = items, 0

    def at(self, moment_ns: int) -> Charge | Leaf | None:
        while self._next < len(self._items) and self._items[self._next].end_ns <= moment_ns:
            self._next += 1
        here = self._items[self._next] if self._next < len(self._items) else None
        return here if here is not None and here.start_ns <= moment_ns else None


def may_stop(difference: Difference, judged: Judged) -> bool:
    """Whether a world in which everything is seen leaves culpa an excuse for not knowing.

    Nobody can know who will take a connection that nobody has taken, or for whom a thread waits that idles; a wait that
    is still open at the end of the window has not named who ends it.
    """
    charge, leaf = difference.charge, difference.leaf
    if charge is None or leaf is None or not stops_early(charge, leaf):
        return False
    stopped_at = charge.chain[-1]
    return leaf.kind in ("idle", "queued") or _waits_at_the_end(judged, stopped_at, difference.start_ns)


def _waits_at_the_end(judged: Judged, tid: int, moment_ns: int) -> bool:
    end_ns = judged.program.window[1]
    return any(
        off.off_ns <= moment_ns and (off.wake_ns is None or off.wake_ns >= end_ns) for off in judged.log.offs[tid]
    )
