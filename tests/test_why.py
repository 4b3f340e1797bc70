"""Whole runs of `culpa why` on programs made for the occasion: the truth is what they were made to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import every, needs_tracing, why


@pytest.mark.trace
@needs_tracing
def test_a_script_that_waits_for_its_children_is_explained_by_what_they_do(tmp_path: Path) -> None:
    """A shell waits for sleep(1): the sleep is named, through wait4, and as long as the shell's own clock says."""
    clock = f"date +%s.%N >> {tmp_path}/clock"
    verdict = why("--", "sh", "-c", f"{clock}; sleep 0.8; {clock}")
    head = verdict["causes"][0]
    began, ended = map(float, (tmp_path / "clock").read_text().split())

    assert ("sleep.by-choice", "sleep") == (head["id"], head["who"]["comm"])
    # The timer runs a little before the CPU is given up.
    assert 0.799 <= head["share"] * verdict["root"]["seconds"] <= ended - began


@pytest.mark.trace
@needs_tracing
def test_a_command_that_syncs_is_named_with_its_file_and_the_number_of_calls(tmp_path: Path) -> None:
    """40 records, each written and synced."""
    file = tmp_path / "a ledger.txt"
    begin = f"import os\nf = os.open({str(file)!r}, os.O_CREAT | os.O_WRONLY)\n"
    code = begin + "for _ in range(40): os.write(f, b'x'); os.fdatasync(f)"
    verdict = why("--", sys.executable, "-c", code)
    cause = next(cause for cause in verdict["causes"] if cause["id"] == "disk.fsync-heavy")

    assert str(file) == cause["on"]["path"]
    assert "fdatasync: 40 calls" in cause["evidence"][0]["fact"]


@pytest.mark.trace
@needs_tracing
def test_a_script_that_syncs_through_many_processes_is_one_habit(tmp_path: Path) -> None:
    """40 processes sync the same file once each: one cause, one branch of the tree."""
    file = tmp_path / "shared"
    each = f"dd if=/dev/zero of={file} bs=512 count=1 conv=fdatasync,notrunc status=none"
    verdict = why("--", "sh", "-c", f"for i in $(seq 40); do {each}; done")
    synced = [node for node in every(verdict["blame"]) if node["kind"] == "fsync"]

    assert [str(file)] == [node["on"]["path"] for node in synced]
    assert 1 == [cause["id"] for cause in verdict["causes"]].count("disk.fsync-heavy")


@pytest.mark.trace
@needs_tracing
def test_a_busy_command_is_named_as_computing() -> None:
    """Arithmetic; nothing is waited for."""
    code = "for number in range(20_000_000): number * number"
    verdict = why("--", "nice", "-n", "-15", sys.executable, "-c", code)

    assert "cpu.busy" == verdict["causes"][0]["id"]


@pytest.mark.trace
@needs_tracing
def test_an_idle_process_is_not_blamed() -> None:
    """A process that waits for work all the time: nothing to blame, and it is not called slow."""
    read, write = os.pipe()
    with subprocess.Popen(["cat"], stdin=read, stdout=subprocess.DEVNULL) as idle:
        verdict = why(str(idle.pid), "--for", "1s")
        os.close(write)
        os.close(read)
        idle.terminate()

    assert [] == [cause for cause in verdict["causes"] if cause["level"] != "note"]
    assert "slow" != verdict["state"]
