"""The root's time shared out along the wait graph, to the last nanosecond.

Level by level on sorted arrays: every interval of a thread is clipped to that thread's pieces; a leaf ends there, an
edge goes on to the same moments of another thread. Intervals are merged into tree nodes by who and what. Time is only
ever cut, never made, so the leaves add up to the root.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from culpa.model.axis import NO_THREAD, Bools, Int64s, expand
from culpa.model.kinds import NO_THING, NONE, Kind
from culpa.model.objects import Thing
from culpa.model.waitgraph import WaitGraph

MAX_DEPTH = 16
"""Edges followed from the root; real chains are shorter than ten, deeper ones end as `unexplained`."""
MOST_NODES, AT_ONCE = 50_000, 250
"""About as many nodes has a tree at most: where ten thousand threads hand one lock on, each is the head of a chain of
thousands. The nodes with most time are followed first, so many at once; the rest ends as `unexplained`.
"""
ROOT = 0
NO_ONE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Time of the root: [start, end) on the axis, the request it belongs to, and what to call it."""

    start: Int64s
    end: Int64s
    item: Int64s

    @staticmethod
    def of(start: Int64s, end: Int64s, item: Int64s) -> Interval:
        """Drop what is empty."""
        keep = end > start
        return Interval(start=start[keep], end=end[keep], item=item[keep])


