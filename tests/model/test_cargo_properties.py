"""Whose data requests carry: against queues that are kept by hand, and by the laws that any sharing must keep."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from culpa.capture import schema
from culpa.model import cargo
from culpa.model.cargo import NOBODY

PAGE = 4096
DEV, OTHER_DEV = 5, 6
KWORKER = 90
often = settings(max_examples=200, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Event:
    """At one moment some pages of an inode become dirty by a thread, or are sent to a device."""

    flush: bool
    ino: int
    generation: int
    pages: int
    tid: int
    dev: int


EVENTS = st.lists(
    st.builds(
        Event,
        flush=st.booleans(),
        ino=st.integers(0, 2),
        generation=st.integers(0, 1),
        pages=st.integers(1, 9),
        tid=st.integers(1, 3),
        dev=st.sampled_from([DEV, OTHER_DEV]),
    ),
    max_size=40,
)


def tables(events: list[Event]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`blocks` and `dirtied`, one row an event, a moment apart."""
    flushes = [(ns, event) for ns, event in enumerate(events, 1) if event.flush]
    dirt = [(ns, event) for ns, event in enumerate(events, 1) if not event.flush]
    blocks = schema.BLOCKS.frame(
        {
            "queued_ns": [ns for ns, _ in flushes],
            "issue_ns": [ns for ns, _ in flushes],
            "complete_ns": [ns + 1 for ns, _ in flushes],
            "dev": [event.dev for _, event in flushes],
            "sector": [ns for ns, _ in flushes],
            "bytes": [PAGE * event.pages for _, event in flushes],
            "op": ["write"] * len(flushes),
            "tid": [KWORKER] * len(flushes),
            "ino_dev": [DEV] * len(flushes),
            "ino": [event.ino for _, event in flushes],
            "generation": [event.generation for _, event in flushes],
        }
    )
    dirtied = schema.DIRTIED.frame(
        {
            "from_ns": [ns for ns, _ in dirt],
            "to_ns": [ns for ns, _ in dirt],
            "tid": [event.tid for _, event in dirt],
            "pid": [event.tid for _, event in dirt],
            "dev": [DEV] * len(dirt),
            "ino": [event.ino for _, event in dirt],
            "generation": [event.generation for _, event in dirt],
            "bytes": [PAGE * event.pages for _, event in dirt],
        }
    )
    return blocks, dirtied


def queued_by_hand(events: list[Event], dev: int) -> list[dict[int, int]]:
    """For each flush to a device the pages of each writer: page by page, oldest first.

    What a queue lacks in the end was dirtied before the window, so it stands in front of all that was dirtied in it.
    """
    lacking: defaultdict[tuple[int, int], int] = defaultdict(int)
    for older in (False, True):
        queues: defaultdict[tuple[int, int], deque[int]] = defaultdict(deque)
        if older:
            for key, pages in lacking.items():
                queues[key].extend([NOBODY] * pages)
        carried = []
        for event in events:
            key = event.ino, event.generation
            if not event.flush:
                queues[key].extend([event.tid] * event.pages)
            elif event.dev == dev:
                taken = [queues[key].popleft() for _ in range(min(event.pages, len(queues[key])))]
                lacking[key] += 0 if older else event.pages - len(taken)
                carried.append({tid: taken.count(tid) for tid in taken})
    return carried


def shares(found: cargo.Cargo, request: int) -> dict[int, int]:
    """Pages of each owner in one request."""
    low, high = (int(edge[0]) for edge in found.rows(np.array([request])))
    pages: defaultdict[int, int] = defaultdict(int)
    for row in range(low, high):
        pages[int(found.owner[row])] += int(found.bytes[row]) // PAGE
    return dict(pages)


@often
@given(events=EVENTS)
def test_bytes_go_to_those_who_dirtied_them_first(events: list[Event]):
    """As queues kept by hand say, for each device by itself, since stacked devices carry the same pages."""
    blocks, dirtied = tables(events)
    found = cargo.of(blocks, schema.BLOCK_PARTS.empty(), dirtied)
    for dev in (DEV, OTHER_DEV):
        rows = np.flatnonzero((blocks["dev"] == dev).to_numpy()).tolist()
        assert queued_by_hand(events, dev) == [shares(found, row) for row in rows]


@often
@given(events=EVENTS, cut=st.integers(1, 40))
def test_no_byte_is_made_or_lost(events: list[Event], cut: int):
    """Each request's rows add up to its bytes; no writer is given more on a device than it dirtied there."""
    blocks, dirtied = tables(events)
    # Some requests were issued before the window.
    blocks = blocks.with_columns(issue_ns=pl.when(pl.col("issue_ns") >= cut).then("issue_ns"))
    found = cargo.of(blocks, schema.BLOCK_PARTS.empty(), dirtied)
    assert blocks["bytes"].to_list() == [PAGE * sum(shares(found, row).values()) for row in range(len(blocks))]
    assert (found.bytes > 0).all()
    wrote = dict(dirtied.group_by("tid").agg(pl.col("bytes").sum()).iter_rows())
    for dev in (DEV, OTHER_DEV):
        on = blocks["dev"].to_numpy()[found.request] == dev if len(blocks) else np.zeros(0, bool)
        for tid in set(found.owner[on].tolist()) - {NOBODY}:
            assert found.bytes[on & (found.owner == tid)].sum() <= wrote[tid]


def test_a_merged_request_is_split_by_its_stretches() -> None:
    """Two inodes and metadata in one request: three owners, by bytes; the journal's own page is the journal's."""
    blocks, _ = tables([Event(flush=True, ino=1, generation=0, pages=6, tid=0, dev=DEV)])
    parts = schema.BLOCK_PARTS.frame(
        {
            "issue_ns": [1] * 3, "dev": [DEV] * 3, "sector": [1] * 3, "ino_dev": [DEV] * 3, "ino": [1, 2, 0],
            "generation": [0] * 3, "bytes": [PAGE, 3 * PAGE, 2 * PAGE],
        }
    )  # fmt: skip
    dirtied = schema.DIRTIED.frame(
        {
            "from_ns": [0] * 3, "to_ns": [0] * 3, "tid": [11, 12, 70], "dev": [DEV] * 3, "ino": [1, 2, 0],
            "generation": [0] * 3, "bytes": [9 * PAGE] * 3,
        }
    )  # fmt: skip
    assert {11: 1, 12: 3, 70: 2} == shares(cargo.of(blocks, parts, dirtied), 0)


def test_what_is_no_cached_write_belongs_to_who_submitted_it() -> None:
    """Reads, flushes and direct writes are sent in the context of who wants them."""
    blocks = schema.BLOCKS.frame(
        {
            "issue_ns": [1, 2, 3], "dev": [DEV] * 3, "sector": [1, None, 3], "bytes": [PAGE, 0, PAGE],
            "op": ["read", "flush", "write"], "tid": [11, 12, 13], "ino_dev": [DEV, None, None],
            "ino": [4, None, None],
        }
    )  # fmt: skip
    found = cargo.of(blocks, schema.BLOCK_PARTS.empty(), schema.DIRTIED.empty())
    assert [11, 12, 13] == found.owner.tolist()
    assert [False, False, False] == found.cached.tolist()


def test_no_requests_have_no_cargo() -> None:
    """Empty tables are no error."""
    found = cargo.of(schema.BLOCKS.empty(), schema.BLOCK_PARTS.empty(), schema.DIRTIED.empty())
    assert 0 == len(found.request)
