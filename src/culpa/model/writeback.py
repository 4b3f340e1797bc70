"""Waits that other people's data caused: queueing behind their requests, and pauses because too much is dirty.

Both are stretches of a wait, each with an owner and a thing: whose data the device worked on meanwhile, or whose pages
made the kernel throttle writers. The kernel thread that submits a write is never its owner: where the writer was not
seen, nobody is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.model import cargo as cargo_of
from culpa.model.axis import Int64s, Spans, expand
from culpa.model.calls import integers
from culpa.model.cargo import NOBODY
from culpa.model.devices import BlockIndex
from culpa.model.kinds import NONE
from culpa.model.objects import Objects, Thing
from culpa.model.timeline import Activity, Timeline

QUEUE, SERVICE = "queue", "service"
DIRTY_PAGES = "dirty pages"
OLDER = "data dirtied before the window"
"""Whose it is was not seen."""
MAX_FILES_NAMED = 8
"""Files of one process on one device that are named one by one; above that their folders are."""
MAX_STRETCHES = 4_000_000
"""Above it queueing stays without names, for the sake of memory."""
MAX_WRITERS = 16
"""Writers (process and file) told apart behind one throttled device; the others are one."""
PAUSE_LAG_NS = 2_000_000
"""From the tracepoint to the switch-out of the thread that is paused lie a few instructions, or an interrupt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Disjoint stretches of waits; `spans.row` leads to `owner` (a tid or `NONE`) and `thing` (a place in `things`)."""

    spans: Spans
    owner: Int64s
    thing: Int64s
    things: tuple[Thing, ...]

    @property
    def points(self) -> Int64s:
        """Where stretches begin and end."""
        return np.concatenate([self.spans.start, self.spans.end])


class Writeback:
    """Whose data every block request carries, by name."""

    def __init__(self, capture: Capture, objects: Objects, blocks: BlockIndex) -> None:
        self._capture = capture
        self._objects = objects
        self._blocks = blocks
        rows = capture.frame(schema.BLOCKS)
        parts, dirtied = capture.frame(schema.BLOCK_PARTS), capture.frame(schema.DIRTIED)
        self._cargo = cargo_of.of(rows, parts, dirtied)
        self._ops = np.array([*rows["op"].fill_null("other").to_list(), "other"])

    def behind(self, timeline: Timeline, matched: Int64s) -> Owned:
        """What the device worked on while waits were not yet served.

        Of the requests that it was given before the one waited for, the one that completes next is what it works on;
        what is left when none is in the way is service (or the queue before it).

        Args:
            timeline: of this capture.
            matched: for each segment the request that ended it, else `NONE`.
        """
        segment = np.flatnonzero(matched >= 0)
        start, end = timeline.start[segment], timeline.end[segment]
        wait, request, begin, stop = self._blocks.ahead(start, end, matched[segment])
        first, last = self._cargo.rows(request)
        if int((last - first).sum()) > MAX_STRETCHES:
            return _nothing()
        piece, row = expand(first, last)
        share = np.maximum(self._cargo.bytes[row], 1)
        low, high = _divide(begin, stop, piece, share)
        return self._named(wait[piece], row, low, high, QUEUE)

    def served(self, request: Int64s) -> tuple[Int64s, list[Thing]]:
        """Whose data requests carry for the most part: the owner's tid and the thing; `NONE` for the row -1.

        Args:
            request: rows of `blocks`, or `NONE`.
        """
        known, inverse = np.unique(request, return_inverse=True)
        first, last = self._cargo.rows(known)
        piece, row = expand(first, last)
        order = np.lexsort((row, -self._cargo.bytes[row], piece))
        chosen = row[order][np.searchsorted(piece[order], np.arange(len(known)))] if len(row) else row
        labels, things = self._labels(chosen, SERVICE) if len(row) else (known, ())
        return self._cargo.owner[chosen][inverse], [things[i] for i in labels[inverse].tolist()]

    def _named(self, wait: Int64s, row: Int64s, low: Int64s, high: Int64s, stage: str) -> Owned:
        keep = np.flatnonzero(high > low)
        wait, row, low, high = wait[keep], row[keep], low[keep], high[keep]
        label, things = self._labels(row, stage)
        owner = self._cargo.owner[row]
        new = np.append(True, (wait[1:] != wait[:-1]) | (label[1:] != label[:-1]) | (owner[1:] != owner[:-1]))
        heads = np.flatnonzero(new[: len(wait)])
        ends = np.append(heads[1:], len(wait))[: len(heads)] - 1
        spans = Spans.sorted(low[heads], high[ends], np.arange(len(heads)))
        return Owned(spans=spans, owner=owner[heads], thing=label[heads], things=things)

    def _labels(self, row: Int64s, stage: str) -> tuple[Int64s, tuple[Thing, ...]]:
        """For rows of the cargo what they are called; nothing more is said of data whose writer is not known."""
        cargo = self._cargo
        kinds, op = np.unique(self._ops, return_inverse=True)
        known = cargo.owner[row] != NOBODY
        file = (np.where(known, of[row], NONE) for of in (cargo.dev, cargo.ino))
        request = cargo.request[row]
        keys = np.stack([cargo.owner[row], *file, self._blocks.dev[request], op[request]])
        distinct, inverse = np.unique(keys, axis=1, return_inverse=True)
        things: dict[Thing, int] = {}
        number = []
        for path, owner, device, kind in zip(self._paths(*distinct[:3]), *distinct[[0, 3, 4]].tolist(), strict=True):
            other = str(kinds[kind]) if owner != NOBODY else OLDER
            thing = Thing(path=path, device=self._objects.device(device), stage=stage, other=other)
            number.append(things.setdefault(thing, len(things)))
        labels = np.array(number, np.int64)[inverse.reshape(-1)] if number else np.zeros(0, np.int64)
        return labels, tuple(things)

    def _paths(self, owner: Int64s, dev: Int64s, ino: Int64s) -> list[str | None]:
        """Paths of files; many files of one process by their folder, and those of many folders by what holds these."""
        names = [self._name(d, i) for d, i in zip(dev.tolist(), ino.tolist(), strict=True)]
        pids = [self._objects.pid_of.get(tid, tid) for tid in owner.tolist()]
        for level in range(1, 4):
            distinct: dict[int, set[str]] = {}
            for pid, name in zip(pids, names, strict=True):
                if name is not None and name.startswith("/"):
                    distinct.setdefault(pid, set()).add(name)
            many = {pid for pid, found in distinct.items() if len(found) > MAX_FILES_NAMED}
            names = [
                _folder(name, level) if pid in many and name is not None and name.startswith("/") else name
                for pid, name in zip(pids, names, strict=True)
            ]
        return names

    def _name(self, dev: int, ino: int) -> str | None:
        if dev < 0:
            return None
        return self._objects.file(dev, ino) if ino > 0 else f"metadata of {self._objects.device(dev)}"

    def throttled(self, timeline: Timeline) -> Owned:
        """Pauses of writers, shared out among those whose pages were dirty on that device at that moment.

        Dirty is what was dirtied in the window and did not reach the device until then; what the kernel counted beyond
        that is older than the window.
        """
        pauses = self._capture.frame(schema.THROTTLES).drop_nulls(["ts_ns", "tid", "disk"]).sort("ts_ns", "tid")
        segment = _paused(timeline, pauses)
        pauses, segment = pauses.filter(pl.Series(segment >= 0)), segment[segment >= 0]
        things: dict[Thing, int] = {}
        rows: list[tuple[Int64s, Int64s, Int64s, Int64s]] = []
        for disk in pauses["disk"].unique().sort().to_list():
            here = (pauses["disk"] == disk).to_numpy()
            writers, weights = self._outstanding(disk, pauses.filter(pl.Series(here)))
            piece, writer = expand(np.zeros(here.sum(), np.int64), np.full(here.sum(), len(writers)))
            begin, stop = timeline.start[segment[here]], timeline.end[segment[here]]
            low, high = _divide(begin, stop, piece, weights.reshape(-1))
            numbers = np.array([things.setdefault(thing, len(things)) for _, thing in writers], np.int64)
            rows.append((low, high, np.array([owner for owner, _ in writers], np.int64)[writer], numbers[writer]))
        if not rows:
            return _nothing()
        start, end, owner, label = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        spans = Spans.sorted(start, end, np.arange(len(start)))
        return Owned(spans=spans, owner=owner, thing=label, things=tuple(things))

    def _outstanding(self, disk: int, pauses: pl.DataFrame) -> tuple[list[tuple[int, Thing]], Int64s]:
        """Writers on a disk, and for each pause (a row) the bytes of each (a column) that were dirty: at least one."""
        here = self._capture.frame(schema.DIRTIED).filter(pl.col("disk") == disk)
        dirtied = here.drop_nulls(["from_ns", "tid", "dev", "ino", "bytes"])
        inode = np.stack([integers(dirtied, name) for name in ("tid", "dev", "ino")])
        cargo, rows = self._cargo, np.flatnonzero(self._blocks.dev[self._cargo.request] == disk)
        gone = np.stack([self._cargo.owner[rows], cargo.dev[rows], cargo.ino[rows]])
        names, place = self._places(np.concatenate([inode, gone], axis=1))
        came, went = place[: len(dirtied)], place[len(dirtied) :]
        since, size = dirtied["from_ns"].to_numpy(), dirtied["bytes"].to_numpy()
        totals = np.zeros(len(names), np.int64)
        np.add.at(totals, came, size)
        largest = np.argsort(-totals, kind="stable")[:MAX_WRITERS].tolist()
        moments = pauses["ts_ns"].to_numpy()
        columns: list[Int64s] = []
        for index in largest:
            mine, theirs = came == index, rows[went == index]
            written = _sum_until(since[mine], size[mine], moments)
            flushed = _sum_until(self._blocks.done[cargo.request[theirs]], cargo.bytes[theirs], moments)
            columns.append(np.maximum(written - flushed, 0))
        known = np.sum(columns, axis=0) if columns else np.zeros(len(moments), np.int64)
        columns.append(np.maximum(pauses["disk_dirty"].fill_null(0).to_numpy() - known, 0))
        columns[-1][known + columns[-1] == 0] = 1
        device = self._objects.device(disk)
        writers = [
            (names[i][0], Thing(path=names[i][1], device=device, stage=DIRTY_PAGES, other="write")) for i in largest
        ]
        return [*writers, (NONE, Thing(device=device, stage=DIRTY_PAGES, other=OLDER))], np.stack(columns, axis=1)

    def _places(self, files: Int64s) -> tuple[list[tuple[int, str | None]], Int64s]:
        """Of (tid, dev, ino) columns the distinct writers by the names of their files, and which one each is."""
        distinct, number = np.unique(files, axis=1, return_inverse=True)
        places: dict[tuple[int, str | None], int] = {}
        paths = self._paths(*distinct)
        place = [places.setdefault(key, len(places)) for key in zip(distinct[0].tolist(), paths, strict=True)]
        return list(places), np.array(place, np.int64)[number.reshape(-1)]


def _divide(begin: Int64s, stop: Int64s, piece: Int64s, share: Int64s) -> tuple[Int64s, Int64s]:
    """Cut [begin, stop) of each piece in proportion to the shares of its rows, in their order.

    Args:
        begin, stop: per piece.
        piece: per row, sorted.
        share: per row, >= 0, with a sum > 0 per piece.
    """
    total = np.append(0, np.cumsum(share))
    edge = np.searchsorted(piece, np.arange(len(begin) + 1))
    base, whole = total[edge[:-1]], np.maximum(total[edge[1:]] - total[edge[:-1]], 1)
    length = stop - begin

    def place(done: Int64s) -> Int64s:
        part = (done - base[piece]) / whole[piece]
        point: Int64s = begin[piece] + np.rint(part * length[piece]).astype(np.int64)
        return point

    return place(total[:-1]), place(total[1:])


def _paused(timeline: Timeline, pauses: pl.DataFrame) -> Int64s:
    """The wait that each pause became, a segment of the timeline; `NONE` where that thread was not watched."""
    axis = timeline.axis
    lanes = axis.lane(integers(pauses, "tid"))
    point = axis.place(lanes, pauses["ts_ns"].to_numpy())
    found = np.searchsorted(timeline.start, point)
    safe = np.minimum(found, max(len(timeline.start) - 1, 0))
    if not len(timeline.start):
        return np.full(len(point), NONE, np.int64)
    near = (timeline.start[safe] - point <= PAUSE_LAG_NS) & (timeline.start[safe] // axis.span == lanes)
    fits = (lanes >= 0) & (found < len(timeline.start)) & near & (timeline.activity[safe] == Activity.WAITING)
    segment = np.where(fits, safe, NONE)
    # Two pauses cannot become one wait.
    repeated = np.append(False, segment[1:] == segment[:-1])[: len(segment)]
    return np.where(repeated, NONE, segment)


def _sum_until(moments: Int64s, values: Int64s, until: Int64s) -> Int64s:
    """The sum of the values whose moment is not later, for each of `until`."""
    order = np.argsort(moments, kind="stable")
    total: Int64s = np.append(0, np.cumsum(values[order]))[np.searchsorted(moments[order], until, side="right")]
    return total


def _folder(path: str, level: int) -> str:
    """`/a/b/c` as `/a/b/*`, and one level further up at each call: `/a/*/*`."""
    parts = PurePosixPath(path).parts
    kept = max(1, len(parts) - level)
    return str(PurePosixPath(*parts[:kept], *["*"] * min(level, len(parts) - kept)))


def _nothing() -> Owned:
    empty = np.zeros(0, np.int64)
    return Owned(spans=Spans(start=empty, end=empty, row=empty), owner=empty, thing=empty, things=())