@dataclass(slots=True, kw_only=True)
class BlameNode:
    """A node while the tree is built and judged: `who` is a tid or `NO_ONE`; `on` a thing or None."""

    kind: Kind
    who: int
    on: Thing | None
    parent: int
    ns: int = 0
    count: int = 0
    children: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Which node holds which moments of which root item: one row per interval and level; moments in CLOCK_MONOTONIC
    ns.
    """

    node: Int64s
    item: Int64s
    start_ns: Int64s
    end_ns: Int64s
    call: Int64s
    exchange: Int64s
    leaf: Bools


@dataclass(frozen=True, kw_only=True)
class Blame:
    """The tree (node 0 is the root) and where in time each node lies."""

    nodes: tuple[BlameNode, ...]
    coverage: Coverage

    def subtree(self, node: int) -> list[int]:
        """The node and everything below it."""
        found = [node]
        for current in found:
            found.extend(self.nodes[current].children)
        return found

    def path(self, node: int) -> list[int]:
        """From the root down to the node."""
        chain = [node]
        while self.nodes[chain[-1]].parent != NO_ONE:
            chain.append(self.nodes[chain[-1]].parent)
        return chain[::-1]

    def under(self, node: int, *kinds: Kind) -> list[int]:
        """Nodes of these kinds below the node."""
        return [n for n in self.subtree(node) if self.nodes[n].kind in kinds]

    def inside(self, *nodes: int) -> Coverage:
        """The coverage of these nodes only."""
        c, (order, begin) = self.coverage, self._by_node
        wanted = np.sort(np.concatenate([order[:0], *(order[begin[node] : begin[node + 1]] for node in set(nodes))]))
        return Coverage(
            node=c.node[wanted], item=c.item[wanted], start_ns=c.start_ns[wanted], end_ns=c.end_ns[wanted],
            call=c.call[wanted], exchange=c.exchange[wanted], leaf=c.leaf[wanted],
        )  # fmt: skip

    @cached_property
    def _by_node(self) -> tuple[npt.NDArray[np.int32], Int64s]:
        """Rows of the coverage in order of their nodes, and where those of each node begin: a script has a thousand
        nodes, and each is asked for.
        """
        order = np.argsort(self.coverage.node, kind="stable").astype(np.int32)
        return order, np.searchsorted(self.coverage.node[order], np.arange(len(self.nodes) + 1))


class BlameBuilder:
    """Grows a tree of merged nodes and remembers which intervals lie where."""

    def __init__(self, label: Kind = Kind.REQUEST) -> None:
        self.nodes: list[BlameNode] = [BlameNode(kind=label, who=NO_ONE, on=None, parent=NO_ONE)]
        self._ids: dict[tuple[int, int, int, Thing | None], int] = {}
        self._rows: list[tuple[npt.NDArray[np.generic], ...]] = []

    def node(self, parent: int, kind: Kind, who: int, on: Thing | None) -> int:
        """The child of `parent` with that name, made when first asked for."""
        key = (parent, int(kind), who, on)
        found = self._ids.get(key)
        if found is None:
            found = self._ids[key] = len(self.nodes)
            self.nodes.append(BlameNode(kind=kind, who=who, on=on, parent=parent))
            self.nodes[parent].children.append(found)
        return found

    def add(
        self,
        node: Int64s,
        item: Int64s,
        start_ns: Int64s,
        length: Int64s,
        *,
        leaf: Bools,
        count: Int64s | None = None,
        call: Int64s | None = None,
        exchange: Int64s | None = None,
    ) -> None:
        """Charge intervals to nodes."""
        nothing = np.full(len(node), NONE, np.int64)
        counts = np.ones(len(node), np.int64) if count is None else count
        sums = np.zeros(len(self.nodes), np.int64)
        np.add.at(sums, node, length)
        hits = np.zeros(len(self.nodes), np.int64)
        np.add.at(hits, node, counts)
        for n in np.unique(node).tolist():
            self.nodes[n].ns += int(sums[n])
            self.nodes[n].count += int(hits[n])
        self._rows.append(
            (
                node,
                item,
                start_ns,
                start_ns + length,
                nothing if call is None else call,
                nothing if exchange is None else exchange,
                leaf,
            )
        )

    def build(self) -> Blame:
        """Freeze the tree; children in order of time."""
        for node in self.nodes:
            node.children.sort(
                key=lambda n: (-self.nodes[n].ns, int(self.nodes[n].kind), self.nodes[n].who, str(self.nodes[n].on))
            )
        columns = [np.concatenate(parts) if parts else np.zeros(0, np.int64) for parts in zip(*self._rows, strict=True)]
        if not columns:
            columns = [np.zeros(0, np.int64)] * 7
        nodes, item, start_ns, end_ns, call, exchange, leaf = columns
        coverage = Coverage(
            node=nodes,
            item=item,
            start_ns=start_ns,
            end_ns=end_ns,
            call=call,
            exchange=exchange,
            leaf=leaf.astype(bool),
        )
        return Blame(nodes=tuple(self.nodes), coverage=coverage)


NOTHING = Interval(start=np.zeros(0, np.int64), end=np.zeros(0, np.int64), item=np.zeros(0, np.int64))
UNREAD = Thing(stage="sent, not yet read")
NOT_RECEIVED = Thing(stage="answered, not yet received")
TOO_LONG = Thing(stage="a chain too long to follow")
ONE_OF_MANY = Thing(stage="one of too many waits to follow each")


def share_out(
    graph: WaitGraph, root: Interval, builder: BlameBuilder | None = None, *, queued: Interval = NOTHING
) -> Blame:
    """Share the root's time out along the graph.

    Args:
        graph: the wait graph.
        root: intervals of threads; they belong to the root and are explained piece by piece.
        builder: a tree that already holds leaves of its own (time before a request was read); a new one if None.
        queued: time before requests were read, on the axis of the threads that would read them.

    Returns:
        The tree, whose root holds the sum of `root` and of what `builder` held.
    """
    tree = builder or BlameBuilder()
    zero = np.full(len(root.start), ROOT, np.int64)
    time = graph.axis.time(root.start)
    tree.add(zero, root.item, time, root.end - root.start, leaf=np.zeros(len(zero), bool))
    behind = _queue(graph, tree, queued)
    start, end, item = (
        np.concatenate([getattr(root, name), getattr(behind[0], name)]) for name in ("start", "end", "item")
    )
    node = np.concatenate([zero, behind[1]])
    for _ in range(MAX_DEPTH):
        if len(start) == 0:
            break
        most = (len(tree.nodes) + MOST_NODES) // 2  # half of the room that is left, so that the next level has some
        below = [tuple(column[:0] for column in (start, end, item, node))]
        for rows in _heaviest_first(node, end - start):
            here = start[rows], end[rows], item[rows], node[rows]
            if len(tree.nodes) < most:
                below.append(_level(graph, tree, *here))
            else:
                _give_up(graph, tree, ONE_OF_MANY, *here)
        start, end, item, node = (np.concatenate(column) for column in zip(*below, strict=True))
    _give_up(graph, tree, TOO_LONG, start, end, item, node)
    return tree.build()


def _heaviest_first(node: Int64s, length: Int64s) -> list[Int64s]:
    """The rows of so many nodes at once as `AT_ONCE` says, those of the nodes with most time first."""
    nodes, inverse = np.unique(node, return_inverse=True)
    sums = np.zeros(len(nodes), np.int64)
    np.add.at(sums, inverse, length)
    turn = np.empty(len(nodes), np.int64)
    turn[np.argsort(-sums, kind="stable")] = np.arange(len(nodes)) // AT_ONCE
    turns = turn[inverse]
    order = np.argsort(turns, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(turns[order])) + 1)


def _queue(graph: WaitGraph, tree: BlameBuilder, queued: Interval) -> tuple[Interval, Int64s]:
    """Charge the time before requests were read, and return it cut by what their readers worked on, with its nodes."""
    zero = np.full(len(queued.start), ROOT, np.int64)
    time = graph.axis.time(queued.start)
    tree.add(zero, queued.item, time, queued.end - queued.start, leaf=np.zeros(len(zero), bool))
    owner, start, end, text = _cut_by_work(graph, queued.start, queued.end)
    lanes, item = start // graph.axis.span, queued.item[owner]
    names, _ = _distinct(lanes, text)
    nodes = np.zeros(len(owner), np.int64)
    for lane, number in names.tolist():
        node = tree.node(ROOT, Kind.QUEUED, int(graph.axis.tids[lane]), _behind(graph, UNREAD, number))
        nodes[(lanes == lane) & (text == number)] = node
    begun = (start == queued.start[owner]).astype(np.int64)
    tree.add(nodes, item, graph.axis.time(start), end - start, leaf=np.zeros(len(nodes), bool), count=begun)
    return Interval(start=start, end=end, item=item), nodes


def _cut_by_work(graph: WaitGraph, start: Int64s, end: Int64s) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Cut intervals where their thread begins or ends work on a request: owner, start, end, index of the request."""
    busy = graph.busy
    owner, cell = expand(*busy.cells(start, end))
    following = np.append(busy.start[1:], np.iinfo(np.int64).max)
    begin, stop = np.maximum(start[owner], busy.start[cell]), np.minimum(end[owner], following[cell])
    return owner, begin, stop, busy.text[cell]


