"""Settings of the kernel: the real files, put back to the byte, in the form that held before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixing import (
    CONNECTS,
    DIRTY,
    VM,
    applied,
    as_json,
    cause,
    culpa,
    fix,
    kernel_setting,
    needs_sysctl,
    refused,
    undone,
    vm,
    written,
)  # fmt: skip

from culpa.fix import run
from culpa.fix.hands import Refused
from culpa.fix.journal import Journal
from culpa.fix.kernel_hand import KernelHand
from culpa.fix.processes import booted_unix

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MUCH = str(4 << 30)
"""Bytes of unwritten data: more than the shares that hosts have, so that no other program waits because of a test."""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "culpa")


@pytest.fixture
def limits() -> Iterator[None]:
    """However a test ends, the limits on unwritten data are as they were before."""
    before = vm()
    try:
        yield
    finally:
        for name in DIRTY:
            if before[name].strip() != b"0":
                (VM / name).write_bytes(before[name])
        (VM / "swappiness").write_bytes(before["swappiness"])
        assert before == vm()


@needs_sysctl
@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("form", ["bytes", "ratio"])
@pytest.mark.parametrize("limit", ["dirty", "dirty_background"])
def test_the_form_that_held_is_the_one_that_is_put_back(journal: Journal, limit: str, form: str) -> None:
    """Setting bytes sets the share to 0, and the other way round: a share that held is a share again."""
    fix_id = "dirty-background" if limit == "dirty_background" else "dirty-limits"
    (VM / f"{limit}_{form}").write_text(MUCH if form == "bytes" else "37")
    before = vm()
    for other, value in (("bytes", str(3 << 30)), ("ratio", "41")):
        done = applied(fix_id, kernel_setting(f"vm.{limit}_{other}", value), journal)
        assert done.record is not None
        assert value == (VM / f"{limit}_{other}").read_text().strip()
        assert "0\n" == (VM / f"{limit}_{'ratio' if other == 'bytes' else 'bytes'}").read_text()
        (ended,) = undone(journal)
        assert "undone" == ended.ended, ended
        assert before == vm()


@needs_sysctl
@pytest.mark.usefixtures("limits")
def test_a_share_of_nothing_is_put_back_as_well(journal: Journal) -> None:
    """0 percent and no bytes: the kernel takes it, but keeps the bytes if a share of 0 is written to it again."""
    (VM / "dirty_background_ratio").write_text("0")
    before = vm()
    assert b"0\n" == before["dirty_background_bytes"] == before["dirty_background_ratio"]
    applied("dirty-background", kernel_setting("vm.dirty_background_bytes", MUCH), journal)
    assert ["undone"] == [one.ended for one in undone(journal)]
    assert before == vm()


@needs_sysctl
@pytest.mark.usefixtures("limits")
def test_two_forms_of_one_limit_are_one_setting(journal: Journal) -> None:
    """A second fix of it would lose what was there before the first."""
    applied("dirty-background", kernel_setting("vm.dirty_background_bytes", MUCH), journal)
    told = refused("dirty-background", kernel_setting("vm.dirty_background_ratio", "41"), journal)
    assert "the fix f1 (dirty-background) of vm.dirty_background_bytes of this host is in place" in told
    assert "culpa fix --undo f1" in told
    applied("dirty-limits", kernel_setting("vm.dirty_ratio", "41"), journal)
    assert ["undone", "undone"] == [one.ended for one in undone(journal)]


@needs_sysctl
@pytest.mark.usefixtures("limits")
def test_what_somebody_else_has_set_since_is_asked_about(journal: Journal) -> None:
    """Nothing is changed, the way out is said; then by hand, anyway, or not at all."""
    before = (VM / "swappiness").read_text()
    applied("swappiness-low", kernel_setting("vm.swappiness", "1"), journal)
    (VM / "swappiness").write_text("17")
    (ended,) = undone(journal)
    assert "changed" == ended.ended
    assert "somebody else has set vm.swappiness of this host since: vm.swappiness is '17'" in ended.sentence
    assert (f"sysctl -w vm.swappiness={before.strip()}",) == ended.by_hand
    assert "17\n" == (VM / "swappiness").read_text()
    assert ["undone"] == [one.ended for one in undone(journal, anyway=True)]
    assert before == (VM / "swappiness").read_text()
    applied("swappiness-low", kernel_setting("vm.swappiness", "1"), journal)
    assert ["kept"] == [one.ended for one in undone(journal, keep=True)]
    assert "1\n" == (VM / "swappiness").read_text()


@needs_sysctl
@pytest.mark.usefixtures("limits")
def test_what_was_put_back_by_hand_is_done_with(journal: Journal) -> None:
    """By the very line that the preview gives."""
    before = vm()
    done = applied("dirty-background", kernel_setting("vm.dirty_background_bytes", MUCH), journal)
    for line in done.undo:
        subprocess.run(line.split(), check=True, capture_output=True)
    assert before == vm()
    assert ["as-before"] == [one.ended for one in undone(journal)]


@needs_sysctl
@pytest.mark.usefixtures("limits")
def test_what_is_so_already_is_not_noted(journal: Journal) -> None:
    """And there is nothing to undo."""
    (VM / "swappiness").write_text("1")
    assert applied("swappiness-low", kernel_setting("vm.swappiness", "1"), journal).record is None
    assert [] == undone(journal)


def test_huge_pages_are_read_and_put_back(journal: Journal) -> None:
    """Of the words in the file the one in brackets holds."""
    if not os.access(THP, os.W_OK):
        pytest.skip(f"{THP} cannot be written here: NOT TESTED with huge pages")
    before = THP.read_bytes()
    try:
        wanted = "never" if b"[never]" not in before else "madvise"
        applied("redis-no-thp", kernel_setting("transparent_hugepage/enabled", wanted), journal)
        assert f"[{wanted}]".encode() in THP.read_bytes()
        assert ["undone"] == [one.ended for one in undone(journal)]
        assert before == THP.read_bytes()
    finally:
        THP.write_bytes(before.partition(b"[")[2].partition(b"]")[0])


@needs_sysctl
@pytest.mark.usefixtures("limits")
def test_a_boot_ends_what_was_set_and_its_record(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record says so, with what holds now; nothing is written."""
    applied("swappiness-low", kernel_setting("vm.swappiness", "1"), journal)
    monkeypatch.setattr("culpa.fix.kernel_hand.boot_id", lambda _: "another")
    (ended,) = undone(journal)
    assert "gone" == ended.ended
    assert "booted anew since, and what was set is gone with that; now vm.swappiness is 1" in ended.sentence
    assert () == journal.found().open


