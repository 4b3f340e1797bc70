"""Waits that others' writes cause, on scenes whose times are chosen by hand: who is named, and who is not."""

from __future__ import annotations

import pytest
from scene import APP, FDATASYNC, MS, US, WRITE, Scene

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Node, Verdict

DISK, OWN_INO, THEIR_INO = 5, 9, 50
NEIGHBOUR, KWORKER = 800, 91
THEIR_FILE = "/data/their.file"
THROTTLED, SYNCED = 4, 5
MIB = 1 << 20
ALL_NS = 200 * MS


def found(verdict: Verdict, name: str) -> Cause | None:
    """The head of that id, if it is one."""
    return next((one for one in verdict.causes if one.id == name), None)


def nodes(node: Node, kind: str) -> list[Node]:
    """Every node of a kind."""
    own = [node] if node.kind == kind else []
    return own + [deeper for child in node.children for deeper in nodes(child, kind)]


def named(scene: Scene) -> Capture:
    """The capture, with the names of those who take part."""
    for tid, comm, kernel in ((NEIGHBOUR, "their", False), (KWORKER, "kworker/u8:1", True)):
        scene.add(schema.TASKS, tid=tid, pid=tid, comm=comm, kernel=kernel)
        scene.add(schema.PROCESSES, pid=tid, comm=comm)
    scene.add(schema.FILES, dev=DISK, ino=THEIR_INO, path=THEIR_FILE)
    scene.add(schema.FILES, dev=DISK, ino=OWN_INO, path="/data/own.file")
    scene.add(schema.STACKS, stack_id=THROTTLED, frames=["io_schedule_timeout", "balance_dirty_pages", "vfs_write"])
    scene.add(schema.STACKS, stack_id=SYNCED, frames=["io_schedule", "folio_wait_writeback", "do_fsync"])
    return scene.capture()


def request(scene: Scene, *, issue: int, done: int, tid: int, ino: int, size: int) -> None:
    """A write to the disk."""
    scene.add(schema.BLOCKS, queued_ns=issue, issue_ns=issue, complete_ns=done, dev=DISK, sector=issue, bytes=size,
              op="write", sync=True, tid=tid, pid=tid, ino_dev=DISK, ino=ino, generation=1)  # fmt: skip


def dirtied(scene: Scene, *, at: int, tid: int, ino: int, size: int) -> None:
    """Pages made dirty at one moment."""
    scene.add(schema.DIRTIED, from_ns=at, to_ns=at, tid=tid, pid=tid, dev=DISK, ino=ino, generation=1, disk=DISK,
              bytes=size)  # fmt: skip


def synced(writer: int | None) -> Capture:
    """A request that syncs for 200 ms: 180 of them the disk works on ten requests of a kworker with `writer`'s data."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    start = scene.now
    off, wake = start + US, start + ALL_NS - 2 * US
    if writer is not None:
        dirtied(scene, at=start - MS, tid=writer, ino=THEIR_INO, size=10 * MIB)
    dirtied(scene, at=start, tid=APP, ino=OWN_INO, size=4096)
    for i in range(1, 11):
        request(scene, issue=start, done=off + i * 18 * MS, tid=KWORKER, ino=THEIR_INO, size=MIB)
    request(scene, issue=off, done=wake - 10 * US, tid=APP, ino=OWN_INO, size=4096)
    scene.call(APP, FDATASYNC, start, start + ALL_NS, ino=OWN_INO, kind="reg", ret=0, dev=DISK)
    scene.sleep(APP, off, wake, wake + US, state=2, waker=KWORKER, stack=SYNCED)
    scene.now = start + ALL_NS
    scene.answer()
    return named(scene)


def test_the_neighbour_is_named_and_not_the_kernel_thread_that_writes_for_it() -> None:
    """180 of 200 ms went to another process's data: process, file and device are named, the kworker is not."""
    verdict = judge(synced(NEIGHBOUR))
    cause = found(verdict, "disk.neighbour")
    assert cause is not None
    assert cause.who is not None
    assert cause.on is not None
    assert (NEIGHBOUR, THEIR_FILE, "sdz") == (cause.who.pid, cause.on.path, cause.on.device)
    assert 0.180 == pytest.approx(cause.share * verdict.root.seconds, abs=0.001)
    behind = [node for node in nodes(verdict.blame, "device") if "behind" in node.label]
    assert [f"device sdz behind a write of their[{NEIGHBOUR}] to {THEIR_FILE}"] == [node.label for node in behind]
    assert found(verdict, "disk.saturated") is None


