"""A write to the append-only file that waits for the journal, on scenes made by hand: whose data held it up."""

from __future__ import annotations

import pytest
from scene import FDATASYNC, JOURNAL, MS, REDIS, US, WRITE, Scene

from culpa.capture import schema
from culpa.diagnose.judge import judge
from culpa.diagnose.verdict import Cause, Verdict

BIO, CHILD, OTHER = 601, 602, 800
DISK, AOF_INO, THEIR_INO = 5, 7, 50
THEIR_FILE = "/data/their.file"
HELD, PAUSED = 7, 8
FSYNC, BEHIND_CHILD, SLOW = (
    "redis.aof.write-behind-fsync", "redis.aof.write-behind-child", "redis.aof.write-slow-disk",
)  # fmt: skip


class Writing(Scene):
    """Redis' main thread writes where `Scene` lets it sync, and waits while the disk works on `writer`'s data."""

    writer: int | None = None
    is_synced: bool = True
    stack: int = HELD

    def _sync(self, at: int, length: int, *, journal: bool) -> int:
        assert journal
        wake = at + length - 2 * US
        self.call(REDIS, WRITE, at, at + length, ino=AOF_INO, kind="reg", ret=4096, dev=DISK)
        self.sleep(REDIS, at + US, wake, wake + US, state=2, waker=JOURNAL, stack=self.stack)
        if self.is_synced:
            self._helper_syncs(at - MS, at + length)
        if self.writer is not None:
            own = self.writer == REDIS
            self._disk_writes(at, wake, tid=BIO if own else self.writer, pid=self.writer,
                              ino=AOF_INO if own else THEIR_INO)  # fmt: skip
        self._disk_writes(wake - 20 * MS, wake, tid=JOURNAL, pid=JOURNAL, ino=0)
        return at + length

    def _helper_syncs(self, enter: int, leave: int) -> None:
        self.add(schema.SYSCALLS, enter_ns=enter, exit_ns=leave, tid=BIO, pid=REDIS, nr=FDATASYNC, ret=0, arg0=3,
                 dev=DISK, ino=AOF_INO, file_type="reg")  # fmt: skip

    def _disk_writes(self, begin: int, end: int, *, tid: int, pid: int, ino: int) -> None:
        self.add(schema.BLOCKS, queued_ns=begin, issue_ns=begin, complete_ns=end, dev=DISK, sector=begin, op="write",
                 bytes=1 << 20, sync=True, tid=tid, pid=pid, ino_dev=DISK, ino=ino, generation=1)  # fmt: skip

    def verdict(self) -> Verdict:
        """What culpa says of one SET whose append takes 300 ms."""
        self.now += 2 * MS
        self.request_arrives()
        self.redis("SET", sync_ns=300 * MS)
        self.answer()
        for tid, pid, comm in ((BIO, REDIS, "bio_aof_fsync"), (CHILD, CHILD, "kv"), (OTHER, OTHER, "their")):
            self.add(schema.TASKS, tid=tid, pid=pid, comm=comm, kernel=False)
        for pid, parent in ((CHILD, REDIS), (OTHER, 1)):
            self.add(schema.PROCESSES, pid=pid, ppid=parent, comm="kv" if pid == CHILD else "their")
        self.add(schema.FILES, dev=DISK, ino=THEIR_INO, path=THEIR_FILE)
        self.add(schema.STACKS, stack_id=HELD, frames=["io_schedule", "do_get_write_access", "ext4_dirty_inode"])
        self.add(schema.STACKS, stack_id=PAUSED, frames=["io_schedule_timeout", "balance_dirty_pages", "vfs_write"])
        self.add(schema.REDIS, ts_ns=self.now, server="127.0.0.1:7000", pid=REDIS, source="CONFIG GET",
                 field="appendfilename", value="some.aof")  # fmt: skip
        return judge(self.capture(appendfsync="everysec"))


def about_the_file(verdict: Verdict) -> list[Cause]:
    """The causes, heads or not, that say why the write waited."""
    every = [cause for head in verdict.causes for cause in (head, *head.because)]
    return [cause for cause in every if cause.id in (FSYNC, BEHIND_CHILD, SLOW, "redis.aof.dirty-throttle")]


@pytest.mark.parametrize(
    ("writer", "cause", "who"),
    [(REDIS, FSYNC, REDIS), (CHILD, BEHIND_CHILD, REDIS), (OTHER, SLOW, OTHER), (None, FSYNC, REDIS)],
)
def test_whose_data_the_disk_works_on_tells_the_three_apart(writer: int | None, cause: str, who: int) -> None:
    """A sync of the file is under way each time, and yet only the first and the last wait for that."""
    scene = Writing()
    scene.writer = writer
    (found,) = about_the_file(scene.verdict())
    assert (cause, who) == (found.id, found.who.pid if found.who else None)
    assert 0.29 <= found.evidence[0].value <= 0.301  # type: ignore[operator]  # seconds


def test_what_another_process_writes_is_named_with_its_file() -> None:
    """280 ms for it alone and half of 20 ms beside the journal."""
    scene = Writing()
    scene.writer = OTHER
    (found,) = about_the_file(scene.verdict())
    told = [fact for fact in found.evidence if THEIR_FILE in fact.fact]
    assert [pytest.approx(0.29, abs=0.002)] == [fact.value for fact in told]


def test_without_a_sync_and_anybodys_data_the_disk_is_slow() -> None:
    """Nobody is named, and the confidence is lower."""
    scene = Writing()
    scene.is_synced = False
    (found,) = about_the_file(scene.verdict())
    assert (SLOW, "Redis' write to its append-only file waits for a slow disk") == (found.id, found.title)
    assert found.confidence < 0.8


def test_a_pause_of_the_dirty_throttle_is_none_of_the_three() -> None:
    """Beside the same sync and the same neighbour: the kernel makes it pause for what is dirty."""
    scene = Writing()
    scene.writer, scene.stack = OTHER, PAUSED
    assert {"redis.aof.dirty-throttle"} == {cause.id for cause in about_the_file(scene.verdict())}
