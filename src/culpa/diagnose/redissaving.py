"""What a Redis and its children did to get data onto the disk, in figures: a save's progress, the disk, file calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.devicequeue import DeviceQueue
from culpa.model.axis import Int64s
from culpa.model.kinds import Kind
from culpa.syscalls import SYNC, Numbers

if TYPE_CHECKING:
    from culpa.diagnose.redisview import RedisView

MIN_LOOKS = 3
SMALL_BYTES = 64 << 10
"""A larger request takes time for its bytes, however fast the disk answers."""
LET_GO = frozenset({"rename", "renameat", "renameat2", "unlink", "unlinkat", "close"})
_FILE = ["ino_dev", "ino"]
ON_DISK = (Kind.IO, Kind.FSYNC, Kind.JOURNAL, Kind.DEVICE, Kind.THROTTLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """A save that was under way at the end of the window. `keys_done` and `keys_total`: None before 6.2.

    `expected_s`: how long all of it takes at the pace of the window; None where there was none, or it is not known.
    """

    seconds: float
    keys_done: float | None
    keys_total: float | None
    expected_s: float | None
    is_stalled: bool

    def is_long(self, limit_s: float, *, stalled_s: float) -> bool:
        """Whether it has taken, or will take, so long; or makes no progress after `stalled_s`."""
        longest = max(self.seconds, self.expected_s or 0.0)
        return longest >= limit_s or (self.is_stalled and self.seconds >= stalled_s)


def progress(view: RedisView) -> Save | None:
    """That of the save under way; None where there is none."""
    took = view.number("rdb_current_bgsave_time_sec")
    if not view.number("rdb_bgsave_in_progress") or took is None or took < 0:
        return None
    done, total = view.values("current_save_keys_processed"), view.number("current_save_keys_total")
    running = view.values("rdb_bgsave_in_progress")
    throughout = len(running) >= MIN_LOOKS and all(running) and len(done) == len(running)
    grown = done[-1] - done[0] if throughout else 0.0
    expected = None
    if total and grown > 0 and view.seconds > 0:
        expected = took + (total - done[-1]) * view.seconds / grown
    stalled = throughout and grown == 0 and bool(total) and done[-1] < (total or 0)
    return Save(
        seconds=took, keys_done=done[-1] if done else None, keys_total=total, expected_s=expected, is_stalled=stalled
    )


def rewrite_buffer(view: RedisView) -> float | None:
    """The most (bytes) that waited for the end of a rewrite in the window; None where the server has no such thing."""
    return max(view.values("aof_rewrite_buffer_length"), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Memory (bytes) that a save, or a rewrite, is expected to copy from now on."""

    what: str
    to_come_bytes: float
    source: str


def copies(view: RedisView) -> Copies | None:
    """Of the child at work by the pace of the window (since 6.2), else of the next one by what the last one copied.

    None where it does not save and is not asked to, or where none of its children has copied anything yet.
    """
    resident = view.number("used_memory_rss")
    saves, appends = bool((view.setting("save") or "").strip()), view.setting("appendonly") == "yes"
    if any(view.number(field) for field in ("rdb_bgsave_in_progress", "aof_rewrite_in_progress")):
        return _going_on(view, resident)
    lasts = {"rdb_last_cow_size": saves, "aof_last_cow_size": appends}
    found = [(size, field) for field, again in lasts.items() if again and (size := view.number(field))]
    if not found:
        return None
    size, field = max(found)
    return Copies(what="copied by the last of its children", to_come_bytes=min(size, resident or size),
                  source=f"INFO persistence: {field}")  # fmt: skip


def _going_on(view: RedisView, resident: float | None) -> Copies | None:
    """What the child at work has still to copy, if writes go on as in the window; never more than there is."""
    save, sizes = progress(view), view.values("current_cow_size")
    if save is None or save.expected_s is None or len(sizes) < MIN_LOOKS or resident is None or view.seconds <= 0:
        return None
    pace = (sizes[-1] - sizes[0]) / view.seconds
    to_come = min(pace * max(0.0, save.expected_s - save.seconds), resident - sizes[-1])
    return Copies(what="the save under way copies, at this pace, beyond what it has", to_come_bytes=max(0.0, to_come),
                  source="INFO persistence: current_cow_size, current_save_keys_*")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildTime:
    """What its children did in the window, ns."""

    running_ns: int
    disk_ns: int
    asleep_ns: int


def child_time(view: RedisView) -> ChildTime | None:
    """None where it had none, or waits were not seen one by one."""
    graph = view.picture.graph
    pids = sorted(children(view))
    if graph is None or not pids:
        return None
    lanes = graph.axis.lane(np.array(pids, dtype=np.int64))
    spent: dict[int, int] = {}
    for lane in lanes[lanes >= 0].tolist():
        first, last = np.searchsorted(graph.start, [lane * graph.axis.span, (lane + 1) * graph.axis.span])
        lengths = graph.end[first:last] - graph.start[first:last]
        for kind in np.unique(graph.kind[first:last]).tolist():
            spent[kind] = spent.get(kind, 0) + int(lengths[graph.kind[first:last] == kind].sum())
    if not spent:
        return None
    return ChildTime(
        running_ns=spent.get(Kind.RUNNING, 0), disk_ns=sum(spent.get(kind, 0) for kind in ON_DISK),
        asleep_ns=spent.get(Kind.SLEEP, 0),
    )  # fmt: skip


