"""Waits of Redis' main thread in a write to its append-only file, and whose data the disk worked on meanwhile.

On ext4 and xfs such a write seldom waits for the page it changes. It changes the file's inode as well, and while the
journal writes that down, together with the data of whatever files its commit has to order before it, the write waits
(do_get_write_access). So a wait as long as somebody's flood takes can follow from a commit that anybody forced: what
the device was given to do meanwhile tells whose data it was, and not who asked for the commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.capture.columns import Table
from culpa.diagnose.devicequeue import DeviceQueue
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisview import RedisView
from culpa.diagnose.rules.evidence import part
from culpa.model.kinds import NONE, Kind
from culpa.syscalls import SYNC, Numbers

WRITES = frozenset({"write", "pwrite64", "writev", "pwritev", "pwritev2"})
Whose = Literal["own", "child", "other", "unknown"]
_FILE = ["ino_dev", "ino"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """What the device did for one process during the waits: its largest file, and how much of them (ns) it took.

    `whose`: the server's own data, that of a child that saves or rewrites, or of another process; `unknown` is the
    journal's, and what was made dirty by nobody who was seen.
    """

    whose: Whose
    pid: int | None
    path: str | None
    ns: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WriteWait:
    """The waits: nodes of the blame tree, when they were, on which file and device, what the device did meanwhile.

    `throttled_ns`: of it, paused because too much was dirty. `synced_ns`: of it, while another thread of the server
    was in a sync of that file; None where calls were not recorded. `worked`: the most first; empty likewise.
    """

    nodes: list[int]
    moments: Moments
    path: str | None
    device: str | None
    throttled_ns: int
    synced_ns: int | None
    worked: tuple[Worked, ...]

    @property
    def foremost(self) -> Worked | None:
        """Whose data took most of it, of all that is somebody's."""
        return next((entry for entry in self.worked if entry.whose != "unknown"), None)


def write_wait(view: RedisView) -> WriteWait | None:
    """The main thread's waits in writes to the append-only file; None where there were none."""
    nodes = _nodes(view)
    if not nodes:
        return None
    moments = view.picture.moments(*nodes)
    once = Moments.union(np.zeros_like(moments.item), moments.start_ns, moments.end_ns)  # as several may wait at once
    on = view.picture.blame.nodes[nodes[0]].on
    files = _files(view, nodes)
    device = _device(view, files)
    return WriteWait(
        nodes=nodes, moments=moments, path=on.path if on else None, device=device,
        throttled_ns=part(view.picture, nodes, Kind.THROTTLE),
        synced_ns=None if view.picture.graph is None else _synced_ns(view, files, once),
        worked=() if device is None else _worked(view, device, files, once),
    )  # fmt: skip


def _nodes(view: RedisView) -> list[int]:
    picture, found = view.picture, []
    for node in view.nodes(Kind.IO, Kind.THROTTLE, Kind.JOURNAL, Kind.DEVICE):
        on = picture.blame.nodes[node].on
        own = on is not None and on.path is not None and _is_append_only(view, on.path)
        if own and on is not None and (on.syscall is None or on.syscall in WRITES):
            found.append(node)
    return found


def _is_append_only(view: RedisView, path: str) -> bool:
    """By the name that the server itself gives that file."""
    name = view.setting("appendfilename") or "appendonly.aof"
    return name in path.rpartition("/")[2]


def _files(view: RedisView, nodes: list[int]) -> pl.DataFrame:
    """The files that these calls write to: `ino_dev`, `ino`."""
    empty = pl.DataFrame(schema={"ino_dev": pl.UInt32, "ino": pl.UInt64})
    if view.picture.graph is None:
        return empty
    rows = np.unique(view.picture.blame.inside(*nodes).call)
    calls = view.picture.graph.calls[rows[rows != NONE].tolist()]
    return calls.select(ino_dev="dev", ino="ino").drop_nulls().unique() if len(calls) else empty


def _device(view: RedisView, files: pl.DataFrame) -> str | None:
    """The device that the file is on, if requests to it were seen."""
    blocks = view.picture.capture.frame(schema.BLOCKS)
    seen = files.filter(pl.col("ino_dev").is_in(blocks["dev"].drop_nulls().unique().to_list()))["ino_dev"]
    return None if seen.is_empty() else view.picture.objects.device(int(seen.sort()[0]))


