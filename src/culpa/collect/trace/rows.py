"""The records drained so far, on their way to tables: copied out of the rings, parsed, turned into columns.

Messages are parsed soon, since their bytes may be secrets; the rest is turned into columns in portions while the
trace runs, so that little is left for its end.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.collect.trace import calls, events, tables
from culpa.collect.trace.identity import PROC, identity
from culpa.collect.trace.messages import UNSETTLED
from culpa.collect.trace.ring import Records
from culpa.units import NS_PER_SECOND

CONVERT_ROWS: Final = 50_000
PARSE_RECORDS: Final = 4096
PARSE_NS: Final = NS_PER_SECOND // 4
"""Messages are parsed in such portions; their bytes are held no longer than that."""
TABLES: Final = {
    events.OFFCPU: "offcpu",
    events.SYSCALLS: "syscalls",
    events.MESSAGES: "messages",
    events.BLOCKS: "blocks",
    events.PARTS: "block_parts",
    events.DIRTIED: "dirtied",
    events.UNCACHED: "uncached",
    events.FREED: "freed",
    events.THROTTLES: "throttles",
    events.ASYNC: "async_io",
    events.RETRANSMITS: "retransmits",
}
OF_INODES: Final = frozenset({events.DIRTIED, events.UNCACHED, events.FREED})
"""Rings that carry DIRTIED_EVENT."""
_CLOCK_MONOTONIC_COARSE: Final = 6


class Rows:
    """Records of the counted kinds: `take` one stretch of a ring, `table` gives all so far as columns."""

    def __init__(self) -> None:
        self._raw: dict[int, list[Records]] = {ring: [] for ring in TABLES}
        self._frames: dict[int, list[pl.DataFrame]] = {ring: [] for ring in TABLES}
        self._drained_calls: list[Records] = []
        self.anonymous_dev = _anonymous_dev()
        self._senders = calls.sending_numbers(os.uname().machine)
        self.stack_ids: set[int] = set()
        self._parted_ns = time.monotonic_ns()

    def taker(self, ring: int) -> Callable[[Records], None]:
        """What copies the records of a ring; the kernel wants its memory back before anything slow is done."""
        return self._drained_calls_append if ring == events.SYSCALLS else partial(self._keep, ring)

    def _drained_calls_append(self, found: Records) -> None:
        self._drained_calls.append(found.copy())

    def _keep(self, ring: int, found: Records) -> None:
        self._raw[ring].append(found.copy())

    def messages_wait(self) -> bool:
        """Whether there are enough messages to parse, or some have waited long enough: each round has its price."""
        held = sum(map(len, self._drained_calls)) + sum(map(len, self._raw[events.MESSAGES]))
        return held >= PARSE_RECORDS or time.monotonic_ns() - self._parted_ns >= PARSE_NS

    def part_messages(self) -> int:
        """Parse the messages drained since the last time; returns how many lay inside the records of calls."""
        self._parted_ns = time.monotonic_ns()
        self._convert(events.MESSAGES)
        drained, self._drained_calls = self._drained_calls, []
        parted = 0
        for records in drained:
            self._raw[events.SYSCALLS].append(tables.without_payload(records))
            short = tables.short_messages(records, self._senders)
            if len(short):
                self._frames[events.MESSAGES].append(short)
                parted += len(short)
        return parted

    def convert_one(self) -> None:
        """Convert the fullest table if it is worth it; one a round, as the rings fill up meanwhile."""
        fullest = max(TABLES, key=lambda ring: sum(map(len, self._raw[ring])))
        self._convert(fullest, CONVERT_ROWS)

    def _convert(self, ring: int, at_least: int = 1) -> None:
        """Turn what was copied into columns, once there are `at_least` so many records."""
        if sum(map(len, self._raw[ring])) >= at_least:
            parts, self._raw[ring] = self._raw[ring], []
            self._frames[ring].append(self._frame(ring, np.concatenate(parts) if len(parts) > 1 else parts[0]))

    def _frame(self, ring: int, records: Records) -> pl.DataFrame:
        if ring == events.SYSCALLS:
            return tables.syscalls(records, self.anonymous_dev)
        if ring == events.MESSAGES:
            return tables.messages(records)
        if ring == events.BLOCKS:
            return tables.blocks(records)
        if ring == events.PARTS:
            return tables.block_parts(records)
        if ring in OF_INODES:
            return tables.of_inodes(records, schema.BY_NAME[TABLES[ring]])
        if ring == events.ASYNC:
            return tables.async_io(records, self.anonymous_dev)
        if ring == events.RETRANSMITS:
            return tables.retransmits(records, tick_ns=_tick_ns())
        if ring == events.THROTTLES:
            return tables.throttles(records, page_bytes=mmap.PAGESIZE, tick_ns=_tick_ns())
        stack_ids = records["stack_id"]
        self.stack_ids.update(np.unique(stack_ids[stack_ids >= 0]).tolist())
        return tables.offcpu(records, wakes_seen=True)

    def still_open(
        self, threads: Records, requests: Records, dirt: Records, uncached: Records, beside: Records
    ) -> Mapping[int, pl.DataFrame]:
        """By ring, the rows of what is open at this moment: waits, calls, block requests, sums of dirtied pages.

        Args:
            threads: THREAD_STATE of the watched threads.
            requests: BLOCK_EVENT of the requests under way.
            dirt: DIRTIED_EVENT of the sums that were not handed over yet.
            uncached: the same of pages that left the page cache.
            beside: ASYNC_EVENT of the requests to io_uring and libaio that are not complete.
        """
        return {
            events.OFFCPU: self._frame(events.OFFCPU, tables.open_stretches(threads, events.OFFCPU_EVENT)),
            events.SYSCALLS: self._frame(events.SYSCALLS, open_calls(threads)),
            events.BLOCKS: self._frame(events.BLOCKS, requests[requests["issue_ns"] != 0]),
            events.DIRTIED: self._frame(events.DIRTIED, dirt),
            events.UNCACHED: self._frame(events.UNCACHED, uncached),
            events.ASYNC: self._frame(events.ASYNC, beside),
        }

    def add(self, rows: Mapping[int, pl.DataFrame]) -> None:
        """Rows that are there for good."""
        for ring, frame in rows.items():
            self._frames[ring].append(frame)

    def table(self, ring: int, rest: Mapping[int, pl.DataFrame]) -> pl.DataFrame:
        """All rows so far, and those of `rest`."""
        self._convert(ring)
        frames = [*self._frames[ring], *(frame for other, frame in rest.items() if other == ring)]
        nothing = pl.DataFrame(schema=UNSETTLED) if ring == events.MESSAGES else schema.BY_NAME[TABLES[ring]].empty()
        return pl.concat([nothing, *frames])

    def clear(self) -> None:
        """Give all rows up."""
        self._frames = {ring: [] for ring in TABLES}


def open_calls(threads: Records) -> Records:
    """CALL records of the calls still open, each fd resolved through /proc while it is open."""
    records = tables.open_calls(threads, events.CALL)
    with_fd = np.isin(records["nr"], calls.fd_numbers(os.uname().machine)) & (records["dev"] == 0)
    for at in np.flatnonzero(with_fd).tolist():
        link = PROC / str(records["pid"][at]) / "fd" / str(int(records["arg"][at][0]) & 0xFFFFFFFF)
        try:
            records["dev"][at], records["ino"][at], records["mode"][at] = identity(link)
        except OSError:
            continue
    return records


def _anonymous_dev() -> int:
    """The device of the one inode that epoll, eventfd and timerfd descriptors share."""
    fd = os.eventfd(0)
    try:
        return identity(PROC / "self/fd" / str(fd))[0]
    finally:
        os.close(fd)


def _tick_ns() -> int:
    """Length of the kernel's jiffy: the coarse clock moves by one at a time."""
    return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)
