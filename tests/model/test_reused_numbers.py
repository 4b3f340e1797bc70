"""One thread id that two processes had in one window, one after the other."""

from __future__ import annotations

import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.manifest import Cost, Evidence, Host, Manifest, Target, Window
from culpa.diagnose import root
from culpa.diagnose.root import Root
from culpa.model import requests, timeline, waitgraph

MS = 1_000_000
TID, FIRST, LATER = 77, 40, 90
END = 100 * MS


def reused(target: int) -> Capture:
    """A thread of one process ends at 20 ms, a thread of the other one has its number from 40 ms on."""
    tables = {
        "tasks": schema.TASKS.frame({"tid": [TID], "pid": [LATER], "comm": ["b"], "watched_ns": [40 * MS]}),
        "offcpu": schema.OFFCPU.frame(
            {"tid": [TID, TID], "pid": [FIRST, LATER], "off_ns": [5 * MS, 50 * MS], "wake_ns": [9 * MS, 60 * MS],
             "on_ns": [10 * MS, 61 * MS], "state": [1, 1]},
        ),
    }  # fmt: skip
    return Capture(
        manifest=Manifest(
            culpa_version="0",
            host=Host(
                kernel="6.1", machine="x86_64", cpus=2, memory_bytes=1 << 30, page_bytes=4096, ticks_per_second=100
            ),
            target=Target(kind="process", name="a", pids=(target,)),
            window=Window(start_ns=0, end_ns=END, start_realtime_ns=0, ended_by="limit"),
            evidence=Evidence(waits="events"),
            cost=Cost(events=2, lost_events=0),
        ),
        tables=tables,
    )


def found(capture: Capture) -> Root:
    """What is judged of it."""
    asked = requests.find(capture)
    return root.find(capture, waitgraph.build(capture, timeline.build(capture), asked), asked)


def test_the_time_of_a_number_given_out_twice_is_the_later_owners() -> None:
    """Only its time is kept: it is not the other process's."""
    segments = timeline.build(reused(FIRST)).segments
    assert [LATER] == segments["pid"].unique().to_list()
    assert 40 * MS == segments.filter(pl.col("kind") == "unseen")["end_ns"].max()


def test_the_later_owners_time_is_not_the_targets() -> None:
    """The target ended before: what is seen of that number belongs to somebody else."""
    mine, theirs = (found(reused(target)) for target in (LATER, FIRST))
    assert (1, 0) == (mine.threads, theirs.threads)
    assert 0 == theirs.ns
    assert 0 < mine.ns
