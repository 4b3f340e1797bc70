"""The root's time shared out from samples of /proc, where events could not be had.

At each sweep the first of these explains the moment: a target thread in uninterruptible sleep or on a CPU, else a
thread of a peer in that state, else nothing (`unexplained`). The sweep stands for the time until the next one. That
is weaker than following waits: it cannot tell whose answer the target waits for, only who was not idle while it did.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.blame import NOTHING, ROOT, Blame, BlameBuilder, Interval
from culpa.diagnose.root import Root
from culpa.model.kinds import Kind
from culpa.model.objects import Objects, Thing

_STATE_RANK = {"D": 0, "R": 1, "T": 2, "t": 2}
OTHER_RANK = 9
UNSEEN_ANSWER = Thing(stage="waiting for the server's answer")
"""Of requests whose server was not looked at meanwhile."""


def share_out(capture: Capture) -> tuple[Root, Blame]:
    """Root and blame tree from `samples` and `sweeps`."""
    tree = BlameBuilder(Kind.REQUEST)
    pinged = capture.manifest.target.kind == "redis" and len(capture.frame(schema.REQUESTS)) > 0
    chosen = _choose(capture, _parts(capture) if pinged else _sweeps(capture))
    numbers, objects = syscalls.Numbers(capture.manifest.host.machine), Objects(capture)
    one = np.ones(1, np.int64)
    for row in chosen.iter_rows(named=True):
        chain = _chain(tree, row, numbers, objects, capture.manifest.target.pids)
        for node in chain:
            tree.add(
                one * node, one * int(row["item"]), one * int(row["ts_ns"]), one * int(row["length_ns"]),
                leaf=np.array([node == chain[-1]]),
            )  # fmt: skip
    window = capture.manifest.window
    basis = "requests" if len(capture.frame(schema.REQUESTS)) else "threads"
    root = Root(
        basis=basis,  # type: ignore[arg-type]  # one of the two literals
        interval=Interval(
            start=chosen["ts_ns"].to_numpy(),
            end=(chosen["ts_ns"] + chosen["length_ns"]).to_numpy(),
            item=chosen["item"].to_numpy(),
        )
        if len(chosen)
        else NOTHING,
        queued=NOTHING,
        requests=own_requests(capture),
        leads=(),
        threads=int(chosen["tid"].drop_nulls().n_unique()),
        idle_ns=max(0, window.end_ns - window.start_ns - int(chosen["length_ns"].sum())),
        wall_ns=window.end_ns - window.start_ns,
    )
    return root, tree.build()


def own_requests(capture: Capture) -> pl.DataFrame:
    """culpa's own requests of the window, as in `Root.requests`."""
    end = capture.manifest.window.end_ns
    rows = capture.frame(schema.REQUESTS).sort("start_ns").with_row_index("item")
    return rows.select(
        item=pl.col("item").cast(pl.Int64), start_ns="start_ns", end_ns=pl.col("end_ns").fill_null(end),
        done=pl.col("end_ns").is_not_null() & pl.col("error").is_null(), ino=pl.lit(None, pl.UInt64),
        protocol=pl.lit("http"), verb=pl.lit(capture.manifest.target.method), detail=pl.lit(None, pl.String),
    )  # fmt: skip


def _sweeps(capture: Capture) -> pl.DataFrame:
    """ts_ns, length_ns, item of each sweep that belongs to the root: inside a probed request, or all without one."""
    window = capture.manifest.window
    sweeps = capture.frame(schema.SWEEPS).select("ts_ns").unique().sort("ts_ns")
    sweeps = sweeps.with_columns(
        length_ns=(pl.col("ts_ns").shift(-1).fill_null(window.end_ns) - pl.col("ts_ns")).clip(0, None)
    )
    requests = own_requests(capture)
    if requests.is_empty():
        return sweeps.with_columns(item=pl.lit(0, pl.Int64))
    joined = sweeps.join_asof(
        requests.select("item", "start_ns", "end_ns"), left_on="ts_ns", right_on="start_ns", strategy="backward"
    )
    return joined.filter(pl.col("item").is_not_null() & (pl.col("ts_ns") < pl.col("end_ns"))).select(
        "ts_ns", "length_ns", "item"
    )


