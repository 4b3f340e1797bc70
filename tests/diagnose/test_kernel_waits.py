"""Waits that a journal or a limit causes, on scenes whose times are chosen by hand: who is named, and who is not."""

from __future__ import annotations

import time

import pytest
from scene import APP, FDATASYNC, JOURNAL, MS, US, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Node, Verdict

DISK, THEIR_INO, ATLAS_INO = 5, 50, 60
SYNCER, KTHROTLD = 800, 91
HELD, FAULTED, WAITS_FOR_COMMIT = 4, 5, 1
RENAME, WAIT4 = 82, 61
NAP_NS = 100 * MS


def found(verdict: Verdict, name: str) -> Cause | None:
    """The head of that id, if it is one."""
    return next((one for one in verdict.causes if one.id == name), None)


def nodes(node: Node, kind: str) -> list[Node]:
    """Every node of a kind."""
    own = [node] if node.kind == kind else []
    return own + [deeper for child in node.children for deeper in nodes(child, kind)]


def named(scene: Scene) -> Capture:
    """The capture, with the names of those who take part."""
    for tid, comm, kernel in ((SYNCER, "deliverer", False), (KTHROTLD, "kworker/0:1", True)):
        scene.add(schema.TASKS, tid=tid, pid=tid, comm=comm, kernel=kernel)
        scene.add(schema.PROCESSES, pid=tid, comm=comm)
    scene.add(schema.FILES, dev=DISK, ino=THEIR_INO, path="/data/their.file")
    scene.add(schema.FILES, dev=DISK, ino=ATLAS_INO, path="/data/atlas")
    held = ["io_schedule", "out_of_line_wait_on_bit", "do_get_write_access", "ext4_rename", "do_renameat2"]
    fault = ["io_schedule", "folio_wait_bit_common", "filemap_read_folio", "filemap_fault", "handle_mm_fault"]
    scene.add(schema.STACKS, stack_id=HELD, frames=held)
    scene.add(schema.STACKS, stack_id=FAULTED, frames=fault)
    return scene.capture()


def request(scene: Scene, *, made: int, done: int, tid: int, op: str, ino: int | None = None) -> None:
    """A request to the disk."""
    scene.add(schema.BLOCKS, queued_ns=made, issue_ns=made + 5 * US, complete_ns=done, dev=DISK, sector=made,
              bytes=4096, op=op, sync=True, tid=tid, pid=tid, ino_dev=DISK, ino=ino, generation=1)  # fmt: skip


def renamed(*, syncer: int | None = SYNCER, nr: int = RENAME, stack: int = HELD) -> Capture:
    """A request in which five calls wait 100 ms each for what the journal is writing; somebody syncs five times."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for _ in range(5):
        start, wake = scene.now, scene.now + NAP_NS
        if syncer is not None:
            request(scene, made=start - 200 * US, done=start - 100 * US, tid=syncer, op="write", ino=THEIR_INO)
        request(scene, made=start + 10 * US, done=wake - 10 * US, tid=JOURNAL, op="write", ino=0)
        scene.call(APP, nr, start, wake + 2 * US, ino=0, kind="reg", ret=0, dev=DISK)
        scene.sleep(APP, start + US, wake, wake + US, state=2, stack=stack)
        scene.now = wake + 3 * US
    scene.answer()
    return named(scene)


def test_a_wait_for_a_block_that_the_journal_writes_names_who_makes_it_commit() -> None:
    """The journal's write ends it, an interrupt lets it go: the device is known although rename names no file."""
    verdict = judge(renamed())
    cause = found(verdict, "fs.journal-wait")
    assert cause is not None
    assert cause.who is not None
    assert cause.on is not None
    named_as = (cause.who.pid, cause.on.path, cause.on.device, cause.on.syscall)
    assert (SYNCER, "/data/their.file", "sdz", "rename") == named_as
    assert 0.5 == pytest.approx(cause.share * verdict.root.seconds, abs=0.001)
    assert [f"journal commit by jbd2/x-8[{JOURNAL}]"] == [node.label for node in nodes(verdict.blame, "journal")]
    assert "disk.slow-device" not in [one.id for one in verdict.causes]


def test_without_synced_writes_nobody_is_named() -> None:
    """The wait is there all the same."""
    cause = found(judge(renamed(syncer=None)), "fs.journal-wait")
    assert cause is not None
    assert cause.who is None


