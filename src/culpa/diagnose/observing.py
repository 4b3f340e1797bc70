"""What watching itself took of the root's time: nobody who is not watched pays for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from culpa.capture import schema
from culpa.diagnose.moments import Moments

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

_RECORDED: Final = ((schema.SYSCALLS, "exit_ns"), (schema.OFFCPU, "off_ns"))
"""What threads do most often, and when the program in the kernel that records it runs."""


def probes(picture: Picture) -> Moments:
    """When probes ran in the root's threads: before each recorded call's end and each switch, for as long as an event
    cost in the mean (the kernel's own count, BPF_ENABLE_STATS). Where that was not counted there are none.
    """
    cost = picture.capture.manifest.cost
    each_ns = cost.probe_cpu_ns // cost.events if cost.events else 0
    if picture.graph is None or not each_ns:
        return Moments.of_all(())
    found = []
    for table, column in _RECORDED:
        rows = picture.capture.frame(table).select("tid", column).drop_nulls()
        end = rows[column].to_numpy()
        item, inside = picture.root.items_at(picture.graph.axis, rows["tid"].to_numpy(), end - 1)
        found.append(Moments.union(item[inside], (end - each_ns)[inside], end[inside]))
    return Moments.of_all(found)
