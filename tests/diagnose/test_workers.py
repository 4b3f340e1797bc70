"""What all workers behind one port suffer from is one cause."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import polars as pl
import pytest
from scene import APP, MS, REDIS, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose import workers
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.judge import judge
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture, draw
from culpa.diagnose.verdict import On
from culpa.model import requests

WORKERS = (501, 502, 503)
STRANGER = 900
SLEEP = On(code="/srv/app.py:7 in rest", syscall="clock_nanosleep")


def captured(*, listening: int | None) -> Capture:
    """The scene, with three workers of one program, one process of another, and somebody who listens."""
    scene = Scene()
    scene.request_arrives()
    scene.nap(50 * MS)
    scene.answer()
    for pid in (*WORKERS, STRANGER):
        program = "/usr/bin/other" if pid == STRANGER else "/usr/bin/worker"
        scene.add(schema.TASKS, tid=pid, pid=pid, comm="worker", kernel=False, watched_ns=scene.start)
        scene.add(schema.PROCESSES, pid=pid, comm="worker", exe=program, role="target")
    if listening is not None:
        scene.add(schema.SOCKETS, ino=77, family="tcp", local_addr="0.0.0.0", local_port=80, pid=listening,
            listening=True)  # fmt: skip
    return scene.capture()


def picture(*, listening: int | None = WORKERS[0]) -> Picture:
    found = captured(listening=listening)
    return draw(found, requests.find(found))


def finding(pid: int, start: int, end: int, on: On | None = SLEEP) -> Finding:
    item, low, high = (np.array([value], np.int64) for value in (0, start, end))
    moments = Moments.union(item, low, high)
    return Finding(
        moments=moments, nearness=Nearness.CODE, pid=pid, tid=pid, on=on, evidence=(), confidence=0.9
    )  # fmt: skip


def test_one_cause_for_all_workers_with_the_time_of_all() -> None:
    """The largest is named, the others are counted and named after it; where they overlap, time counts once."""
    first, second, third = WORKERS
    parts = [finding(first, 0, 10), finding(second, 10, 40), finding(third, 35, 50)]
    (one,) = workers.together(picture(), parts)
    assert (second, second, 50) == (one.pid, one.tid, one.moments.ns)
    assert [f"and 2 more processes like it: worker[{third}], worker[{first}]"] == [e.fact for e in one.evidence]
    assert [2] == [e.value for e in one.evidence]


def test_files_of_their_own_in_one_folder_are_alike() -> None:
    """Each worker's own log; a file elsewhere is another thing."""
    first, second, third = WORKERS
    paths = {first: "/srv/log/1.txt", second: "/srv/log/2.txt", third: "/var/other.txt"}
    parts = [finding(pid, 0, pid, On(path=path, syscall="fsync")) for pid, path in paths.items()]
    assert [second, third] == [found.pid for found in workers.together(picture(), parts)]


def test_another_line_is_another_cause() -> None:
    """Two workers in different lines do different things."""
    elsewhere = msgspec.structs.replace(SLEEP, code="/srv/app.py:9 in wait")
    parts = [finding(WORKERS[0], 0, 10), finding(WORKERS[1], 20, 30, elsewhere)]
    assert parts == workers.together(picture(), parts)


@pytest.mark.parametrize("pid", [REDIS, STRANGER])
def test_other_programs_stay_by_themselves(pid: int) -> None:
    """A peer, or a process of the target that is another program, is no worker of that port."""
    assert 2 == len(workers.together(picture(), [finding(WORKERS[0], 0, 10), finding(pid, 10, 20)]))


def test_processes_that_serve_nobody_stay_by_themselves() -> None:
    """Without a port they have in common nothing says that they belong together."""
    parts = [finding(WORKERS[0], 0, 10), finding(WORKERS[1], 10, 20)]
    assert 2 == len(workers.together(picture(listening=None), parts))


def test_two_findings_of_one_process_stay_two() -> None:
    """Only the process may differ: the same process found twice is the rule's own affair."""
    parts = [finding(WORKERS[0], 0, 10), finding(WORKERS[0], 10, 20)]
    assert parts == workers.together(picture(), parts)


def test_the_verdict_is_otherwise_the_same() -> None:
    """One process behind a port: as without."""
    found = captured(listening=APP)
    alone = replace(found, tables={**found.tables, "sockets": found.frame(schema.SOCKETS).filter(pl.col("ino") != 77)})
    assert judge(alone).causes == judge(found).causes
