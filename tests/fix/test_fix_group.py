"""Limits and weights of control groups: planted trees of both versions, and a real group where one can be made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from fixing import applied, cause, fix, known, refused, undone, verdict

from culpa.diagnose.verdict import On, Who
from culpa.errors import CulpaError
from culpa.fix import run
from culpa.fix.catalogue import GROUP_FILES, HELD_TO, REMEDIES
from culpa.fix.group_hand import GroupHand
from culpa.fix.journal import Journal
from culpa.fix.parameters import GroupSetting, check
from culpa.fix.proposals import proposals

PID, START = 4711, 99
VICTIM = 815
NEIGHBOURS = "/batch.slice/backup"
V1 = {
    "cpu.cfs_quota_us": "50000\n", "cpu.shares": "1024\n", "blkio.bfq.weight": "100\n",
    "blkio.throttle.read_bps_device": "", "blkio.throttle.write_bps_device": "7:3 1048576\n",
    "blkio.throttle.read_iops_device": "7:3 50\n", "blkio.throttle.write_iops_device": "",
}  # fmt: skip
V2 = {
    "cpu.max": "50000 100000\n", "cpu.weight": "100\n", "io.bfq.weight": "default 100\n8:0 300\n",
    "io.max": "7:3 rbps=max wbps=1048576 riops=50 wiops=max\n",
}  # fmt: skip


class Tree:
    """A host in files: /proc, /sys and one control group."""

    def __init__(self, root: Path, version: int) -> None:
        self.proc, self.sys, self.version = root / "proc", root / "sys", version
        tops = {"cpu": root / "cg/cpu", "blkio": root / "cg/blkio"} if version == 1 else {"": root / "cg"}
        self.put(self.proc / "sys/kernel/random/boot_id", "b\n")
        self.put(self.proc / "uptime", "86400.00 1.00\n")
        kind = "cgroup" if version == 1 else "cgroup2"
        mounts = "".join(f"cgroup {where} {kind} rw,relatime,{name} 0 0\n" for name, where in tops.items())
        self.put(self.proc / "self/mounts", f"proc /proc proc rw 0 0\n{mounts}")
        self.put(self.sys / "class/block/loop3/dev", "7:3\n")
        self.put(self.sys / "block/loop3/queue/scheduler", "none mq-deadline [bfq]\n")
        self.groups = [top / NEIGHBOURS.lstrip("/") for top in tops.values()]
        for group in self.groups:
            for name, text in (V1 if version == 1 else V2).items():
                if version == 2 or name.partition(".")[0] == group.relative_to(root / "cg").parts[0]:
                    self.put(group / name, text)
        self.place(PID, NEIGHBOURS)
        self.place(VICTIM, "/web.slice")

    def put(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def place(self, pid: int, group: str) -> None:
        """A process, in a group."""
        stat = " ".join(["S", *["0"] * 18, str(START), "0"])
        self.put(self.proc / str(pid) / "stat", f"{pid} (backup) {stat}\n")
        lines = f"4:cpu:{group}\n3:blkio:{group}\n" if self.version == 1 else f"0::{group}\n"
        self.put(self.proc / str(pid) / "cgroup", lines)

    def contents(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for group in self.groups for path in sorted(group.iterdir())}


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def tree(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(tmp_path / "host", request.param)
    monkeypatch.setattr(run, "GroupHand", partial(GroupHand, proc_root=made.proc, sys_root=made.sys))
    return made


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "culpa")


def neighbour(setting: str, value: str, **more: object) -> GroupSetting:
    return GroupSetting(
        setting=setting, value=value, group=NEIGHBOURS, pid=PID, starttime=START, comm="backup", spares=(VICTIM,),
        **more,  # type: ignore[arg-type]  # device alone
    )  # fmt: skip


CASES = [
    ("cpu-quota-lift", GroupSetting(setting="CPU quota", value="max", group=NEIGHBOURS)),
    ("io-limit-lift", GroupSetting(setting="I/O limit", value="max", group=NEIGHBOURS, device="loop3")),
    ("neighbour-cpu-weight", neighbour("CPU weight", "10")),
    ("neighbour-io-weight", neighbour("I/O weight", "10")),
    ("neighbour-io-max", neighbour("I/O limit", "4194304", device="loop3")),
]
MEANWHILE = {
    ("cpu-quota-lift", 1): {"cpu.cfs_quota_us": "-1"},
    ("cpu-quota-lift", 2): {"cpu.max": "max 100000"},
    ("io-limit-lift", 1): {"blkio.throttle.write_bps_device": "7:3 0", "blkio.throttle.read_iops_device": "7:3 0"},
    ("io-limit-lift", 2): {"io.max": "7:3 rbps=max wbps=max riops=max wiops=max"},
    ("neighbour-cpu-weight", 1): {"cpu.shares": "102"},
    ("neighbour-cpu-weight", 2): {"cpu.weight": "10"},
    ("neighbour-io-weight", 1): {"blkio.bfq.weight": "10"},
    ("neighbour-io-weight", 2): {"io.bfq.weight": "default 10"},
    ("neighbour-io-max", 1): {
        "blkio.throttle.read_bps_device": "7:3 4194304", "blkio.throttle.write_bps_device": "7:3 4194304",
    },
    ("neighbour-io-max", 2): {"io.max": "7:3 rbps=4194304 wbps=4194304 riops=50 wiops=max"},
}  # fmt: skip


@pytest.mark.parametrize(("id", "parameters"), CASES, ids=[id for id, _ in CASES])
def test_each_is_written_as_its_version_spells_it_and_put_back(
    tree: Tree, journal: Journal, id: str, parameters: GroupSetting
) -> None:
    """Just these files change, and afterwards every file reads as before.

    A planted file holds what was written last: the lines for other disks, which a kernel keeps, are left out of the
    comparison by having none, but for the weights of single disks, which are put there again.
    """
    check(known(id), parameters)
    before = tree.contents()
    done = applied(id, parameters, journal)
    assert done.record is not None
    changed = {Path(path).name: text for path, text in tree.contents().items() if text != before[path]}
    assert MEANWHILE[id, tree.version] == {name: text.decode().strip() for name, text in changed.items()}
    assert set(done.record.before) <= GROUP_FILES
    (ended,) = undone(journal)
    assert "undone" == ended.ended, ended
    for path, text in tree.contents().items():
        assert before[path].splitlines()[:1] == text.splitlines()[:1] or text.split()[1:] == [b"0"], path


def test_a_group_that_was_removed_took_the_setting_with_it(tree: Tree, journal: Journal) -> None:
    """Another one of the same name is another one."""
    applied(*CASES[0], journal)
    group = tree.groups[0]
    group.rename(group.with_name("old"))
    group.mkdir()
    assert ["gone"] == [one.ended for one in undone(journal)]


def test_what_others_set_since_stays(tree: Tree, journal: Journal) -> None:
    """Unless it is to be put back anyway."""
    applied(*CASES[2], journal)
    name = "cpu.shares" if tree.version == 1 else "cpu.weight"
    (path,) = (group / name for group in tree.groups if (group / name).exists())
    path.write_text("777\n")
    assert ["changed"] == [one.ended for one in undone(journal)]
    assert ["undone"] == [one.ended for one in undone(journal, anyway=True)]


def test_a_neighbour_is_held_only_in_a_group_without_the_victim(tree: Tree, journal: Journal) -> None:
    """Nor if it left the group, ended, or the group is that of all."""
    tree.place(VICTIM, f"{NEIGHBOURS}/inner")
    assert f"process {VICTIM}, which is to get more" in refused(*CASES[2], journal)
    tree.place(VICTIM, "/web.slice")
    tree.place(PID, "/elsewhere")
    assert f"process {PID} is not in" in refused(*CASES[2], journal)
    tree.place(PID, NEIGHBOURS)
    ended = GroupSetting(setting="CPU weight", value="10", group=NEIGHBOURS, pid=PID, starttime=START + 1)
    assert "has ended" in refused("neighbour-cpu-weight", ended, journal)
    assert not journal.found().open


def test_a_weight_that_nothing_heeds_is_told(tree: Tree, journal: Journal) -> None:
    """Neither bfq nor io.cost."""
    tree.put(tree.sys / "block/loop3/queue/scheduler", "[none] mq-deadline bfq\n")
    assert "heeds weights" in refused(*CASES[3], journal)


@pytest.mark.parametrize(
    ("group", "device"),
    [("relative", ""), ("/a/../b", ""), ("/a//b", ""), ("/a\nb", ""), ("/" + "a" * 5000, ""), ("/a", "loop3")],
)
def test_what_is_no_group_is_refused(group: str, device: str) -> None:
    """Nor does a quota have a disk."""
    with pytest.raises(CulpaError, match="refused"):
        check(known("cpu-quota-lift"), GroupSetting(setting="CPU quota", value="max", group=group, device=device))


def test_causes_that_name_a_group_propose_it() -> None:
    """The limit's own group, and the neighbour's; not where a neighbour has none of its own."""
    quota = msgspec.structs.replace(
        cause(fix("cpu-raise-quota", change="raise it"), id="cpu.cgroup-quota"), on=On(path="/sys/fs/cgroup/cpu/a")
    )
    words, lifted = proposals(verdict(quota))
    assert (None, "raise it") == (words.parameters, words.change)
    assert GroupSetting(setting="CPU quota", value="max", group="/sys/fs/cgroup/cpu/a") == lifted.parameters
    who = Who(pid=PID, starttime=START, comm="backup", cgroup=NEIGHBOURS)
    behind = msgspec.structs.replace(
        cause(fix("neighbour-io-limit", change="hold it"), id="disk.neighbour", who=who), on=On(device="loop3")
    )
    found = {one.id: one.parameters for one in proposals(verdict(behind))}
    assert {"neighbour-io-limit", "neighbour-ionice", "neighbour-io-weight", "neighbour-io-max"} == set(found)
    held = found["neighbour-io-max"]
    assert isinstance(held, GroupSetting)
    assert (HELD_TO["neighbour-io-max"], "loop3", PID) == (held.value, held.device, held.pid)
    alone = msgspec.structs.replace(behind, who=msgspec.structs.replace(who, cgroup="/"))
    assert {"neighbour-io-limit", "neighbour-ionice"} == {one.id for one in proposals(verdict(alone))}


def test_every_fix_of_a_group_is_derived_from_a_cause() -> None:
    """No rule names one by itself."""
    assert all(one.derived_from for one in REMEDIES if one.kind == "group")


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A group of this host with a CPU quota."""
    top = Path("/sys/fs/cgroup/cpu")
    if os.geteuid() != 0 or not (top / "cpu.cfs_quota_us").exists():
        pytest.skip("no version 1 CPU controller that this user may use: NOT TESTED on a real group")
    group = top / f"culpa-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("30000")
        yield group
    finally:
        group.rmdir()


@pytest.mark.root
def test_a_real_quota_is_lifted_and_put_back(real_group: Path, journal: Journal) -> None:
    """By the kernel's own files."""
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares")
    before = {name: (real_group / name).read_bytes() for name in names}
    applied("cpu-quota-lift", GroupSetting(setting="CPU quota", value="max", group=str(real_group)), journal)
    assert b"-1\n" == (real_group / "cpu.cfs_quota_us").read_bytes()
    assert ["undone"] == [one.ended for one in undone(journal)]
    assert before == {name: (real_group / name).read_bytes() for name in names}
