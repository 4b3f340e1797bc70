"""Whose data the blamed time went to: the owners of nodes that queue behind, or pause because of, others' writes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import polars as pl

from culpa.capture.schema import DIRTIED
from culpa.diagnose.picture import Picture
from culpa.model.writeback import OLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process whose data it was: its largest file (or folder), its thread, and its part of the time.

    `dirtied` is what it made dirty in the window, on all devices, in bytes as the kernel counts them: a small write to
    a large folio makes the whole folio dirty.
    """

    pid: int
    tid: int
    comm: str | None
    path: str | None
    ns: int
    dirtied: int
    nodes: tuple[int, ...]


def owners(picture: Picture, nodes: list[int]) -> list[Owner]:
    """The owners of the nodes, the one with the most time first; kernel threads and unseen writers are none."""
    found: dict[int, list[int]] = defaultdict(list)
    for node in sorted(nodes, key=lambda n: (-picture.blame.nodes[n].ns, n)):
        blamed = picture.blame.nodes[node]
        known = blamed.on is not None and blamed.on.other not in (None, OLDER)
        if known and blamed.who not in picture.objects.kernel_tids:
            found[picture.objects.pid_of.get(blamed.who, blamed.who)].append(node)
    dirtied = dict(picture.capture.frame(DIRTIED).group_by("pid").agg(pl.col("bytes").sum()).iter_rows())
    all_owners = [
        Owner(
            pid=pid, tid=picture.blame.nodes[mine[0]].who, comm=picture.objects.process(pid).comm
            or picture.objects.comm.get(picture.blame.nodes[mine[0]].who),
            path=next((on.path for n in mine if (on := picture.blame.nodes[n].on) is not None and on.path), None),
            ns=picture.moments(*mine).ns, dirtied=int(dirtied.get(pid, 0)), nodes=tuple(mine),
        )
        for pid, mine in found.items()
    ]  # fmt: skip
    return sorted(all_owners, key=lambda owner: (-owner.ns, owner.pid))


def chain_pids(picture: Picture, nodes: list[int]) -> frozenset[int]:
    """Processes on the chains that lead to the nodes, the threads that wait included; not the nodes' owners."""
    pids = {
        picture.objects.pid_of.get(picture.blame.nodes[step].who, picture.blame.nodes[step].who)
        for node in nodes
        for step in picture.blame.path(node)[1:-1]
    }
    return frozenset(pids | set(picture.capture.manifest.target.pids))
