"""The root's waits for block devices that are long enough to matter, and what each device did meanwhile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from culpa.diagnose.devicequeue import DeviceQueue, Waited, joined
from culpa.diagnose.moments import Moments
from culpa.model.axis import Int64s
from culpa.model.kinds import Kind

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

MIN_DEVICE_SHARE = 0.1
"""Of the root's time; a cause with less is no more than a note."""
MAX_WAITERS = 32
"""Threads, with those they wait through, whose waits for a device are divided one by one."""
SLOW_NS = 500_000
"""Mean time of the waits for a device, queue or service, below which no device is slow: flash answers in less."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceWait:
    """The root's waits for one device, `count` of them, and what the device did meanwhile."""

    device: str
    nodes: list[int]
    moments: Moments
    waited: Waited
    queue: DeviceQueue
    count: int

    @property
    def queues(self) -> bool:
        """Whether more than half of it went to other requests than the waiter's."""
        return self.waited.queued_ns > self.waited.ns / 2

    @property
    def finds_it_idle(self) -> bool:
        """Whether the device had nothing to do for more than half of it: what it waits for had not reached it yet."""
        return self.waited.idle_ns > self.waited.ns / 2


def found(picture: Picture) -> Iterator[DeviceWait]:
    """Waits for devices that matter to the root and are longer than sound devices make anybody wait."""
    for device, nodes in _device_nodes(picture).items():
        moments = picture.moments(*nodes)
        if _is_slow(picture, nodes, moments.ns):
            queue = DeviceQueue(picture, device)
            waits = [queue.waited(*_when(picture, own_nodes), tids) for tids, own_nodes in _by_waiter(picture, nodes)]
            waited = joined(waits, total_ns=moments.ns)
            count = sum(picture.blame.nodes[node].count for node in nodes)
            yield DeviceWait(
                device=device, nodes=nodes, moments=moments, waited=waited, queue=queue, count=count
            )  # fmt: skip


def _device_nodes(picture: Picture) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for node in picture.nodes(Kind.DEVICE):
        on = picture.blame.nodes[node].on
        if on is not None and on.device:
            found[on.device].append(node)
    return found


def _by_waiter(picture: Picture, nodes: list[int]) -> Iterator[tuple[frozenset[int], list[int]]]:
    """The nodes by who waits in them: the threads above the node, each for the next, and the one that it names.

    A node about somebody else's data on the device names the one whose data it is. Of many waiters, as the short-lived
    processes of a script are, all but those that wait longest wait as one.
    """
    found: dict[frozenset[int], list[int]] = defaultdict(list)
    for node in nodes:
        *above, last = picture.blame.path(node)
        theirs = getattr(picture.blame.nodes[last].on, "other", None) is not None
        tids = {picture.blame.nodes[n].who for n in (above if theirs else [*above, last])}
        found[frozenset(tid for tid in tids if tid >= 0)].append(node)
    ordered = sorted(found, key=lambda tids: (-sum(picture.blame.nodes[n].ns for n in found[tids]), sorted(tids)))
    yield from ((tids, found[tids]) for tids in ordered[:MAX_WAITERS])
    rest = ordered[MAX_WAITERS:]
    if rest:
        yield frozenset().union(*rest), [node for tids in rest for node in found[tids]]


def _when(picture: Picture, nodes: list[int]) -> tuple[Int64s, Int64s]:
    moments = picture.moments(*nodes)
    return moments.start_ns, moments.end_ns


def _is_slow(picture: Picture, nodes: list[int], ns: int) -> bool:
    """The waits for the device matter to the root, and each is longer than a sound device takes."""
    stages: dict[str | None, int] = defaultdict(int)
    for node in nodes:
        stages[getattr(picture.blame.nodes[node].on, "stage", None)] += picture.blame.nodes[node].count
    waits = max(stages.values(), default=0)  # one that queues and is served counts in both
    return picture.share(ns) >= MIN_DEVICE_SHARE and ns / max(1, waits) >= SLOW_NS
