"""The part of a window that was only summed up: its clock, and the question that was open when events ended."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.manifest import Cost, Evidence, Host, Manifest, Target, Window
from culpa.diagnose import summed
from culpa.diagnose.judge import judge

SECOND = 1_000_000_000
START_NS, SUMS_NS, END_NS = 100 * SECOND, 103 * SECOND, 110 * SECOND
REALTIME_NS = 1_700_000_000 * SECOND


def _capture() -> Capture:
    """PINGs: one that ended with the events, one that was open then and never ended, one that was, and a later one."""
    asked = [(102 * SECOND, 102 * SECOND + 1), (102 * SECOND, 105 * SECOND), (102 * SECOND, None),
             (104 * SECOND, 104 * SECOND + 1)]  # fmt: skip
    requests = schema.REQUESTS.frame({"start_ns": [start for start, _ in asked], "end_ns": [end for _, end in asked]})
    sums = schema.SUMS.frame({"tid": [7], "pid": [7], "what": ["running"], "total_ns": [SECOND], "count": [1]})
    manifest = Manifest(
        culpa_version="0",
        host=Host(kernel="6.1", machine="x86_64", cpus=2, memory_bytes=1 << 30, page_bytes=4096, ticks_per_second=100),
        target=Target(kind="redis", name="redis://127.0.0.1:7000", pids=(7,)),
        window=Window(start_ns=START_NS, end_ns=END_NS, start_realtime_ns=REALTIME_NS, ended_by="limit"),
        evidence=Evidence(waits="events", detail_end_ns=SUMS_NS, sums_from_ns=SUMS_NS),
        cost=Cost(events=0, lost_events=0),
    )
    return Capture(manifest=manifest, tables={schema.REQUESTS.name: requests, schema.SUMS.name: sums})


def test_its_window_begins_later_by_both_clocks() -> None:
    """The slow log's seconds are those of the other clock."""
    part = summed.part(_capture())
    assert part is not None
    window = part.manifest.window
    assert (SUMS_NS, REALTIME_NS + SUMS_NS - START_NS) == (window.start_ns, window.start_realtime_ns)


def test_what_was_open_when_events_ended_waits_on() -> None:
    """Its rest counts here: of a long stall that may be nearly all."""
    part = summed.part(_capture())
    assert part is not None
    rows = part.frame(schema.REQUESTS).select("start_ns", "end_ns").rows()
    assert [(SUMS_NS, 105 * SECOND), (SUMS_NS, None), (104 * SECOND, 104 * SECOND + 1)] == rows


@pytest.mark.parametrize(("seconds", "accused"), [(0.09, False), (7.0, True)])
def test_a_moment_of_sums_accuses_nobody(seconds: float, accused: bool) -> None:
    """Who serves a request computed for it since events ended, for so long; before, nothing of it was seen."""
    capture, end_ns = _capture(), SUMS_NS + int(seconds * SECOND)
    ran = {"tid": [7], "pid": [7], "what": ["running"], "total_ns": [end_ns - SUMS_NS], "count": [9]}
    task = {"tid": [7], "pid": [7], "comm": ["burner"], "kernel": [False], "watched_ns": [START_NS]}
    tables = {
        schema.SUMS.name: schema.SUMS.frame(ran),
        schema.TASKS.name: schema.TASKS.frame(task),
        schema.REQUESTS.name: schema.REQUESTS.frame({"start_ns": [SUMS_NS - SECOND], "end_ns": [None]}),
    }
    manifest = replace(
        capture.manifest,
        target=Target(kind="url", name="http://127.0.0.1:7000/", pids=(7,)),
        window=replace(capture.manifest.window, end_ns=end_ns),
    )
    verdict = judge(Capture(manifest=manifest, tables=tables))
    assert accused == bool([cause for cause in verdict.causes if cause.level != "note"])