def _synced_ns(view: RedisView, files: pl.DataFrame, waits: Moments) -> int:
    """How much of the waits lies in syncs of these files by the server's other threads."""
    window = view.picture.capture.manifest.window
    helpers = (pl.col("pid") == view.pid) & (pl.col("tid") != view.pid)
    calls = _sync_calls(view).filter(helpers).join(files, on=_FILE, how="semi").with_columns(
        pl.col("enter_ns").fill_null(window.start_ns), pl.col("exit_ns").fill_null(window.end_ns)
    )  # fmt: skip
    spans = list(calls.select("enter_ns", "exit_ns").iter_rows())
    states = _syncing(view, schema.THREAD_STATES).filter(helpers).join(files, on=_FILE, how="semi")
    seen = view.picture.capture.frame(schema.SYSCALLS)["tid"].implode()
    # One sync from before the window until after it: no call that ends or begins, and found in it both times.
    through = states.filter(~pl.col("tid").is_in(seen)).group_by("tid").agg(pl.col("ts_ns").n_unique())
    if bool((through["ts_ns"] > 1).any()):
        spans.append((window.start_ns, window.end_ns))
    return waits.within(spans).ns


def _sync_calls(view: RedisView) -> pl.DataFrame:
    return _syncing(view, schema.SYSCALLS)


def _syncing(view: RedisView, table: Table) -> pl.DataFrame:
    """Rows of a table of calls that are syncs, with their file as `ino_dev` and `ino`."""
    capture = view.picture.capture
    numbers = Numbers(capture.manifest.host.machine)
    rows = capture.frame(table).rename({"dev": "ino_dev"})
    known = rows["nr"].drop_nulls().unique().to_list()
    return rows.filter(pl.col("nr").is_in([nr for nr in known if numbers.name(nr) in SYNC]))


def _worked(view: RedisView, device: str, files: pl.DataFrame, waits: Moments) -> tuple[Worked, ...]:
    rows = DeviceQueue(view.picture, device).given(waits.start_ns, waits.end_ns).filter(pl.col("given") > 0)
    kernel = list(view.picture.objects.kernel_tids)
    sender = pl.when(~pl.col("tid").is_in(kernel)).then("pid")
    rows = rows.join(_writers(view), on=_FILE, how="left", maintain_order="left")
    rows = rows.join(files.with_columns(mine=pl.lit(view.pid)), on=_FILE, how="left", maintain_order="left")
    rows = rows.with_columns(owner=pl.coalesce("mine", sender, "writer"))
    by_file = rows.group_by("owner", *_FILE).agg(pl.col("given").sum()).sort(
        ["given", "ino"], descending=[True, False], nulls_last=True
    )  # fmt: skip
    owners = by_file.group_by("owner", maintain_order=True).agg(pl.col(*_FILE).first(), pl.col("given").sum())
    children = _children(view)
    return tuple(
        Worked(whose=_whose(view, pid, children), pid=pid, path=_path(view, pid, dev, ino), ns=given)
        for pid, dev, ino, given in owners.sort(["given", "owner"], descending=[True, False]).iter_rows()
    )


def _writers(view: RedisView) -> pl.DataFrame:
    """Who made a file dirty or syncs it: `ino_dev`, `ino`, `writer`; the one who dirtied most of it."""
    capture, kernel = view.picture.capture, list(view.picture.objects.kernel_tids)
    dirtied = capture.frame(schema.DIRTIED).select("pid", "tid", ino_dev="dev", ino="ino", bytes="bytes")
    sent = capture.frame(schema.BLOCKS).select("pid", "tid", *_FILE, bytes=pl.lit(0, pl.Int64))
    synced = _sync_calls(view).select("pid", "tid", *_FILE, bytes=pl.lit(0, pl.Int64))
    rows = pl.concat([dirtied, sent, synced], how="vertical_relaxed").filter(~pl.col("tid").is_in(kernel))
    rows = rows.drop_nulls().filter(pl.col("ino") > 0)
    most = rows.group_by("pid", *_FILE).agg(pl.col("bytes").sum()).sort(["bytes", "pid"], descending=[True, False])
    return most.group_by(*_FILE, maintain_order=True).agg(writer=pl.col("pid").first())


def _children(view: RedisView) -> frozenset[int]:
    processes = view.picture.capture.frame(schema.PROCESSES)
    return frozenset(processes.filter(pl.col("ppid") == view.pid)["pid"].to_list())


def _whose(view: RedisView, pid: int | None, children: frozenset[int]) -> Whose:
    if pid is None:
        return "unknown"
    return "own" if pid == view.pid else "child" if pid in children else "other"


def _path(view: RedisView, pid: int | None, dev: int | None, ino: int | None) -> str | None:
    path = view.picture.objects.file(dev, ino) if pid is not None and dev is not None and ino else None
    return path if path is not None and path.startswith("/") else None
