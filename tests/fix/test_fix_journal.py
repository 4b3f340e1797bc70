"""Records of fixes: on disk before a change, whole or not at all, and believed only where nobody else can write."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from fixing import needs_root

from culpa.errors import CulpaError
from culpa.fix.hands import Identity
from culpa.fix.journal import KEPT, Journal, Record
from culpa.fix.parameters import KernelSetting, ProcessSetting

RECORD = Record(
    id="f0", fix="swappiness-low", cause="mem.swap", parameters=KernelSetting(setting="vm.swappiness", value="1"),
    identity=Identity(boot_id="b"), before={"vm.swappiness": "60"}, during={"vm.swappiness": "1"}, at_unix=1.0,
)  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "culpa")
    with made.locked("any"):
        pass
    return made


def plant(journal: Journal, name: str, record: Record = RECORD) -> Path:
    path = journal.directory / name
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, id=name.partition(".")[0])))
    path.chmod(0o600)
    return path


def test_a_record_is_there_for_this_user_alone_until_it_is_closed(journal: Journal) -> None:
    """Then it is history; ids are never given out twice."""
    made = journal.create(RECORD)
    assert "f1" == made.id
    path = journal.directory / "f1.open"
    assert (0o700, 0o600) == (journal.directory.stat().st_mode & 0o777, path.stat().st_mode & 0o777)
    assert ((made,), (), ()) == (journal.found().open, journal.found().closed, journal.found().strange)
    assert not journal.close(made, "undone", "it is 60 again")
    found = journal.found()
    assert () == found.open
    assert [("f1", "undone", "it is 60 again")] == [(one.id, one.outcome, one.note) for one in found.closed]
    assert "f2" == journal.create(RECORD).id


def test_where_nothing_was_applied_there_is_nothing(tmp_path: Path) -> None:
    """And looking makes no directory."""
    found = Journal(tmp_path / "none").found()
    assert ((), (), ()) == (found.open, found.closed, found.strange)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("trouble", ["link", "state link", "writable", "state writable", "file"])
def test_a_directory_that_others_rule_is_not_used(tmp_path: Path, trouble: str) -> None:
    """Nothing is written to it, and nothing read from it."""
    state, journal = tmp_path / "culpa", Journal(tmp_path / "culpa")
    real = Journal(tmp_path / "real")
    with real.locked("any"):
        plant(real, "f1.open")
    if trouble == "state link":
        state.symlink_to(tmp_path / "real")
    else:
        state.mkdir(mode=0o700)
        if trouble == "file":
            (state / "fixes").write_text("")
        elif trouble == "link":
            (state / "fixes").symlink_to(real.directory)
        else:
            (state / "fixes").mkdir()
            (state if trouble == "state writable" else state / "fixes").chmod(0o777)
    with pytest.raises(CulpaError, match=r"cannot be noted in .* nothing was changed"), journal.locked("any"):
        journal.create(RECORD)
    with pytest.raises(CulpaError, match="cannot be noted"):
        journal.found()
    assert ["f1.open", "targets"] == sorted(path.name for path in real.directory.iterdir())


@needs_root
def test_a_directory_or_record_of_another_owner_is_not_believed(journal: Journal) -> None:
    """Whoever owns it could write what he likes."""
    os.chown(plant(journal, "f1.open"), 65534, 65534)
    found = journal.found()
    assert () == found.open
    assert ["f1.open is not believed: it is no file of this user alone"] == [
        one.rpartition("/")[2] for one in found.strange
    ]
    os.chown(journal.directory, 65534, 65534)
    with pytest.raises(CulpaError, match="others can write there"):
        journal.found()


def test_what_is_no_record_of_culpa_is_neither_believed_nor_removed(journal: Journal, tmp_path: Path) -> None:
    """A link, a pipe, a torn text, a huge file, names and values that culpa does not note."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(msgspec.json.encode(msgspec.structs.replace(RECORD, id="f1")))
    (journal.directory / "f1.open").symlink_to(elsewhere)
    os.mkfifo(journal.directory / "f2.open")
    (journal.directory / "f3.open").write_text('{"id": "f3"')
    with (journal.directory / "f4.open").open("wb") as file:
        file.truncate(2 << 20)
    plant(journal, "f5.open").chmod(0o666)
    bad = {
        "f6": {"before": {"kernel.core_pattern": "|/tmp/x"}},
        "f7": {"parameters": KernelSetting(setting="kernel.panic", value="1")},
        "f8": {"before": {"vm.swappiness": "60\n"}},
        "f9": {"before": {"vm.swappiness": "6" * 201}},
        "f10": {"before": {}},
        "f11": {"outcome": "undone"},
        "f12": {"parameters": ProcessSetting(setting="CPUs", value="0", pid=1, starttime=1), "before": {"1@1": "0"}},
        "f13": {"parameters": ProcessSetting(setting="CPUs", value="0", pid=9, starttime=1), "before": {"../1": "0"}},
    }
    for name, parts in bad.items():
        plant(journal, f"{name}.open", msgspec.structs.replace(RECORD, **parts))
    plant(journal, "f14.open").rename(journal.directory / "f15.open")
    deep = '{"id":' * 3000
    (journal.directory / "f16.open").write_text(deep)
    found = journal.found()
    assert ((), ()) == (found.open, found.closed)
    assert 15 == len(found.strange)
    assert all("is not believed" in one and "\n" not in one for one in found.strange)
    assert 15 == len(list(journal.directory.glob("*.open")))


