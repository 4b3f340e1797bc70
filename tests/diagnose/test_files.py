"""What rules say of programs that write temporary files or logs, on scenes whose calls are counted by hand."""

from __future__ import annotations

import polars as pl
import pytest
from scene import APP, MS, US, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict

OPENAT, READ, WRITE, CLOSE, UNLINK, RENAME = 257, 0, 1, 3, 87, 82
CREATE, APPEND = 0o1101, 0o2101
THROTTLED = 9
BESIDE = 501
CHURN, FLOOD = "app.files.temp-churn", "app.log.flood"


class Disk:
    """The service's calls on files: each takes some microseconds, a throttled write as long as it is told to."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.ino = 100
        scene.add(schema.STACKS, stack_id=THROTTLED, frames=["schedule", "balance_dirty_pages", "ext4_file_write_iter"])

    def call(self, nr: int, *, ino: int | None, ret: int, arg2: int = 0, wait_ns: int = 0) -> None:
        scene, length = self.scene, 10 * US + wait_ns
        if wait_ns:
            off = scene.now + 2 * US
            scene.sleep(APP, off, off + wait_ns, off + wait_ns + US, state=2, stack=THROTTLED)
        scene.add(
            schema.SYSCALLS, enter_ns=scene.now, exit_ns=scene.now + length, tid=APP, pid=APP, nr=nr, ret=ret,
            arg0=3, arg1=0, arg2=arg2, dev=None if ino is None else 5, ino=ino,
            file_type=None if ino is None else "reg",
        )  # fmt: skip
        scene.now += length

    def create(self, path: str, flags: int = CREATE) -> int:
        """Open a new file."""
        self.ino += 1
        self.scene.add(schema.FILES, dev=5, ino=self.ino, path=path)
        self.call(OPENAT, ino=self.ino, ret=3, arg2=flags)
        return self.ino

    def write(self, ino: int, size: int, wait_ns: int = 0) -> None:
        self.call(WRITE, ino=ino, ret=size, wait_ns=wait_ns)

    def read_back(self, ino: int, size: int) -> None:
        self.call(OPENAT, ino=ino, ret=3)
        self.call(READ, ino=ino, ret=size)


def churning(files: int, *, wait_ns: int = MS, read: bool = True, end: int = UNLINK) -> Scene:
    """A request that makes files of 1000 bytes in a directory of its own, reads them, and deletes or renames them."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    disk = Disk(scene)
    made = [disk.create(f"/tmp/9046db9e-fe25-11e8-b13f-0242ac110002/{number}.txt") for number in range(files)]
    for ino in made:
        disk.write(ino, 1000, wait_ns)
    for ino in made if read else []:
        disk.read_back(ino, 1000)
    for _ in made if end else []:
        disk.call(end, ino=None, ret=0)
    scene.answer()
    return scene


