"""Records of what is to be put back: who may read and write them, and what is never believed of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from culpa.collect import undo
from culpa.errors import CulpaError

CHANGE = undo.Change(
    run_id="a" * 40, setting="latency-monitor-threshold", before="0", during="1", at_unix=1.0, host="h", port=1
)


def test_a_record_is_this_users_alone_and_held_until_its_maker_is_gone(tmp_path: Path) -> None:
    """The directory and the file; nobody else sees it as left while it is held, and it is whole when it is."""
    directory = tmp_path / "some" / "culpa"
    record = undo.write(CHANGE, directory)
    assert (0o700, 0o600) == (directory.stat().st_mode & 0o777, record.path.stat().st_mode & 0o777)
    assert [] == list(undo.left(directory))
    with pytest.raises(CulpaError, match="another culpa"):
        undo.write(CHANGE, directory)
    assert [record.path] == list(directory.iterdir())
    record.leave()
    (found,) = undo.left(directory)
    assert CHANGE == found.change
    found.discard()
    assert [] == list(directory.iterdir())


@pytest.mark.parametrize("trouble", ["link", "writable", "file", "parent"])
def test_a_directory_that_others_rule_is_not_used(tmp_path: Path, trouble: str) -> None:
    """Nothing is written to it, and nothing read from it."""
    real, directory = tmp_path / "real", tmp_path / "culpa"
    if trouble == "link":
        undo.write(CHANGE, real).leave()
        directory.symlink_to(real)
    elif trouble == "writable":
        undo.write(CHANGE, directory).leave()
        directory.chmod(0o777)
    elif trouble == "file":
        directory.write_text("")
    else:
        (tmp_path / "flat").write_text("")
        directory = tmp_path / "flat" / "culpa"
    with pytest.raises(CulpaError, match="cannot be noted"):
        undo.write(CHANGE, directory)
    assert [] == list(undo.left(directory))


def test_what_is_no_record_is_neither_believed_nor_removed(tmp_path: Path) -> None:
    """A link, a pipe, a torn text, another setting; the draft of a killed run is removed."""
    elsewhere = undo.write(CHANGE, tmp_path / "elsewhere")
    elsewhere.leave()
    directory = tmp_path / "culpa"
    directory.mkdir(mode=0o700)
    (directory / "link.undo").symlink_to(elsewhere.path)
    os.mkfifo(directory / "pipe.undo", 0o600)
    (directory / "torn.undo").write_bytes(elsewhere.path.read_bytes()[:40])
    other = elsewhere.path.read_bytes().replace(b"latency-monitor-threshold", b"requirepass")
    (directory / "other.undo").write_bytes(other)
    (directory / ".redis-x.undo.17").write_text("{")
    assert [] == list(undo.left(directory))
    assert {"link.undo", "pipe.undo", "torn.undo", "other.undo"} == {path.name for path in directory.iterdir()}


def test_a_server_without_a_name_for_its_process_is_not_changed(tmp_path: Path) -> None:
    """Nobody could tell later whether it is the same; and the name becomes a file's."""
    for run_id in ("", "../../x", "A" * 40):
        change = undo.Change(run_id=run_id, setting=CHANGE.setting, before="0", during="1", at_unix=1.0)
        with pytest.raises(CulpaError, match="run id"):
            undo.write(change, tmp_path / "culpa")
    assert not (tmp_path / "culpa").exists()


def test_root_keeps_them_where_only_root_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the environment says; others have them with the rest of their state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Path("/var/lib/culpa") == undo.state_directory()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert tmp_path / "culpa" == undo.state_directory()
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/some")
    assert Path("/home/some/.local/state/culpa") == undo.state_directory()
    monkeypatch.delenv("HOME")
    assert Path("/var/tmp/culpa-1000") == undo.state_directory()