def _parts(capture: Capture) -> pl.DataFrame:
    """ts_ns, length_ns, item of the requests' own time, cut at the sweeps: what is short lies between two of them.

    `sweep_ns` is the sweep that looked into it; null where none did.
    """
    sweeps = capture.frame(schema.SWEEPS)["ts_ns"].unique().sort().to_numpy()
    requests = own_requests(capture)
    rows: list[tuple[int, int, int, int | None]] = []
    for item, start, end in requests.select("item", "start_ns", "end_ns").iter_rows():
        low, high = np.searchsorted(sweeps, [start, end])
        cuts = [start, *sweeps[low:high].tolist(), end]
        looked: list[int | None] = [sweeps[low] if low < high else None, *sweeps[low:high].tolist()]
        rows += [(a, b - a, item, sweep) for a, b, sweep in zip(cuts, cuts[1:], looked, strict=False) if b > a]
    names = {"ts_ns": pl.Int64, "length_ns": pl.Int64, "item": pl.Int64, "sweep_ns": pl.Int64}
    return pl.DataFrame(rows, schema=names, orient="row")


def _choose(capture: Capture, sweeps: pl.DataFrame) -> pl.DataFrame:
    """The one row that explains each sweep; without requests only sweeps in which a target thread was not idle
    count.
    """
    targets = list(capture.manifest.target.pids)
    samples = capture.frame(schema.SAMPLES).with_columns(
        rank=pl.col("state").replace_strict(_STATE_RANK, default=OTHER_RANK, return_dtype=pl.Int32),
        peer=~pl.col("pid").is_in(targets),
    )
    busy = (
        samples.filter(pl.col("rank") < OTHER_RANK)
        .sort("ts_ns", "peer", "rank", "tid")
        .unique("ts_ns", keep="first", maintain_order=True)
    )
    if "sweep_ns" in sweeps.columns:
        looked = busy.rename({"ts_ns": "sweep_ns"})
        return sweeps.join(looked, on="sweep_ns", how="left").sort("ts_ns")
    how = "left" if len(capture.frame(schema.REQUESTS)) else "inner"
    return sweeps.join(busy, on="ts_ns", how=how).sort("ts_ns")  # type: ignore[arg-type]  # one of the two literals


def _chain(tree: BlameBuilder, row: dict[str, int | str | bool | None], numbers: syscalls.Numbers, objects: Objects,
           targets: tuple[int, ...]) -> list[int]:  # fmt: skip
    """Nodes from the root to the leaf that this sample says."""
    if row["tid"] is None and row.get("sweep_ns", 0) is None:
        return [ROOT, tree.node(ROOT, Kind.QUEUED, -1, UNSEEN_ANSWER)]
    if row["tid"] is None:
        return [ROOT, tree.node(ROOT, Kind.UNEXPLAINED, -1, Thing(stage="no watched thread was busy"))]
    tid, pid = int(row["tid"] or 0), int(row["pid"] or 0)
    chain = [ROOT]
    if row["peer"] and targets:
        chain.append(tree.node(ROOT, Kind.PEER, pid, Thing(peer=objects.process(pid).comm or str(pid))))
    name = numbers.name(int(row["nr"])) if row["nr"] is not None else None
    thing = _thing(row, name, objects)
    if row["state"] == "R":
        kind, thing = Kind.RUNNING, None
    elif row["state"] in ("T", "t"):
        kind = Kind.STOPPED
    elif name in syscalls.SYNC:
        kind = Kind.FSYNC
    else:
        kind = Kind.IO
    chain.append(tree.node(chain[-1], kind, tid, thing))
    return chain


def _thing(row: dict[str, int | str | bool | None], name: str | None, objects: Objects) -> Thing | None:
    if row["ino"] is not None and row["file_type"] == "reg":
        return Thing(path=objects.file(int(row["dev"] or 0), int(row["ino"])))
    return Thing(syscall=name) if name else None