def logging(
    records: int, size: int, *, path: str = "/srv/app/out", flags: int = APPEND, wait_ns: int = 5 * MS
) -> Scene:
    """A request that writes records to one file."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    disk = Disk(scene)
    ino = disk.create(path, flags)
    for _ in range(records):
        disk.write(ino, size, wait_ns)
    scene.answer()
    return scene


def named(verdict: Verdict) -> list[str]:
    """Ids of the heads above a note."""
    return [cause.id for cause in verdict.causes if cause.level != "note"]


def notes(verdict: Verdict) -> list[str]:
    """Ids of the notes, those under a head as well."""
    every = [one for cause in verdict.causes for one in (cause, *cause.because)]
    return [cause.id for cause in every if cause.level == "note"]


def only(verdict: Verdict) -> Cause:
    (cause,) = verdict.causes
    return cause


def facts(cause: Cause) -> dict[str, object]:
    return {evidence.fact: evidence.value for evidence in cause.evidence}


def test_files_written_read_and_deleted_are_counted_and_named_by_their_pattern() -> None:
    """40 files of 1000 bytes, each waited for a millisecond, in a directory that is a uuid."""
    found = only(judge(churning(40).capture()))
    said = facts(found)

    assert (CHURN, "critical", APP) == (found.id, found.level, found.who.pid if found.who else None)
    assert "/tmp/<uuid>/*.txt" == (found.on.path if found.on else None)
    assert 40_000 == said["written a request: 40 files"] == said["read back a request: 40 files"]
    assert 40 == said["deleted a request"]
    assert 0.040 == pytest.approx(said["of it, waiting"], rel=0.01)
    assert 0.040 == pytest.approx(said["of the waiting, until dirty pages were written back"], rel=0.01)


def test_temporary_files_that_nobody_waits_for_are_a_note() -> None:
    """The page cache takes them: the disk may be busy, the request is not held up."""
    verdict = judge(churning(40, wait_ns=0).capture())

    assert [] == named(verdict)
    assert CHURN in notes(verdict)


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param(lambda: churning(40, end=RENAME), id="saved by renaming"),
        pytest.param(lambda: churning(40, end=0), id="kept"),
        pytest.param(lambda: churning(5), id="five files"),
        pytest.param(lambda: churning(40, end=RENAME, read=False), id="saved and not read"),
    ],
)
def test_files_that_stay_or_are_few_are_no_churn(scene: object) -> None:
    """What is renamed was made to stay; what is not deleted is no temporary file; five files are no habit."""
    assert callable(scene)
    verdict = judge(scene().capture())
    assert CHURN not in named(verdict) + notes(verdict)


def test_a_request_that_is_still_writing_is_named_with_less_confidence() -> None:
    """Nothing is deleted yet, but the files lie in a place for temporary ones and the request goes on."""
    scene = churning(40, read=False, end=0)
    scene.probes[-1] = (scene.probes[-1][0], 0)
    found = only(judge(scene.capture()))

    assert CHURN == found.id
    assert found.confidence < only(judge(churning(40).capture())).confidence
    assert 0 == facts(found)["deleted so far"]


def test_a_large_record_in_a_file_opened_for_appending_is_a_flood() -> None:
    """Three records of 2 MB."""
    found = only(judge(logging(3, 2_000_000).capture()))

    assert (FLOOD, "critical", APP) == (found.id, found.level, found.who.pid if found.who else None)
    assert "/srv/app/out" == (found.on.path if found.on else None)
    assert 2_000_000 == facts(found)["largest of 3 records a request"]


def test_records_by_the_hundred_are_a_flood() -> None:
    """200 records of 10 kB."""
    assert [FLOOD] == named(judge(logging(200, 10_000).capture()))


@pytest.mark.parametrize(
    ("path", "flags"), [("/var/log/app.log", CREATE), ("/srv/logs/today", CREATE), ("/srv/app/out", APPEND)]
)
def test_a_log_is_known_by_how_it_is_opened_or_by_its_name(path: str, flags: int) -> None:
    """Either suffices."""
    assert [FLOOD] == named(judge(logging(3, 2_000_000, path=path, flags=flags).capture()))


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param(lambda: logging(3, 200), id="usual records"),
        pytest.param(lambda: logging(90, 2000), id="many small ones"),
        pytest.param(lambda: logging(3, 2_000_000, path="/srv/export/a.bin", flags=CREATE), id="not a log"),
    ],
)
def test_other_writing_is_no_flood(scene: object) -> None:
    """Whatever else is slow about it."""
    assert callable(scene)
    verdict = judge(scene().capture())
    assert FLOOD not in named(verdict) + notes(verdict)


def test_a_loud_log_that_nobody_waits_for_is_a_note() -> None:
    """Records of 2 MB that the page cache takes."""
    verdict = judge(logging(3, 2_000_000, wait_ns=0).capture())

    assert [] == named(verdict)
    assert FLOOD in notes(verdict)


def test_a_file_that_was_open_for_appending_before_the_window_is_a_log() -> None:
    """No call says how it was opened; its open flags were read at the end."""
    scene = logging(3, 2_000_000, flags=CREATE)
    before = judge(scene.capture())
    scene.rows["files"]["append"] = [path == "/srv/app/out" or None for path in scene.rows["files"]["path"]]

    assert FLOOD not in named(before) + notes(before)
    assert [FLOOD] == named(judge(scene.capture()))


@pytest.mark.parametrize(
    ("caught", "change"),
    [
        ("INT USR1 TERM", f"kill -USR1 {APP}"),
        ("HUP TERM", f"kill -HUP {APP}"),
        ("INT TERM", "configuration and restart"),
        (None, "configuration and restart"),
        (" ".join(["HUP", "USR1"] + [f"S{n}" for n in range(20)]), "configuration and restart"),
    ],
)
def test_the_remedy_is_the_one_that_the_process_offers(caught: str | None, change: str) -> None:
    """A signal that it handles for such ends; a run-time library that handles them all says nothing."""
    capture = logging(3, 2_000_000).capture()
    processes = capture.frame(schema.PROCESSES).with_columns(caught=pl.lit(caught, pl.String))
    found = only(judge(Capture(manifest=capture.manifest, tables=capture.tables | {"processes": processes})))

    assert change in (found.fixes[0].change or "")


def test_a_rotated_log_is_one_log() -> None:
    """Renamed and made anew by the process: the parts count together, and the rotations are told."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    disk = Disk(scene)
    for part in range(3):
        ino = disk.create("/srv/app/data.txt" if part == 2 else f"/srv/app/data.txt.{2 - part}", CREATE)
        disk.write(ino, 2_000_000, 5 * MS)
        if part < 2:
            disk.call(RENAME, ino=None, ret=0)
    scene.answer()
    found = only(judge(scene.capture()))

    assert (FLOOD, "/srv/app/data.txt") == (found.id, found.on.path if found.on else None)
    assert 2 == facts(found)["rotated by the process itself"]
    assert 2_000_000 == facts(found)["largest of 3 records a request"]