def children(view: RedisView) -> frozenset[int]:
    """Processes that it made: those that save and rewrite."""
    if view.pid is None:
        return frozenset()
    processes = view.picture.capture.frame(schema.PROCESSES)
    return frozenset(processes.filter(pl.col("ppid") == view.pid)["pid"].drop_nulls().to_list())


def ended_children_s(view: RedisView) -> float | None:
    """CPU time (s) of the children of its that ended in the window, as the kernel counts it; None where not seen."""
    mine = (pl.col("field") == "children_ticks") & (pl.col("object") == str(view.pid))
    values = view.picture.capture.frame(schema.COUNTERS).filter(mine).sort("ts_ns")["value"].drop_nulls().to_list()
    ticks = view.picture.capture.manifest.host.ticks_per_second
    return (values[-1] - values[0]) / ticks if len(values) > 1 and ticks else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """Requests of one kind that a device finished, and for each what it gave to that one alone (ns)."""

    what: str
    own_ns: Int64s

    @property
    def mean_ns(self) -> float:
        """Of `own_ns`."""
        return float(self.own_ns.mean()) if len(self.own_ns) else 0.0

    def slower_than(self, limit_ns: int) -> int:
        """How many took the device longer."""
        return int((self.own_ns >= limit_ns).sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Disk:
    """The device below the files that the server and its children synced in the window.

    `kinds`: small writes of these files, and the device's flushes. `syncs`: calls of theirs, how long all and the
    longest of them took.
    """

    device: str
    kinds: tuple[Answered, ...]
    syncs: int
    sync_ns: int
    longest_sync_ns: int


def disk(view: RedisView) -> Disk | None:
    """The one that most of their data went to; None where nothing of theirs did, or requests were not recorded."""
    capture = view.picture.capture
    if view.pid is None or view.picture.graph is None or not capture.has(schema.BLOCKS):
        return None
    theirs = pl.col("pid").is_in([view.pid, *sorted(children(view))])
    syncs = _named(view, SYNC).filter(theirs & (pl.col("file_type") == "reg"))
    files = syncs.select(ino_dev="dev", ino="ino").drop_nulls().unique()
    sent = capture.frame(schema.BLOCKS).filter(pl.col("op") == "write").join(files, on=_FILE, how="semi")
    most = sent.drop_nulls("dev").group_by("dev").agg(pl.col("bytes").sum()).sort("bytes", "dev", descending=True)
    if most.is_empty():
        return None
    name = view.picture.objects.device(most["dev"][0])
    rows = DeviceQueue(view.picture, name).alone().filter(pl.col("complete_ns").is_not_null())
    small = rows.filter((pl.col("op") == "write") & (pl.col("bytes") <= SMALL_BYTES)).join(files, on=_FILE, how="semi")
    kinds = (("small writes of its files", small), ("flushes", rows.filter(pl.col("op") == "flush")))
    lengths = (syncs["exit_ns"] - syncs["enter_ns"]).drop_nulls().to_numpy()
    return Disk(
        device=name, syncs=len(lengths), sync_ns=int(lengths.sum()), longest_sync_ns=int(lengths.max(initial=0)),
        kinds=tuple(Answered(what=what, own_ns=own["own"].to_numpy().astype(np.int64)) for what, own in kinds),
    )  # fmt: skip


def file_calls(view: RedisView) -> list[tuple[int, int, str]] | None:
    """Calls of the main thread that may let go of a file: start, end (ns), name; None where calls were not recorded."""
    if view.pid is None or view.picture.graph is None or not view.picture.capture.has(schema.SYSCALLS):
        return None
    numbers = Numbers(view.picture.capture.manifest.host.machine)
    rows = _named(view, LET_GO).filter(
        (pl.col("tid") == view.pid) & (pl.col("file_type") != "sock").fill_null(value=True)
    )
    calls = rows.drop_nulls(["enter_ns", "exit_ns"]).select("enter_ns", "exit_ns", "nr")
    return [(start, end, numbers.name(nr)) for start, end, nr in calls.iter_rows()]


def _named(view: RedisView, names: frozenset[str]) -> pl.DataFrame:
    """Calls of these names."""
    numbers = Numbers(view.picture.capture.manifest.host.machine)
    calls = view.picture.capture.frame(schema.SYSCALLS).lazy()  # eagerly, every column would be copied
    return calls.filter(pl.col("nr").is_in(sorted(numbers.of(names)))).collect()