def _behind(graph: WaitGraph, thing: Thing | None, number: int) -> Thing | None:
    """The thing, with the request that was served first."""
    return thing if number == NONE else replace(thing or Thing(), behind=graph.busy.texts[number])


def _level(
    graph: WaitGraph, tree: BlameBuilder, start: Int64s, end: Int64s, item: Int64s, node: Int64s
) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """One step down: clip to pieces, charge nodes, and return the intervals that go on to other threads."""
    first = np.searchsorted(graph.start, start, side="right") - 1
    owner, piece = expand(np.maximum(first, 0), np.searchsorted(graph.start, end, side="left"))
    begin = np.maximum(start[owner], graph.start[piece])
    stop = np.minimum(end[owner], graph.end[piece])
    keep = stop > begin
    owner, piece, begin, stop, behind = _cut_queues(graph, owner[keep], piece[keep], begin[keep], stop[keep])
    item, parent = item[owner], node[owner]
    kind = graph.kind[piece].copy()
    # Who is waited for cannot be idle, whatever it sits in; nobody but itself makes it rest until a timer ends that.
    kind[graph.rests[piece] & (kind == Kind.IDLE)] = Kind.SLEEP
    kind[kind == Kind.IDLE] = Kind.UNEXPLAINED
    follows = graph.next[piece]
    lane = begin // graph.axis.span
    inner = graph.via[piece]
    own, whose = graph.axis.tids[lane], graph.owner[piece]
    goal = np.where(whose != NONE, whose, np.append(graph.axis.tids, NO_ONE)[follows])
    about = np.where((follows != NO_THREAD) | (whose != NONE), goal, own)
    who = np.where(inner == NONE, about, own)
    here = _nodes(graph, tree, parent, kind, who, graph.on[piece], behind)
    whole = begin == graph.start[piece]
    begun, begun_within = whole & graph.first[piece], whole & graph.first_via[piece]
    time, length = graph.axis.time(begin), stop - begin
    ends = (follows == NO_THREAD) & (inner == NONE)
    tree.add(
        here,
        item,
        time,
        length,
        leaf=ends,
        count=begun.astype(np.int64),
        call=graph.call[piece],
        exchange=graph.exchange[piece],
    )
    deeper = np.flatnonzero(inner != NONE)
    below = here.copy()
    if len(deeper):
        going = follows[deeper]
        below[deeper] = _nodes(
            graph, tree, here[deeper], inner[deeper], about[deeper], graph.via_on[piece[deeper]], behind[deeper]
        )
        tree.add(
            below[deeper], item[deeper], time[deeper], length[deeper], leaf=going == NO_THREAD,
            count=begun_within[deeper].astype(np.int64), call=graph.call[piece[deeper]],
            exchange=graph.exchange[piece[deeper]],
        )  # fmt: skip
    on = np.flatnonzero(follows != NO_THREAD)
    cyclic = _cycles(graph, tree, below[on], follows[on])
    _close_cycles(graph, tree, on[cyclic], below, item, time, length, follows)
    on = on[~cyclic]
    moved = graph.axis.move(begin[on], follows[on])
    return moved, moved + length[on], item[on], below[on]