def test_many_files_made_the_same_way_are_one_branch() -> None:
    """100 files of which each takes a hundredth: one node under their pattern, nothing in smaller parts."""
    blame = judge(churning(100).capture()).blame
    waits = [node for node in blame.children if node.kind == "io"]

    assert ["/tmp/<uuid>/*.txt"] == [node.on.path for node in waits if node.on]
    assert [(100, APP)] == [(node.count, node.who.tid) for node in waits if node.who]
    assert [] == [node for node in blame.children if "smaller parts" in node.label and node.share > 0.01]
    assert sum(child.seconds for child in waits[0].children) <= waits[0].seconds * 1.000001


def test_a_few_files_are_named_one_by_one() -> None:
    """As many as can be shown."""
    blame = judge(churning(5).capture()).blame
    paths = {node.on.path for node in blame.children if node.kind == "io" and node.on}

    assert {f"/tmp/9046db9e-fe25-11e8-b13f-0242ac110002/{number}.txt" for number in range(5)} == paths


def test_what_other_threads_of_the_process_write_beside_the_request_is_a_note() -> None:
    """The request reads one file; a thread that it does not wait for writes the log, and the temporary files."""
    for scene, note in ((logging(3, 2_000_000), FLOOD), (churning(40), CHURN)):
        calls = scene.rows["syscalls"]
        files = [row for row, kind in enumerate(calls["file_type"]) if kind == "reg" or calls["nr"][row] == UNLINK]
        for row in files:
            calls["tid"][row] = BESIDE
        scene.rows["offcpu"]["tid"] = [
            BESIDE if stack == THROTTLED else tid
            for tid, stack in zip(scene.rows["offcpu"]["tid"], scene.rows["offcpu"]["stack_id"], strict=True)
        ]
        scene.add(schema.FILES, dev=5, ino=99, path="/srv/app/config")
        scene.add(
            schema.SYSCALLS, enter_ns=calls["enter_ns"][files[0]], exit_ns=calls["enter_ns"][files[0]] + 5 * US,
            tid=APP, pid=APP, nr=READ, ret=10, arg0=4, arg2=10, dev=5, ino=99, file_type="reg",
        )  # fmt: skip
        scene.add(schema.TASKS, tid=BESIDE, pid=APP, comm="writer", kernel=False, watched_ns=scene.start)
        verdict = judge(scene.capture())
        (found,) = [one for head in verdict.causes for one in (head, *head.because) if one.id == note]

        assert ("note", (APP, BESIDE)) == (found.level, (found.who.pid, found.who.tid) if found.who else None)
        assert not [spot for spot in verdict.blind_spots if note in spot.what]
