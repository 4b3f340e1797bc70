"""Files of overlays go by the files behind them, wherever they are named."""

from __future__ import annotations

import polars as pl
import pytest

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.manifest import Cost, Evidence, Host, Manifest, Target, Window
from culpa.model.backing import united
from culpa.model.objects import Objects

OVERLAY, DISK = 39, 8
SEEN, BEHIND, OTHER = 14, 77, 15
MANIFEST = Manifest(
    culpa_version="0",
    host=Host(kernel="6.1", machine="x86_64", cpus=2, memory_bytes=1 << 30, page_bytes=4096, ticks_per_second=100),
    target=Target(kind="process", name="x", pids=(1,)),
    window=Window(start_ns=0, end_ns=100, start_realtime_ns=0, ended_by="limit"),
    evidence=Evidence(waits="events"),
    cost=Cost(events=1, lost_events=0),
)


def capture(*, told: bool) -> Capture:
    """A sync on an overlay and one beside it; the block request names the layer's inode."""
    files = {
        "dev": [DISK, OVERLAY, OVERLAY],
        "ino": [BEHIND, SEEN, OTHER],
        "path": ["/layers/upper/log", "/layers/upper/log", "/merged/other"],
        "inner_path": [None, "/log", None],
        "fs_type": ["ext4", "overlay", "overlay"],
        "backing_dev": [None, DISK if told else None, None],
        "backing_ino": [None, BEHIND if told else None, None],
    }
    calls = {"enter_ns": [1, 2, 3], "tid": [1, 1, 1], "dev": [OVERLAY, OVERLAY, None], "ino": [SEEN, OTHER, None]}
    tables = {
        "files": schema.FILES.frame(files),
        "syscalls": schema.SYSCALLS.frame(calls),
        "blocks": schema.BLOCKS.frame({"ino_dev": [DISK], "ino": [BEHIND]}),
    }
    return Capture(manifest=MANIFEST, tables=tables)


def test_a_call_names_the_file_behind() -> None:
    """The call on the overlay and the block request agree; calls on other files, or on none, are as they were."""
    found = united(capture(told=True))
    expected = [(1, DISK, BEHIND), (2, OVERLAY, OTHER), (3, None, None)]
    assert expected == found.frame(schema.SYSCALLS).select("enter_ns", "dev", "ino").rows()
    assert schema.SYSCALLS.schema == found.frame(schema.SYSCALLS).schema


def test_a_file_has_one_row_with_both_names() -> None:
    """The host's path and the container's."""
    found = united(capture(told=True))
    files = found.frame(schema.FILES)
    assert 2 == files.height
    assert schema.FILES.schema == files.schema
    row = files.row(by_predicate=pl.col("ino") == BEHIND, named=True)
    assert ("/layers/upper/log", "/log", "overlay") == (row["path"], row["inner_path"], row["fs_type"])
    assert {"/layers/upper/log": "/log"} == Objects(found).inner_paths


@pytest.mark.parametrize("table", ["files", "syscalls", "blocks"])
def test_nothing_changes_where_nothing_is_known(table: str) -> None:
    """An overlay whose layers were not found stays as it was seen."""
    before = capture(told=False)
    assert before.tables[table].equals(united(before).tables[table])