def test_nobody_is_a_neighbour_of_itself() -> None:
    """The same wait behind data that the program wrote itself."""
    assert found(judge(synced(APP)), "disk.neighbour") is None


def test_data_whose_writer_was_not_seen_is_nobodys() -> None:
    """Dirtied before the window: said so, and no process is charged."""
    verdict = judge(synced(None))
    assert found(verdict, "disk.neighbour") is None
    labels = [node.label for node in nodes(verdict.blame, "device")]
    assert "device sdz behind a write of data dirtied before the window" in labels
    assert not any("kworker" in label for label in labels)


def paused(*, disk_limit: int, host_limit: int, seen: bool = True) -> Capture:
    """A request whose write pauses for 200 ms: of 40 MiB dirty on the disk 25 are a neighbour's and 5 its own."""
    scene = Scene()
    scene.now += 2 * MS
    scene.request_arrives()
    start = scene.now
    off, wake = start + 20 * US, start + ALL_NS - 2 * US
    dirtied(scene, at=start - 2 * MS, tid=NEIGHBOUR, ino=THEIR_INO, size=27 * MIB)
    request(scene, issue=start - 2 * MS + US, done=start - MS, tid=KWORKER, ino=THEIR_INO, size=2 * MIB)
    dirtied(scene, at=start + US, tid=APP, ino=OWN_INO, size=5 * MIB)
    if seen:
        scene.add(schema.THROTTLES, ts_ns=off - 5 * US, pause_ns=ALL_NS, tid=APP, pid=APP, disk=DISK,
                  dirty=50 * MIB, threshold=host_limit, background=host_limit, disk_dirty=40 * MIB,
                  disk_threshold=disk_limit)  # fmt: skip
    scene.call(APP, WRITE, start, start + ALL_NS, ino=OWN_INO, kind="reg", ret=5 * MIB, dev=DISK)
    scene.sleep(APP, off, wake, wake + US, state=2, stack=THROTTLED)
    scene.now = start + ALL_NS
    scene.answer()
    return named(scene)


def test_a_pause_is_shared_out_among_those_whose_pages_were_dirty() -> None:
    """25, 5 and 10 older of 40 MiB: five eighths, one eighth and a quarter of the pause; the flushed 2 MiB are out."""
    verdict = judge(paused(disk_limit=40 * MIB, host_limit=4000 * MIB))
    shares = {node.label: node.seconds for node in nodes(verdict.blame, "throttle")}
    assert shares == {
        f"made to pause on sdz by dirty pages of their[{NEIGHBOUR}] to {THEIR_FILE}": pytest.approx(0.125, abs=1e-3),
        f"made to pause on sdz by dirty pages of service[{APP}] to /data/own.file": pytest.approx(0.025, abs=1e-3),
        "made to pause on sdz by dirty pages of data dirtied before the window": pytest.approx(0.05, abs=1e-3),
    }


@pytest.mark.parametrize(
    ("disk_limit", "host_limit", "in_force"),
    [(40 * MIB, 4000 * MIB, "dirty on sdz"), (400 * MIB, 45 * MIB, "dirty on the host")],
)
def test_the_throttle_names_its_limit_and_who_dirtied(disk_limit: int, host_limit: int, in_force: str) -> None:
    """All 200 ms, the neighbour as the largest writer, and whichever limit was reached."""
    verdict = judge(paused(disk_limit=disk_limit, host_limit=host_limit))
    cause = found(verdict, "mem.dirty-throttle")
    assert cause is not None
    assert cause.who is not None
    assert NEIGHBOUR == cause.who.pid
    assert "critical" == cause.level
    assert 0.2 == pytest.approx(cause.share * verdict.root.seconds, abs=0.001)
    facts = [evidence.fact for evidence in cause.evidence if evidence.fact.endswith("(the limit in force)")]
    assert 1 == len(facts)
    assert facts[0].startswith(in_force)


def test_a_pause_known_from_its_stack_alone_blames_no_process() -> None:
    """Where the kernel has no such tracepoint the wait is named, its cause not."""
    cause = found(judge(paused(disk_limit=MIB, host_limit=MIB, seen=False)), "mem.dirty-throttle")
    assert cause is not None
    assert cause.who is None