def test_one_culpa_at_a_time_has_a_target(journal: Journal) -> None:
    """Another process is told so at once; another target is free; and a killed one holds nothing."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom culpa.fix.journal import Journal\n"
        "with Journal(Path(sys.argv[1])).locked('redis a'): print(flush=True); time.sleep(60)"
    )
    state = journal.directory.parent
    with subprocess.Popen([sys.executable, "-c", script, str(state)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(CulpaError, match="another culpa is at work on it; wait"), journal.locked("redis a"):
            pass
        with journal.locked("redis b"):
            pass
        other.kill()
        other.wait()
        with journal.locked("redis a"):
            pass


def test_a_full_disk_leaves_no_half_record(journal: Journal) -> None:
    """The limit on the size of a file stands in for it here: the error is another one, the way is the same."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(CulpaError, match="nothing was changed; make room"):
            journal.create(RECORD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ["targets"] == [path.name for path in journal.directory.iterdir()]


@needs_root
def test_a_disk_without_room_refuses_the_record_and_still_closes_one(tmp_path: Path) -> None:
    """A tmpfs of a few pages: no new record, but an old one can be done with; only its history is lost."""
    place = tmp_path / "small"
    place.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "culpa-test", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: NOT TESTED on a full disk: {mounted.stderr!r}")
    try:
        journal = Journal(place)
        with journal.locked("any"):
            made = journal.create(RECORD)
        filler = (place / "filler").open("wb", buffering=0)
        with filler, pytest.raises(OSError, match="No space"):
            filler.writelines(bytes(4096) for _ in range(100))
        with pytest.raises(CulpaError, match="no space left on device; nothing was changed; make room"):
            journal.create(RECORD)
        assert "no space left" in journal.close(made, "undone", "")
        assert ((), ()) == (journal.found().open, journal.found().closed)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_culpa_killed_while_it_closes_leaves_a_closed_record(journal: Journal) -> None:
    """The history was written before the open one was removed: it counts, and the next one to close tidies up."""
    made = journal.create(RECORD)
    opened = (journal.directory / "f1.open").read_bytes()
    journal.close(made, "undone", "")
    (journal.directory / "f1.open").write_bytes(opened)
    (journal.directory / "f1.open").chmod(0o600)
    assert () == journal.found().open
    journal.close(journal.create(RECORD), "undone", "")
    assert ["f1.closed", "f2.closed", "targets"] == sorted(path.name for path in journal.directory.iterdir())


def test_drafts_of_the_dead_go_and_the_history_is_bounded(journal: Journal) -> None:
    """The newest are kept; a draft of now may have a living writer."""
    for number in range(1, KEPT + 6):
        plant(journal, f"f{number}.closed", msgspec.structs.replace(RECORD, outcome="undone"))
    for name, age in ((".f1.99", 7200), (".f2.98", 0)):
        (journal.directory / name).write_text("{")
        os.utime(journal.directory / name, (time.time() - age,) * 2)
    journal.close(journal.create(RECORD), "undone", "")
    names = {path.name for path in journal.directory.iterdir()}
    assert KEPT == len([name for name in names if name.endswith(".closed")])
    assert f"f{KEPT + 6}.closed" in names
    assert not {".f1.99", "f1.closed", "f6.closed"} & names
    assert ".f2.98" in names
