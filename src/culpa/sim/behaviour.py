"""What threads do: the operations and bodies of a program, as steps on the simulated kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from culpa.sim.beside import Rings
from culpa.sim.kernel import (
    CLOCK_NANOSLEEP,
    CONNECT,
    CONTENDED,
    FDATASYNC,
    FILE_DEV,
    FSYNC,
    FUTEX,
    FUTEX_WAIT_PRIVATE,
    FUTEX_WAKE_PRIVATE,
    IDLE,
    PAUSE,
    PIPE_DEV,
    PREAD64,
    READ,
    SOCKET_DEV,
    WRITE,
    ChannelKind,
    Does,
    Kernel,
)
from culpa.sim.log import Cause, Job, Request, Syscall
from culpa.sim.memory import Memory
from culpa.sim.program import (
    Ask,
    Beside,
    Call,
    Compute,
    DirectRead,
    Help,
    Locked,
    Loop,
    Op,
    Serve,
    Shared,
    Sleep,
    Sync,
    Thread,
    Touch,
    Work,
)
from culpa.sim.scheduler import Pause, Run
from culpa.sim.sockets import Chunk, End, Listener, Sockets
from culpa.sim.storage import STACK_DATA, STACK_FLUSH, STACK_INODE, STACK_READ, Storage

CRON_NS = 10_000
"""What a server does when its epoll_wait times out."""


@dataclass(slots=True, kw_only=True)
class Actor:
    """One thread of a process, with the connections it keeps open."""

    kernel: Kernel
    sockets: Sockets
    storage: Storage
    rings: Rings
    memory: Memory
    pid: int
    thread: Thread
    polled: list[End] = field(default_factory=list)
    _open: dict[str, End] = field(default_factory=dict)

    @property
    def tid(self) -> int:
        """The thread's number."""
        return self.thread.tid

    def live(self) -> Does[None]:
        """Everything the thread does."""
        body = self.thread.body
        yield self.kernel.user()
        if isinstance(body, Loop):
            for _ in range(body.times):
                yield from self.perform(body.ops)
            yield from self._pause()
        elif isinstance(body, Help):
            yield from self._help(body)
        elif isinstance(body, Work):
            yield from self.rings.work(self.rings.workers[body.owner_tid], body.owner_tid)
        elif body.style == "epoll":
            yield from self._serve_by_epoll(body)
        else:
            yield from self._serve_by_accept(body, self.sockets.listeners[body.service])

    def perform(self, ops: Sequence[Op]) -> Does[None]:
        """Operations in order."""
        for op in ops:
            match op:
                case Compute():
                    yield Run(ns=op.ns)
                case Sleep():
                    yield from self._sleep(op.ns)
                case Call():
                    yield from self._call(op)
                case Sync():
                    yield from self._sync(op)
                case DirectRead():
                    yield from self._read_file(op)
                case Locked():
                    yield from self._locked(op)
                case Shared():
                    yield from self._shared(op)
                case Ask():
                    yield from self._ask(op)
                case Beside():
                    given = yield from self.rings.submit(self.tid, op)
                    yield from self.perform(op.meanwhile)
                    yield from self.rings.until_done(self.tid, op, given)
                case Touch():
                    yield from self.memory.touch(self.tid, op)
                case _:
                    assert_never(op)

    def _pause(self) -> Does[None]:
        self.kernel.enter(self.tid, PAUSE, (0, 0, 0))
        while True:
            yield self.kernel.cost()
            yield Pause(cause=IDLE)

    def _sleep(self, ns: int) -> Does[None]:
        kernel = self.kernel
        yield kernel.user()
        call = kernel.enter(self.tid, CLOCK_NANOSLEEP, (1, 0, 0x7FFC_0000_0000))
        yield kernel.cost()
        kernel.sched.wake_later(self.tid, ns, lambda: kernel.waker(None), lambda: None)
        yield Pause(cause=Cause(kind="sleep"))
        yield kernel.cost()
        kernel.leave(call, 0)

    # Client

    def _call(self, op: Call) -> Does[None]:
        kernel = self.kernel
        end = yield from self._connection(op)
        requests = self.sockets.new_requests(self.tid, op)
        for part in range(op.parts):
            last = part == op.parts - 1
            yield from self.sockets.write(
                self.tid, end, Chunk(requests=requests, kind="data" if part else "request", last=last, bytes=120)
            )
        for request in requests:
            request.sent_ns = kernel.sched.now
        yield from self._await_answers(op, end, requests)
        if op.fresh:
            yield from self.sockets.close(self.tid, end)

    def _await_answers(self, op: Call, end: End, requests: tuple[Request, ...]) -> Does[None]:
        cause, missing = Cause(kind="reply", ids=tuple(r.number for r in requests)), len(requests)
        while missing:
            if op.wait == "poll":
                yield from self.sockets.poll(self.tid, end, cause)
            chunks = yield from self.sockets.read(self.tid, end, cause)
            missing -= sum(len(chunk.requests) for chunk in chunks if chunk.last)

    def _connection(self, op: Call) -> Does[End]:
        if not op.fresh and op.service in self._open:
            return self._open[op.service]
        kernel = self.kernel
        yield kernel.user()
        call = kernel.enter(self.tid, CONNECT, (0, 0x7FFC_0000_0000, 16), dev=SOCKET_DEV, kind="sock")
        yield kernel.cost()
        service = next(s for s in kernel.program.services if s.name == op.service)
        end = self.sockets.connect(self.pid, service)
        if not op.fresh:
            self._open[op.service] = end
        call.args, call.ino = (end.fd, *call.args[1:]), end.ino
        kernel.leave(call, 0)
        return end

    # Server

    def _serve_by_epoll(self, body: Serve) -> Does[None]:
        while True:
            ready = yield from self.sockets.epoll_wait(self.tid, self.polled, body.tick_ns)
            if not ready:
                yield Run(ns=CRON_NS)
            answers: list[tuple[End, Request]] = []
            for end in ready:
                answers += yield from self._serve_readable(body, end)
            if answers:
                yield from self._answer_together(body, answers)

    def _serve_readable(self, body: Serve, end: End) -> Does[list[tuple[End, Request]]]:
        chunks = yield from self.sockets.read(self.tid, end, IDLE)
        if not chunks:
            self.polled.remove(end)
            yield from self.sockets.close(self.tid, end)
        requests = self._take(chunks)
        yield from self._handle(body, end, requests, answer=not body.flush)
        return [(end, request) for request in requests] if body.flush else []

    def _answer_together(self, body: Serve, answers: list[tuple[End, Request]]) -> Does[None]:
        yield from self.perform(body.flush)
        for end, request in answers:
            yield from self._answer(body, end, request)

    def _serve_by_accept(self, body: Serve, listener: Listener) -> Does[None]:
        while True:
            end = yield from self.sockets.accept(self.tid, listener)
            while chunks := (yield from self.sockets.read(self.tid, end, IDLE)):
                yield from self._handle(body, end, self._take(chunks), answer=True)
            yield from self.sockets.close(self.tid, end)

    def _take(self, chunks: Sequence[Chunk]) -> list[Request]:
        """The requests that these bytes complete."""
        requests = [request for chunk in chunks if chunk.last for request in chunk.requests]
        for request in requests:
            request.read_ns, request.server_tid = self.kernel.sched.now, self.tid
        return requests

    def _handle(self, body: Serve, end: End, requests: Sequence[Request], *, answer: bool) -> Does[None]:
        for request in requests:
            yield from self.perform(body.handlers[request.verb])
            if answer:
                yield from self._answer(body, end, request)

    def _answer(self, body: Serve, end: End, request: Request) -> Does[None]:
        for part in range(body.reply_parts):
            if part:
                yield Run(ns=body.between_parts_ns)
            last = part == body.reply_parts - 1
            yield from self.sockets.write(
                self.tid, end, Chunk(requests=(request,), kind="data" if part else "response", last=last, bytes=300)
            )
        request.reply_ns = self.kernel.sched.now

    # Files

    def _sync(self, op: Sync) -> Does[None]:
        kernel, ino = self.kernel, self.kernel.file(op.file)
        yield kernel.user()
        call = kernel.enter(self.tid, WRITE, (8, 0, 120), dev=FILE_DEV, ino=ino, kind="reg")
        yield kernel.cost()
        kernel.leave(call, 120)
        yield kernel.user()
        call = kernel.enter(
            self.tid, FDATASYNC if op.data_only else FSYNC, (8, 0, 0), dev=FILE_DEV, ino=ino, kind="reg"
        )
        yield kernel.cost()
        yield from self.storage.until_complete(self.storage.submit(self.tid, "write", ino), STACK_DATA)
        if op.journal:
            yield from self.storage.until_committed(self.tid)
        else:
            yield from self.storage.until_complete(self.storage.submit(self.tid, "flush", None), STACK_FLUSH)
        kernel.leave(call, 0)

    def _read_file(self, op: DirectRead) -> Does[None]:
        kernel, ino = self.kernel, self.kernel.file(op.file)
        yield kernel.user()
        call = kernel.enter(self.tid, PREAD64, (9, 0, 4096), dev=FILE_DEV, ino=ino, kind="reg")
        yield kernel.cost()
        yield from self.storage.until_complete(self.storage.submit(self.tid, "read", ino), STACK_READ)
        kernel.leave(call, 4096)

    def _shared(self, op: Shared) -> Does[None]:
        kernel, lock, ino = self.kernel, self.kernel.locks[op.file], self.kernel.file(op.file)
        yield kernel.user()
        call = kernel.enter(self.tid, WRITE, (12, 0, 4096), dev=FILE_DEV, ino=ino, kind="reg")
        yield kernel.cost()
        queue = lock.waiters.append
        while lock.holder is not None:
            queue(self.tid)
            yield Pause(cause=Cause(kind="turn", ids=(lock.number,)), state=2, stack=STACK_INODE)
            yield kernel.cost()
            queue = lock.waiters.appendleft  # whoever was faster than one that was woken does not take its place
        lock.holder = self.tid
        kernel.log.holders[lock.number].append((kernel.sched.now, self.tid))
        yield Run(ns=op.ns)
        yield from self.storage.until_complete(self.storage.submit(self.tid, "read", ino), STACK_READ)
        lock.holder = None
        if lock.waiters:
            kernel.sched.wake(lock.waiters.popleft(), self.tid)
        yield kernel.cost()
        kernel.leave(call, 4096)

    # Locks and helpers

    def _futex(self, operation: int, uaddr: int, value: int = 1) -> Does[Syscall]:
        """The way into futex(2); the caller leaves it."""
        yield self.kernel.user()
        call = self.kernel.enter(self.tid, FUTEX, (uaddr, operation, value))
        yield self.kernel.cost()
        return call

    def _wake_by_futex(self, waiter: int, uaddr: int) -> Does[None]:
        call = yield from self._futex(FUTEX_WAKE_PRIVATE, uaddr)
        self.kernel.sched.wake(waiter, self.tid)
        self.kernel.leave(call, 1)

    def _wait_for(self, call: Syscall, cause: Cause, over: Callable[[], bool], ret: int) -> Does[None]:
        """Sleep in a system call until it is over; whoever ends it wakes this thread."""
        while not over():
            yield Pause(cause=cause)
            yield self.kernel.cost()
        self.kernel.leave(call, ret)

    def _locked(self, op: Locked) -> Does[None]:
        kernel, lock = self.kernel, self.kernel.locks[op.lock]
        while lock.holder is not None:
            call = yield from self._futex(FUTEX_WAIT_PRIVATE, lock.uaddr, CONTENDED)
            if lock.holder is not None:
                lock.waiters.append(self.tid)
                yield Pause(cause=Cause(kind="lock", ids=(lock.number,)))
                yield kernel.cost()
            kernel.leave(call, 0)
        lock.holder = self.tid
        kernel.log.holders[lock.number].append((kernel.sched.now, self.tid))
        yield from self.perform(op.ops)
        lock.holder = None
        if lock.waiters:
            yield from self._wake_by_futex(lock.waiters.popleft(), lock.uaddr)
            kernel.log.handed[lock.number].append((kernel.sched.now, self.tid))

    def _ask(self, op: Ask) -> Does[None]:
        kernel, channel = self.kernel, self.kernel.channels[op.helper]
        job = Job(
            number=len(kernel.log.jobs), asker_tid=self.tid, asked_ns=kernel.sched.now, helper_tid=channel.helper_tid
        )
        kernel.log.jobs.append(job)
        channel.jobs.append(job)
        yield from self._ring(channel.kind, channel.helper_tid, IDLE, channel.ino, channel.uaddr)
        cause = Cause(kind="job", ids=(job.number,))
        call = yield from self._listen(channel.kind, channel.back_ino, channel.back_uaddr)
        yield from self._wait_for(call, cause, lambda: job.done_ns is not None, 1)

    def _help(self, body: Help) -> Does[None]:
        kernel, channel = self.kernel, self.kernel.channels[body.helper]
        while True:
            call = yield from self._listen(channel.kind, channel.ino, channel.uaddr)
            yield from self._wait_for(call, IDLE, lambda: bool(channel.jobs), 1)
            job = channel.jobs.popleft()
            job.taken_ns = kernel.sched.now
            yield from self.perform(body.ops)
            job.done_ns = kernel.sched.now
            cause = Cause(kind="job", ids=(job.number,))
            yield from self._ring(channel.kind, job.asker_tid, cause, channel.back_ino, channel.back_uaddr)

    def _ring(self, kind: ChannelKind, to: int, cause: Cause, ino: int, uaddr: int) -> Does[None]:
        """Tell the other end of a channel that there is something; wakes it if it waits there."""
        if kind == "queue":
            call = yield from self._futex(FUTEX_WAKE_PRIVATE, uaddr)
        else:
            yield self.kernel.user()
            call = self.kernel.enter(self.tid, WRITE, (10, 0, 1), dev=PIPE_DEV, ino=ino, kind="fifo")
            yield self.kernel.cost()
        if self.kernel.sched.waits_for(to) == cause:
            self.kernel.sched.wake(to, self.tid)
        self.kernel.leave(call, 1)

    def _listen(self, kind: ChannelKind, ino: int, uaddr: int) -> Does[Syscall]:
        """The way into the system call in which one end of a channel waits."""
        if kind == "queue":
            return (yield from self._futex(FUTEX_WAIT_PRIVATE, uaddr))
        yield self.kernel.user()
        call = self.kernel.enter(self.tid, READ, (11, 0, 1), dev=PIPE_DEV, ino=ino, kind="fifo")
        yield self.kernel.cost()
        return call
