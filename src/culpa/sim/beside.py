"""Simulated asynchronous I/O: io_uring with its workers, and libaio. Requests are given, done beside, and waited for.

A thread has one ring and one context; what it gives is done in order. What the device did is posted by the thread
itself when it runs again (task work of io_uring), or taken when io_getevents ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from culpa.sim.kernel import (
    ANON_DEV,
    ANON_INO,
    FILE_DEV,
    IDLE,
    IO_GETEVENTS,
    IO_SUBMIT,
    IO_URING_ENTER,
    WRITE,
    Does,
    Kernel,
)
from culpa.sim.log import Aside, Block, Job, Syscall
from culpa.sim.program import Beside
from culpa.sim.scheduler import Pause
from culpa.sim.storage import Storage

RING_FD = 7
ETIME = 62
_WORKER = ("io_fsync", "io_issue_sqe", "io_wq_submit_work", "io_worker_handle_work", "io_wq_worker", "ret_from_fork")
_SYNC = ("ext4_sync_file", "vfs_fsync_range", *_WORKER)
STACK_DATA = (
    "__schedule", "schedule", "io_schedule", "folio_wait_bit_common", "folio_wait_writeback",
    "__filemap_fdatawait_range", *_SYNC,
)  # fmt: skip
STACK_COMMIT = ("__schedule", "schedule", "jbd2_log_wait_commit", "jbd2_complete_transaction", *_SYNC)


@dataclass(slots=True, kw_only=True)
class Worker:
    """A worker of io_uring, and what it has to do."""

    tid: int
    jobs: deque[tuple[Aside, Job, Beside]] = field(default_factory=deque)


@dataclass(slots=True, kw_only=True)
class Rings:
    """The rings of all threads; `workers` by the thread they work for."""

    kernel: Kernel
    storage: Storage
    workers: dict[int, Worker] = field(default_factory=dict)

    def submit(self, tid: int, op: Beside) -> Does[list[Aside]]:
        """Give the requests to the kernel; in front of an fsync, write something."""
        kernel = self.kernel
        if op.op == "fsync":
            yield from self._write(tid, op.file)
        yield kernel.user()
        if op.interface == "libaio":
            call = kernel.enter(tid, IO_SUBMIT, (_context(tid), op.count, 0x7FFC_0000_0000 + tid))
        else:
            call = kernel.enter(tid, IO_URING_ENTER, (RING_FD, op.count, 0), dev=ANON_DEV, ino=ANON_INO, kind="anon")
        given: list[Aside] = []
        for _ in range(op.count):
            yield kernel.cost()
            given.append(self._give(tid, op, call))
        yield kernel.cost()
        kernel.leave(call, op.count)
        return given

    def _write(self, tid: int, file: str) -> Does[None]:
        yield self.kernel.user()
        call = self.kernel.enter(tid, WRITE, (8, 0, 120), dev=FILE_DEV, ino=self.kernel.file(file), kind="reg")
        yield self.kernel.cost()
        self.kernel.leave(call, 120)

    def _give(self, tid: int, op: Beside, call: Syscall) -> Aside:
        kernel, now = self.kernel, self.kernel.sched.now
        by_iocb = op.interface == "libaio"
        if op.op == "fsync":
            of: Block | Job = self._job(tid)
        else:
            of = self.storage.submit(tid, op.op, None, done=lambda: self._done(aside))
        aside = Aside(
            tid=tid, interface=op.interface, ring=_context(tid) if by_iocb else _ring(tid), op=op.op,
            ino=kernel.file(op.file), given_ns=call.enter_ns if by_iocb else now, of=of,
        )  # fmt: skip
        kernel.log.asides.append(aside)
        if isinstance(of, Job):
            worker = self.workers[tid]
            worker.jobs.append((aside, of, op))
            if kernel.sched.waits_for(worker.tid) == IDLE:
                kernel.sched.wake(worker.tid, tid)
        return aside

    def _job(self, tid: int) -> Job:
        kernel = self.kernel
        job = Job(
            number=len(kernel.log.jobs), asker_tid=tid, asked_ns=kernel.sched.now, helper_tid=self.workers[tid].tid
        )
        kernel.log.jobs.append(job)
        return job

    def _done(self, aside: Aside, waker: int | None = None) -> None:
        """Wake the thread if this is what it waits for; an interrupt does that, or a worker."""
        sched = self.kernel.sched
        if sched.waits_for(aside.tid) == aside.cause:
            sched.wake(aside.tid, self.kernel.waker(None) if waker is None else waker)

    def until_done(self, tid: int, op: Beside, given: Sequence[Aside]) -> Does[None]:
        """Wait for all of them, in as many calls as that takes."""
        left = list(given)
        while left:
            left = yield from self._wait(tid, op, left)

    def _wait(self, tid: int, op: Beside, left: list[Aside]) -> Does[list[Aside]]:
        """One call that waits; what a ring holds already is taken without one."""
        kernel = self.kernel
        yield kernel.user()
        if any(aside.posted_ns is not None for aside in left):
            return [aside for aside in left if aside.posted_ns is None]
        least = min(op.least, len(left))
        if op.interface == "libaio":
            call = kernel.enter(tid, IO_GETEVENTS, (_context(tid), least, op.count))
        else:
            call = kernel.enter(tid, IO_URING_ENTER, (RING_FD, 0, least), dev=ANON_DEV, ino=ANON_INO, kind="anon")
        yield kernel.cost()
        over = yield from self._sleep(tid, op, left, least, call)
        taken = [aside for aside in left if aside.is_done]
        if op.interface == "libaio":
            _post(taken, tid, kernel.sched.now)
            kernel.leave(call, len(taken))
        else:
            kernel.leave(call, -ETIME if over and not taken else 0)
        return [aside for aside in left if aside.posted_ns is None]

    def _sleep(self, tid: int, op: Beside, left: list[Aside], least: int, call: Syscall) -> Does[bool]:
        """Until enough are done; whether the timer ended it before."""
        kernel, over = self.kernel, list[bool]()
        in_ring = op.interface == "io_uring"
        if in_ring:
            _post(left, tid, kernel.sched.now)
        while not over and sum(aside.is_done for aside in left) < least:
            if in_ring:
                call.dev, call.ino = None, _ring(tid)
            awaited = next(aside for aside in left if not aside.is_done) if op.each else left[least - 1]
            if op.tick_ns is not None:
                kernel.sched.wake_later(tid, op.tick_ns, lambda: kernel.waker(None), lambda: over.append(True))
            yield Pause(cause=awaited.cause)
            yield kernel.cost()
            if in_ring:
                _post(left, tid, kernel.sched.now)
        return bool(over)

    def work(self, worker: Worker, owner_tid: int) -> Does[None]:
        """The thread of the kernel's pool: fsyncs what its owner asks for, one after the other."""
        kernel = self.kernel
        while True:
            yield kernel.cost()
            while not worker.jobs:
                yield Pause(cause=IDLE)
                yield kernel.cost()
            aside, job, op = worker.jobs.popleft()
            job.taken_ns = kernel.sched.now
            block = self.storage.submit(worker.tid, "write", aside.ino, writer=owner_tid)
            yield from self.storage.until_complete(block, STACK_DATA)
            yield from self.storage.until_committed(worker.tid, STACK_COMMIT)
            yield kernel.cost()
            job.done_ns = kernel.sched.now
            if op.posts == "worker":
                _post([aside], worker.tid, kernel.sched.now)
            self._done(aside, worker.tid)


def _post(asides: Sequence[Aside], tid: int, now: int) -> None:
    """The completions of what is done come into the program's sight."""
    for aside in asides:
        if aside.is_done and aside.posted_ns is None:
            aside.posted_ns, aside.ender_tid = now, tid


def _ring(tid: int) -> int:
    """A number of the thread's ring that nobody else has."""
    return 0x5A00_0000 + tid


def _context(tid: int) -> int:
    """The address of the thread's context."""
    return 0x7F80_0000_0000 + 4096 * tid
