"""System calls that go with a cause: whoever need not wait in a call for most of it need not make it either.

What a thread computes in such a call, and its wait for a CPU after it was woken there, is left in the blame tree as
running and runnable, and is no part of the cause's own moments; but it goes with them. What others computed while it
waited for them in the call stays: a child that syncs a file has to be started all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from culpa.capture import schema
from culpa.diagnose.moments import Moments
from culpa.model.axis import Int64s

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

MOST: Final = 0.5
"""Of a call: what takes so much of it is what it is about."""


def gone_with(picture: Picture, moments: Moments) -> Moments:
    """These moments, with what the root's threads computed or waited for a CPU in the calls that they are most of."""
    item, start, end = picture.own_calls
    covered = moments.overlap(start, end, item)
    most = (covered > 0) & (covered >= MOST * (end - start))
    whole = Moments.union(item[most], start[most], end[most])
    return moments.plus(whole.minus(whole.minus(picture.on_cpu_or_ready)))


def of_root(picture: Picture) -> tuple[Int64s, Int64s, Int64s]:
    """item, enter and exit (ns) of each finished call of a root's thread that began and ended within the window."""
    columns = ["enter_ns", "exit_ns", "tid"]
    if picture.graph is None or not picture.capture.has(schema.SYSCALLS):
        nothing: Int64s = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    rows = picture.capture.frame(schema.SYSCALLS).select(columns).drop_nulls()
    start, end = rows["enter_ns"].to_numpy(), rows["exit_ns"].to_numpy()
    items, inside = picture.root.items_at(picture.graph.axis, rows["tid"].to_numpy(), start + (end - start) // 2)
    return items[inside], start[inside], end[inside]
