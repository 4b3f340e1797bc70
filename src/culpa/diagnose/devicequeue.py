"""Whose requests a device was busy with while somebody waited for it.

At each moment a device with k requests in flight gives 1/k of itself to each of them, wherever they stand: in a
scheduler's queue, in the driver, in the device. Of a wait for the device, the part that went to the waiter's own
requests is service; the rest is queueing behind others', and those have owners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.model.axis import Bools, Int64s

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture

MINOR_BITS = 20
"""Of the kernel's dev_t (include/linux/kdev_t.h); file systems without a block device have major number 0."""
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler:
    """Somebody whose requests stood in the queue: a process, its foremost file there, and how much of the waits (ns)
    the device gave to it. `pid` is None for what kernel threads sent for nobody who is known.
    """

    pid: int | None
    path: str | None
    files: int
    ns: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Requests that the device finished: how many, mean time in flight, and the device's mean part of it."""

    count: int
    mean_ns: float
    own_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """Waits for one device: in all, behind others' requests, while the device had nothing to do, and how many requests
    were in flight in the mean.
    """

    ns: int
    queued_ns: float
    idle_ns: float
    in_flight: float
    fillers: tuple[Filler, ...]

    @property
    def served_ns(self) -> float:
        """What went to the waiter's own requests."""
        return self.ns - self.queued_ns


def joined(waits: list[Waited], *, total_ns: int) -> Waited:
    """Waits of several threads as one; at most `total_ns`, as two may wait at once for a third."""
    ns = sum(wait.ns for wait in waits)
    part = min(1.0, total_ns / max(1, ns))
    owners: dict[int | None, list[Filler]] = {}
    for wait in waits:
        for filler in wait.fillers:
            owners.setdefault(filler.pid, []).append(filler)
    fillers = [
        Filler(
            pid=pid,
            path=max(mine, key=lambda filler: filler.ns).path,
            files=max(filler.files for filler in mine),
            ns=part * sum(filler.ns for filler in mine),
            requests=max(filler.requests for filler in mine),
        )
        for pid, mine in owners.items()
    ]
    return Waited(
        ns=total_ns,
        queued_ns=part * sum(wait.queued_ns for wait in waits),
        idle_ns=part * sum(wait.idle_ns for wait in waits),
        in_flight=sum(wait.in_flight * wait.ns for wait in waits) / max(1, ns),
        fillers=tuple(sorted(fillers, key=lambda filler: (-filler.ns, filler.pid or 0))),
    )