def _cut_queues(
    graph: WaitGraph, owner: Int64s, piece: Int64s, begin: Int64s, stop: Int64s
) -> tuple[Int64s, Int64s, Int64s, Int64s, Int64s]:
    """Cut time in a queue by what the thread that will read works on; the last column is that request's index."""
    nothing = np.full(len(owner), NONE, np.int64)
    queued = (graph.kind[piece] == Kind.QUEUED) & (graph.next[piece] != NO_THREAD) & (graph.via[piece] == NONE)
    if not queued.any():
        return owner, piece, begin, stop, nothing
    rest, rows = np.flatnonzero(~queued), np.flatnonzero(queued)
    moved = graph.axis.move(begin[rows], graph.next[piece[rows]])
    which, start, end, text = _cut_by_work(graph, moved, moved + stop[rows] - begin[rows])
    rows, length = rows[which], end - start
    start = graph.axis.move(start, begin[rows] // graph.axis.span)
    parts = (
        (owner[rest], owner[rows]), (piece[rest], piece[rows]), (begin[rest], start),
        (stop[rest], start + length), (nothing[rest], text),
    )  # fmt: skip
    first, second, third, fourth, fifth = (np.concatenate(pair) for pair in parts)
    return first, second, third, fourth, fifth


def _nodes(
    graph: WaitGraph, tree: BlameBuilder, parent: Int64s, kind: Int64s, who: Int64s, on: Int64s, behind: Int64s
) -> Int64s:
    """Node ids for rows, made once per distinct (parent, kind, who, on, behind); `who` are tids."""
    distinct, inverse = _distinct(parent, kind, who, on, behind)
    ids = np.array(
        [
            tree.node(
                p, Kind(k), w,
                _behind(graph, None if o == NO_THING else graph.things[o], b),
            )
            for p, k, w, o, b in distinct.tolist()
        ],
        dtype=np.int64,
    )  # fmt: skip
    return ids[inverse]


def _distinct(*columns: Int64s) -> tuple[Int64s, Int64s]:
    """The distinct rows in order, and which of them each row is (np.unique is slow with more than one column)."""
    order = np.lexsort(columns[::-1])
    rows = np.stack(columns, axis=1)[order]
    first = np.append(np.ones(min(1, len(rows)), bool), (rows[1:] != rows[:-1]).any(axis=1))
    inverse = np.empty(len(rows), np.int64)
    inverse[order] = np.cumsum(first) - 1
    return rows[first], inverse


def _cycles(graph: WaitGraph, tree: BlameBuilder, node: Int64s, lane: Int64s) -> Bools:
    """Whether a thread that comes next is already on the chain above: at one moment it cannot wait for itself."""
    pairs, inverse = _distinct(node, lane)
    looped = np.array([_on_chain(tree, n, int(graph.axis.tids[w])) for n, w in pairs.tolist()], dtype=bool)
    return looped[inverse]


def _on_chain(tree: BlameBuilder, node: int, tid: int) -> bool:
    """The node itself is named after the thread that comes next, so it does not count."""
    above = tree.nodes[node].parent
    while above != NO_ONE:
        if tree.nodes[above].who == tid:
            return True
        above = tree.nodes[above].parent
    return False


def _close_cycles(graph: WaitGraph, tree: BlameBuilder, rows: Int64s, below: Int64s, item: Int64s, time: Int64s,
                  length: Int64s, follows: Int64s) -> None:  # fmt: skip
    if len(rows) == 0:
        return
    thing = Thing(stage="a cycle of waits")
    leaf = np.array(
        [
            tree.node(n, Kind.UNEXPLAINED, int(graph.axis.tids[w]), thing)
            for n, w in zip(below[rows].tolist(), follows[rows].tolist(), strict=True)
        ],
        dtype=np.int64,
    )
    tree.add(leaf, item[rows], time[rows], length[rows], leaf=np.ones(len(rows), bool))


def _give_up(
    graph: WaitGraph, tree: BlameBuilder, thing: Thing, start: Int64s, end: Int64s, item: Int64s, node: Int64s
) -> None:
    """Charge intervals that are not followed further to a leaf of their node, which says why."""
    if len(start) == 0:
        return
    leaf = np.array([tree.node(n, Kind.UNEXPLAINED, NO_ONE, thing) for n in node.tolist()], dtype=np.int64)
    tree.add(leaf, item, graph.axis.time(start), end - start, leaf=np.ones(len(leaf), bool))
