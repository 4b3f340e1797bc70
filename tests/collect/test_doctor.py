"""The doctor tells what is there, and for each thing that is missing the way to get it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest
from living import descriptors

from culpa.collect.doctor import Check, checks
from culpa.errors import CulpaError


def by_name(found: tuple[Check, ...]) -> dict[str, Check]:
    """Checks by name."""
    return {check.name: check for check in found}


def test_every_missing_thing_has_a_way_out() -> None:
    """And nothing that is there has one."""
    found = checks()
    assert len(found) == len(by_name(found))
    for check in found:
        assert bool(check.way_out) == (check.state == "missing")
        assert check.meaning
        assert check.found
    assert msgspec.json.decode(msgspec.json.encode(found), type=tuple[Check, ...]) == found


def test_against_this_host() -> None:
    """Facts that can be had another way."""
    found = by_name(checks())
    assert os.uname().release in found["kernel"].found
    assert Path("/sys/kernel/btf/vmlinux").exists() == (found["BTF"].state == "ok")
    assert (os.geteuid() == 0) <= (found["privilege"].state == "ok")
    if shutil.which("redis-server"):
        assert "ok" == found["redis-server"].state


def test_a_bare_host(tmp_path: Path) -> None:
    """With an empty /proc and /sys nothing is claimed; without /proc nothing can be said, in a sentence."""
    with pytest.raises(CulpaError, match=r"not mounted; mount -t proc"):
        checks(tmp_path, tmp_path)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "stat").write_text("1 (x) R 0\n")
    found = by_name(checks(tmp_path, tmp_path))
    for name in (
        "privilege",
        "host pid namespace",
        "BTF",
        "system calls in /proc",
        "pressure (PSI)",
        "delay accounting",
    ):
        assert "missing" == found[name].state


def test_nothing_is_left_behind() -> None:
    """Loading the trace programs to see whether they load leaves no descriptor open."""
    before = descriptors()
    checks()
    assert before == set(os.listdir("/proc/self/fd"))  # noqa: PTH208