class DeviceQueue:
    """The requests of one device in the window, and what it gave to each."""

    def __init__(self, picture: Picture, device: str) -> None:
        self._picture = picture
        blocks = picture.capture.frame(schema.BLOCKS).drop_nulls("dev")
        devs = [dev for dev in blocks["dev"].unique().to_list() if picture.objects.device(dev) == device]
        window = picture.capture.manifest.window
        rows = blocks.filter(pl.col("dev").is_in(devs)).with_columns(
            begin=pl.coalesce("queued_ns", "issue_ns", pl.lit(window.start_ns)).clip(window.start_ns, window.end_ns),
            end=pl.col("complete_ns").fill_null(window.end_ns).clip(window.start_ns, window.end_ns),
        )
        self.rows = rows.filter(pl.col("end") > pl.col("begin"))
        self._begin, self._end = self.rows["begin"].to_numpy(), self.rows["end"].to_numpy()
        self._moment = np.unique(np.concatenate([self._begin, self._end]))
        self._in_flight = self._depth(np.ones(len(self.rows), bool))

    def waited(self, start_ns: Int64s, end_ns: Int64s, tids: frozenset[int]) -> Waited:
        """Divide waits between the waiter's own requests and others'.

        Args:
            start_ns, end_ns: the waits.
            tids: the threads that wait, and those that send requests for them.
        """
        total = int((end_ns - start_ns).sum())
        own = self._own(tids)
        others = self._given(~own)
        queued = float((self._at(others, end_ns) - self._at(others, start_ns)).sum())
        idle = self._integral((self._in_flight == 0).astype(float))
        depth = self._integral(self._in_flight.astype(float))
        flying = float((self._at(depth, end_ns) - self._at(depth, start_ns)).sum())
        return Waited(
            ns=total, queued_ns=queued, idle_ns=float((self._at(idle, end_ns) - self._at(idle, start_ns)).sum()),
            in_flight=flying / max(1, total),
            fillers=self._fillers(~own, start_ns, end_ns),
        )  # fmt: skip

    def given(self, start_ns: Int64s, end_ns: Int64s) -> pl.DataFrame:
        """`rows` with `given`: how much (ns) of waits that do not overlap the device gave to each request."""
        rows = np.arange(len(self.rows))
        given = self._given_within(rows, start_ns, end_ns) if len(rows) and len(start_ns) else np.zeros(len(rows))
        return self.rows.with_columns(given=pl.Series(given))

    def alone(self) -> pl.DataFrame:
        """`rows` with `own`: how much (ns) of its time the device gave to each request in all."""
        return self.rows.with_columns(own=pl.Series(self._given_to_each() if len(self.rows) else np.zeros(0)))

    def finished(self) -> Finished:
        """Of all requests that were finished in the window."""
        done = self.rows["complete_ns"].is_not_null().to_numpy()
        own = self._given_to_each()
        count = int(done.sum())
        return Finished(
            count=count,
            mean_ns=float((self._end - self._begin)[done].mean()) if count else 0.0,
            own_ns=float(own[done].mean()) if count else 0.0,
        )

    def _own(self, tids: frozenset[int]) -> Bools:
        """Requests that the waiters sent, or threads that the kernel made in their processes for io_uring, and those a
        kernel thread sent with their data, or with nobody's.
        """
        objects = self._picture.objects
        kernel, pids = objects.kernel_tids, {objects.pid_of.get(tid) for tid in tids}
        tids |= {tid for tid in objects.ring_threads if objects.pid_of.get(tid) in pids}
        sent = self.rows["tid"].is_in(list(tids)).fill_null(value=False).to_numpy()
        by_kernel = (self.rows["tid"].is_null() | self.rows["tid"].is_in(list(kernel))).to_numpy()
        calls = self._picture.capture.frame(schema.SYSCALLS).filter(pl.col("tid").is_in(list(tids)))
        files = calls.select(ino_dev="dev", ino="ino").drop_nulls().unique().with_columns(theirs=pl.lit(value=True))
        carried = self.rows.select("ino_dev", "ino").join(
            files, on=["ino_dev", "ino"], how="left", maintain_order="left"
        )
        with_theirs = carried["theirs"].fill_null(value=False).to_numpy()
        own: Bools = sent | (by_kernel & (with_theirs | self.rows["ino"].is_null().to_numpy()))
        return own

    def _depth(self, which: Bools) -> Int64s:
        """How many of the chosen requests are in flight from each moment to the next."""
        begun = np.searchsorted(np.sort(self._begin[which]), self._moment, side="right")
        ended = np.searchsorted(np.sort(self._end[which]), self._moment, side="right")
        return (begun - ended).astype(np.int64)

    def _given(self, which: Bools) -> Floats:
        """The device's time given to the chosen requests up to each moment, ns."""
        return self._integral(self._depth(which) / np.maximum(1, self._in_flight))

    def _integral(self, value: Floats) -> Floats:
        lengths = np.diff(self._moment, append=self._moment[-1:])
        return np.append(0.0, np.cumsum(value * lengths))[: len(self._moment)]

    def _at(self, integral: Floats, moment: Int64s) -> Floats:
        if len(self._moment) == 0:
            return np.zeros(len(moment))
        return np.interp(moment, self._moment, integral)

    def _given_to_each(self) -> Floats:
        share = self._share()
        return self._at(share, self._end) - self._at(share, self._begin)

    def _share(self) -> Floats:
        """What a request in flight all the time would have been given up to each moment, ns."""
        return self._integral(1.0 / np.maximum(1, self._in_flight))

    def _given_within(self, rows: Int64s, start_ns: Int64s, end_ns: Int64s) -> Floats:
        """What requests were given within waits that do not overlap."""
        share, order = self._share(), np.argsort(start_ns, kind="stable")
        starts, ends = start_ns[order], end_ns[order]
        before = np.append(0.0, np.cumsum(self._at(share, ends) - self._at(share, starts)))

        def until(moment: Int64s) -> Floats:
            last = np.searchsorted(starts, moment, side="right") - 1
            inside = self._at(share, np.minimum(moment, ends[last])) - self._at(share, starts[last])
            return np.where(last >= 0, before[last] + inside, 0.0)

        return until(self._end[rows]) - until(self._begin[rows])

    def _fillers(self, others: Bools, start_ns: Int64s, end_ns: Int64s) -> tuple[Filler, ...]:
        """Whose requests these are: the process that sent them, or where a kernel thread did, that wrote their file."""
        mine = np.flatnonzero(others)
        if len(mine) == 0 or len(start_ns) == 0:
            return ()
        rows = self.rows[mine.tolist()].with_columns(given=pl.Series(self._given_within(mine, start_ns, end_ns)))
        kernel = pl.col("tid").is_in(list(self._picture.objects.kernel_tids)).fill_null(value=True)
        senders = (
            rows.filter(~kernel).drop_nulls(["pid", "ino"]).group_by("ino_dev", "ino").agg(sender=pl.col("pid").min())
        )
        rows = rows.join(senders, on=["ino_dev", "ino"], how="left", maintain_order="left")
        rows = rows.with_columns(owner=pl.when(kernel).then("sender").otherwise("pid")).filter(pl.col("given") > 0)
        files = rows.group_by("owner", "ino_dev", "ino").agg(pl.col("given").sum(), pl.len()).sort(
            ["given", "ino"], descending=[True, False], nulls_last=True
        )  # fmt: skip
        owners = files.group_by("owner", maintain_order=True).agg(
            pl.col("ino_dev", "ino").first(), files=pl.col("ino").drop_nulls().n_unique(), ns=pl.col("given").sum(),
            requests=pl.col("len").sum(),
        ).sort(["ns", "owner"], descending=[True, False], nulls_last=True)  # fmt: skip
        return tuple(
            Filler(
                pid=pid, path=self._path(dev, ino), files=count,
                ns=ns, requests=requests,
            )
            for pid, dev, ino, count, ns, requests in owners.iter_rows()
        )  # fmt: skip

    def _path(self, dev: int | None, ino: int | None) -> str | None:
        """The file, if it is one on a block device; direct I/O can carry shared memory, which has inodes too."""
        if dev is None or not ino:
            return None
        known = self._picture.capture.frame(schema.FILES).filter((pl.col("dev") == dev) & (pl.col("ino") == ino))
        return self._picture.objects.file(dev, ino) if dev >> MINOR_BITS or len(known) else None