def test_a_verdict_from_before_the_boot_is_not_for_this_one() -> None:
    """What it saw is gone."""
    hand = KernelHand(kernel_setting("vm.swappiness", "1"))
    assert "booted anew" in (hand.stale(booted_unix() - 60) or "")
    assert hand.stale(time.time()) is None


@pytest.mark.parametrize("name", ["kernel.core_pattern", "vm.swappiness/../x", "transparent_hugepage/../../x"])
def test_no_other_file_is_ever_opened(name: str) -> None:
    """Not even to read it."""
    with pytest.raises(Refused, match="no setting that culpa changes"):
        KernelHand(kernel_setting(name, "1"))


def test_files_that_cannot_be_written_are_said_beforehand(tmp_path: Path) -> None:
    """Read-only as in a container, or not there on this kernel: the sentence names the file and the way out."""
    hand = KernelHand(kernel_setting("vm.swappiness", "1"), proc_root=tmp_path)
    assert f"this kernel has no {tmp_path}/sys/vm/swappiness" == hand.obstacle()


READ_ONLY = """
import subprocess, sys
mounted = subprocess.run(["mount", "-o", "bind,ro", "/proc/sys", "/proc/sys"], stderr=subprocess.PIPE)
if mounted.returncode:
    print("cannot:", mounted.stderr)
    raise SystemExit
from culpa.fix.kernel_hand import KernelHand
from culpa.fix.parameters import KernelSetting
from culpa.fix.hands import Refused
hand = KernelHand(KernelSetting(setting="vm.swappiness", value="1"))
print(hand.obstacle())
try:
    hand.write({"vm.swappiness": "1"})
except Refused as error:
    print(error)
"""


@needs_sysctl
def test_a_read_only_proc_sys_is_told_as_such() -> None:
    """In a mount namespace of its own."""
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", READ_ONLY], capture_output=True, text=True, check=False
    )
    if done.returncode or done.stdout.startswith("cannot"):
        pytest.skip(f"no mount namespace here: NOT TESTED with a read-only /proc/sys: {done.stdout}{done.stderr}")
    first, second = done.stdout.splitlines()
    assert "/proc/sys/vm/swappiness is read-only here, as in a container: set it on the host itself" == first
    assert "the kernel refuses '1' for /proc/sys/vm/swappiness: read-only file system" == second


@needs_sysctl
@pytest.mark.usefixtures("limits")
def test_the_whole_way_on_the_command_line(tmp_path: Path) -> None:
    """List, preview, apply, list again, log, undo, log; nothing is changed before --apply."""
    state = tmp_path / "culpa"
    (VM / "swappiness").write_text("60")
    file = written(tmp_path / "v.json", cause(fix("swappiness-low", "sysctl", "-w", "vm.swappiness=1"), id="mem.swap"))
    (listed,) = as_json(state, "--from", file)["fixes"]
    assert ("can", {"vm.swappiness": "60"}, ["sysctl -w vm.swappiness=60"]) == (
        listed["state"], listed["before"], listed["undo"],
    )  # fmt: skip
    page = culpa(state, "fix", "swappiness-low", "--from", file)[0]
    assert "Nothing was changed. To apply it: culpa fix swappiness-low --apply" in page
    assert "60\n" == (VM / "swappiness").read_text()
    assert not state.exists()
    page = culpa(state, "fix", "swappiness-low", "--from", file, "--apply")[0]
    assert page.startswith("swappiness-low is in place as f1.\n")
    assert "1\n" == (VM / "swappiness").read_text()
    assert ["f1"] == [one["id"] for one in as_json(state, "--from", file)["open"]]
    assert "f1  is in place since" in culpa(state, "fix", "--from", file)[0]
    assert "swappiness-low on vm.swappiness of this host, since" in culpa(state, "doctor")[0]
    assert ["undone"] == [one["ended"] for one in as_json(state, "--undo", "swappiness-low")["records"]]
    assert "60\n" == (VM / "swappiness").read_text()
    assert "fixes in place: none" in culpa(state, "doctor")[0]
    assert [("f1", "undone")] == [(one["id"], one["outcome"]) for one in as_json(state, "--log")["records"]]
    assert "swappiness-low: taken back at" in culpa(state, "fix", "--log")[0]


def test_a_look_never_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it finds."""
    monkeypatch.setattr(KernelHand, "write", lambda *_: pytest.fail("it wrote"))
    found = run.look(kernel_setting("vm.swappiness", "1"), time.time(), CONNECTS)
    assert found.before is not None
