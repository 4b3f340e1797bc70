"""One simulated block device, and the journal of the file system on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from culpa.sim.kernel import IDLE, Does, Kernel
from culpa.sim.log import Block, Cause
from culpa.sim.program import Need
from culpa.sim.scheduler import Pause

_SCHEDULE = ("__schedule", "schedule")
_IO = (*_SCHEDULE, "io_schedule")
_SYNC = ("ext4_sync_file", "do_fsync", "__x64_sys_fdatasync", "do_syscall_64")
STACK_DATA = (*_IO, "folio_wait_bit_common", "folio_wait_writeback", "__filemap_fdatawait_range", *_SYNC)
STACK_COMMIT = (*_SCHEDULE, "jbd2_log_wait_commit", "jbd2_complete_transaction", *_SYNC)
STACK_FLUSH = (*_IO, "submit_bio_wait", "blkdev_issue_flush", *_SYNC)
STACK_READ = (*_IO, "folio_wait_bit_common", "filemap_read", "ext4_file_read_iter", "vfs_read", "__x64_sys_pread64")
STACK_INODE = (*_SCHEDULE, "rwsem_down_write_slowpath", "down_write", "ext4_buffered_write_iter", "vfs_write")
STACK_JOURNAL = (*_IO, "bit_wait_io", "__wait_on_buffer", "jbd2_journal_commit_transaction", "kjournald2", "kthread")


@dataclass(slots=True, kw_only=True)
class Journal:
    """Commits are numbered from 1; a sync needs the first commit that begins after it was asked for."""

    asked: int = 0
    running: int | None = None
    done: int = 0
    waiters: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Storage:
    """The device, the journal, and the waits for both."""

    kernel: Kernel
    journal: Journal = field(default_factory=Journal)
    _device: deque[Block] = field(default_factory=deque)
    _told: dict[int, Callable[[], None]] = field(default_factory=dict)

    def submit(
        self, tid: int, op: Literal["read", "write", "flush"], ino: int | None, *, writer: int | None = None,
        done: Callable[[], None] | None = None,
    ) -> Block:  # fmt: skip
        """Queue a request for the device; when it completes `done` is called, else the thread is woken."""
        block = Block(
            number=len(self.kernel.log.blocks), tid=tid, writer=tid if writer is None else writer, op=op, ino=ino,
            queued_ns=self.kernel.sched.now,
        )  # fmt: skip
        if done is not None:
            self._told[block.number] = done
        self.kernel.log.blocks.append(block)
        self._device.append(block)
        if len(self._device) == 1:
            self._issue()
        return block

    def until_complete(self, block: Block, stack: tuple[str, ...], room: Need | None = None) -> Does[None]:
        """Wait for a block request."""
        while block.complete_ns is None:
            yield Pause(cause=Cause(kind="block", ids=(block.number,), room=room), state=2, stack=stack)
            yield self.kernel.cost()

    def _issue(self) -> None:
        block, machine = self._device[0], self.kernel.program.machine
        block.issue_ns = self.kernel.sched.now
        self.kernel.sched.after(
            self.kernel.sched.draw(machine.flush_ns if block.op == "flush" else machine.device_ns), self._complete
        )

    def _complete(self) -> None:
        block = self._device.popleft()
        block.complete_ns = self.kernel.sched.now
        if block.number in self._told:
            self._told.pop(block.number)()
        else:
            self.kernel.sched.wake(block.tid, self.kernel.waker(None))
        if self._device:
            self._issue()

    def until_committed(self, tid: int, stack: tuple[str, ...] = STACK_COMMIT) -> Does[None]:
        """Ask the journal for a commit and wait for it."""
        journal = self.journal
        wanted = (journal.done if journal.running is None else journal.running) + 1
        journal.asked = max(journal.asked, wanted)
        if journal.running is None:
            self.kernel.sched.wake(self.kernel.program.journal_tid, tid)
        while journal.done < wanted:
            journal.waiters.append(tid)
            yield Pause(cause=Cause(kind="commit", ids=(wanted,)), state=2, stack=stack)
            yield self.kernel.cost()

    def journal_thread(self) -> Does[None]:
        """kjournald2: commits when asked, one after the other."""
        tid, journal = self.kernel.program.journal_tid, self.journal
        while True:
            yield self.kernel.cost()
            while journal.asked <= journal.done:
                yield Pause(cause=IDLE)
                yield self.kernel.cost()
            journal.running = journal.done + 1
            for _ in range(self.kernel.sched.draw(self.kernel.program.machine.journal_blocks)):
                yield self.kernel.cost()
                yield from self.until_complete(self.submit(tid, "write", None), STACK_JOURNAL)
            yield from self.until_complete(self.submit(tid, "flush", None), STACK_JOURNAL)
            journal.done, journal.running = journal.running, None
            waiters, journal.waiters = journal.waiters, []
            for waiter in waiters:
                self.kernel.sched.wake(waiter, tid)