def test_its_own_syncs_are_told_apart_from_others() -> None:
    """The program that waits is the one that syncs."""
    cause = found(judge(renamed(syncer=APP)), "fs.journal-wait")
    assert cause is not None
    assert "its own syncs" in cause.title


def test_a_sync_that_waits_for_the_journal_is_a_sync() -> None:
    """fdatasync is left to the rules about syncs."""
    verdict = judge(renamed(nr=FDATASYNC, stack=WAITS_FOR_COMMIT))
    assert found(verdict, "fs.journal-wait") is None


def mapped(*, limit: bool, held_back: bool) -> Capture:
    """A request with five page faults of 100 ms; the reads reach the disk at once, or only 1 ms before the end, and
    then a kernel thread sends them.
    """
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for _ in range(5):
        start, wake = scene.now, scene.now + NAP_NS
        made, tid = (wake - MS, KTHROTLD) if held_back else (start + 2 * US, APP)
        request(scene, made=made, done=wake - 10 * US, tid=tid, op="read", ino=ATLAS_INO)
        scene.sleep(APP, start + US, wake, wake + US, state=2, stack=FAULTED)
        # The next read of the same thread completes just after the wake: it did not end this wait.
        request(scene, made=wake + 2 * US, done=wake + 40 * US, tid=APP, op="read", ino=ATLAS_INO)
        scene.sleep(APP, wake + 3 * US, wake + 41 * US, wake + 42 * US, state=2, stack=FAULTED)
        scene.now = wake + 50 * US
    scene.answer()
    if limit:
        scene.add(schema.COUNTERS, ts_ns=scene.now, source="/cg/blkio.throttle.read_iops_device", object="/cg",
                  field="blkio.throttle.read_iops_device 0:5", value=10.0)  # fmt: skip
        scene.add(schema.COUNTERS, ts_ns=scene.now, source="/cg/io.max", object="/cg", field="wiops 0:6", value=7.0)
    return named(scene)


def test_a_page_that_a_limit_holds_back_names_file_device_and_limit() -> None:
    """The request is another thread's and there is no call: the moments tell. A limit on another device is not said."""
    verdict = judge(mapped(limit=True, held_back=True))
    cause = found(verdict, "disk.cgroup-throttle")
    assert cause is not None
    limits = [(one.value, one.unit, one.source) for one in cause.evidence if "limit in force" in one.fact]
    assert [(10.0, "reads/s", "/cg/blkio.throttle.read_iops_device")] == limits
    faults = nodes(verdict.blame, "fault")
    assert {"/data/atlas"} == {node.on.path for node in faults if node.on is not None}
    assert 0.5 == pytest.approx(sum(node.seconds for node in nodes(verdict.blame, "device")), abs=0.001)
    assert found(verdict, "disk.slow-device") is None


@pytest.mark.parametrize(("limit", "held_back"), [(False, True), (True, False), (False, False)])
def test_a_limit_alone_or_an_idle_device_alone_is_no_limit_that_holds_back(limit: bool, held_back: bool) -> None:
    """The device takes long, as far as anybody can tell."""
    verdict = judge(mapped(limit=limit, held_back=held_back))
    assert found(verdict, "disk.cgroup-throttle") is None
    assert found(verdict, "disk.slow-device") is not None


def test_hundreds_of_short_processes_that_wait_for_a_device_are_judged_soon_and_as_one() -> None:
    """A script's processes, each of which waits once: the time is all there, and no longer divided one by one."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    for number in range(300):
        start, wake, child = scene.now, scene.now + 2 * MS, 2000 + number
        request(scene, made=start + 2 * US, done=wake - 10 * US, tid=child, op="read", ino=ATLAS_INO)
        scene.add(
            schema.TASKS, tid=child, pid=child, comm="short", kernel=False, watched_ns=start, exit_ns=wake + 2 * US
        )
        scene.sleep(child, start + US, wake, wake + US, state=2, stack=FAULTED)
        scene.call(APP, WAIT4, start, wake + 5 * US, ino=0, kind="reg", ret=child)
        scene.sleep(APP, start + US, wake + 3 * US, wake + 4 * US, waker=child)
        scene.now = wake + 6 * US
    scene.answer()
    capture = named(scene)
    began = time.process_time()
    verdict = judge(capture)
    assert time.process_time() - began < 10.0
    cause = found(verdict, "disk.slow-device")
    assert cause is not None
    assert 0.6 == pytest.approx(cause.share * verdict.root.seconds, abs=0.01)
