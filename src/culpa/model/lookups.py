"""Questions to name servers: since when an answer is awaited, and until when.

A datagram may get lost, and is then sent again: the wait began with the first one. It ends with the answer, or when the
socket is closed, for nobody waits on it any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa import syscalls
from culpa.model.axis import Bools, Int64s
from culpa.model.calls import FAR_NS, Calls
from culpa.model.objects import Objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookups:
    """The sockets that ask name servers, by inode, and when (ns) those were closed that were."""

    inodes: frozenset[int]
    closed: Mapping[int, int]

    @staticmethod
    def of(objects: Objects, calls: Calls) -> Lookups:
        """Read them from the sockets and the close calls of a capture."""
        inodes = frozenset(ino for ino, socket in objects.sockets.items() if socket.asks_names)
        if not inodes:
            return Lookups(inodes=inodes, closed={})
        closes = calls.frame.filter(
            pl.col("nr").is_in(list(calls.numbers.of(syscalls.CLOSE))), pl.col("ino").is_in(list(inodes))
        )
        last = closes.drop_nulls("exit_ns").group_by("ino").agg(pl.col("exit_ns").max())
        return Lookups(inodes=inodes, closed=dict(last.iter_rows()))

    def among(self, inodes: Int64s) -> Bools:
        """Which of these sockets ask name servers."""
        asks: Bools = np.isin(inodes, list(self.inodes))
        return asks

    def closed_ns(self, inodes: Int64s) -> Int64s:
        """When each of these sockets was closed; far away for those that were not."""
        return np.array([self.closed.get(ino, FAR_NS) for ino in inodes.tolist()], dtype=np.int64)
