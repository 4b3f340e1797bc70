"""Whose requests a device was busy with while somebody waited for it.

At each moment a device with k requests in flight gives 1/k of itself to each of them, wherever they stand: in a
scheduler's queue, in the driver, in the device. Of a wait for the device, the part that went to the waiter's own
requests is service; the rest is queueing behind others', and those have owners.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.picture import Picture
from culpa.model.axis import Bools, Int64s

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler:
    """Somebody whose requests stood in the queue: a process, the file they were for, and how much of the waits (ns)
    the device gave them. `pid` is None where a kernel thread sent them and nobody is known to have written the file.
    """

    pid: int | None
    path: str | None
    ns: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """Waits for one device: in all, behind others' requests, and how many requests were in flight in the mean."""

    ns: int
    queued_ns: float
    in_flight: float
    fillers: tuple[Filler, ...]

    @property
    def served_ns(self) -> float:
        """What went to the waiter's own requests."""
        return self.ns - self.queued_ns


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
        depth = self._integral(self._in_flight.astype(float))
        flying = float((self._at(depth, end_ns) - self._at(depth, start_ns)).sum())
        return Waited(
            ns=total, queued_ns=queued, in_flight=flying / max(1, total),
            fillers=self._fillers(~own, start_ns, end_ns),
        )  # fmt: skip

    def _own(self, tids: frozenset[int]) -> Bools:
        """Requests that the waiters sent, and those a kernel thread sent with their data, or with nobody's."""
        kernel = self._picture.objects.kernel_tids
        sent = self.rows["tid"].is_in(list(tids)).fill_null(value=False).to_numpy()
        by_kernel = (self.rows["tid"].is_null() | self.rows["tid"].is_in(list(kernel))).to_numpy()
        calls = self._picture.capture.frame(schema.SYSCALLS).filter(pl.col("tid").is_in(list(tids)))
        files = calls.select(ino_dev="dev", ino="ino").drop_nulls().unique().with_columns(theirs=pl.lit(value=True))
        carried = self.rows.select("ino_dev", "ino").join(files, on=["ino_dev", "ino"], how="left", maintain_order="left")
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

    def _fillers(self, others: Bools, start_ns: Int64s, end_ns: Int64s) -> tuple[Filler, ...]:
        """Whose requests these are: by process, or by file where a kernel thread sent them."""
        if not others.any():
            return ()
        kernel = self._picture.objects.kernel_tids
        share = self._integral(1.0 / np.maximum(1, self._in_flight))
        mine = np.flatnonzero(others)
        # Each request's own part within the waits: waits do not overlap, so it is the waits' part of [begin, end).
        given = np.zeros(len(mine))
        order = np.argsort(start_ns, kind="stable")
        starts, ends = start_ns[order], np.maximum.accumulate(end_ns[order])
        inside = np.append(0.0, np.cumsum(self._at(share, ends) - self._at(share, starts)))

        def waited_until(moment: Int64s) -> Floats:
            place = np.searchsorted(starts, moment, side="right")
            last = np.maximum(place - 1, 0)
            partial = self._at(share, np.minimum(moment, ends[last])) - self._at(share, starts[last])
            return np.where(place > 0, inside[last] + partial, 0.0)

        given = waited_until(self._end[mine]) - waited_until(self._begin[mine])
        rows = self.rows[mine.tolist()].with_columns(given=pl.Series(given))
        user = ~pl.col("tid").is_in(list(kernel)).fill_null(value=True)
        rows = rows.with_columns(owner=pl.when(user).then("pid"))
        groups = rows.filter(pl.col("given") > 0).group_by("owner", "ino_dev", "ino").agg(pl.col("given").sum(), pl.len())
        return tuple(
            Filler(
                pid=owner,
                path=self._picture.objects.file(dev, ino) if dev is not None and ino else None,
                ns=given,
                requests=count,
            )
            for owner, dev, ino, given, count in groups.sort(
                ["given", "owner", "ino"], descending=[True, False, False], nulls_last=True
            ).iter_rows()
        )
