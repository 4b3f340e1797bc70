"""The simulated kernel: sockets, one block device, a journal, locks, helper channels, and system calls as steps.

Stands on `scheduler`; `behaviour` makes threads out of it. Every system call is a generator of steps that writes its
own row into the log. System call numbers are those of x86_64.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from culpa.sim.log import Block, Cause, Job, Log, Message, MessageKind, Request, Socket, Syscall
from culpa.sim.program import Call, Program, Service
from culpa.sim.scheduler import Pause, Run, Scheduler
from culpa.units import dev_t

ChannelKind = Literal["pipe", "queue"]
T = TypeVar("T")
Does = Generator[Run | Pause, None, T]
"""Steps that end in a value."""

READ, WRITE, CLOSE, POLL, PREAD64, PAUSE, SENDTO, RECVFROM, CONNECT = 0, 1, 3, 7, 17, 34, 44, 45, 42
FSYNC, FDATASYNC, FUTEX, CLOCK_NANOSLEEP, EPOLL_WAIT, ACCEPT4 = 74, 75, 202, 230, 232, 288
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129

FILE_DEV = dev_t(7, 5)
SOCKET_DEV, PIPE_DEV, ANON_DEV = dev_t(0, 8), dev_t(0, 14), dev_t(0, 15)
ANON_INO = 1060
IDLE = Cause(kind="idle")

_SCHEDULE = ("__schedule", "schedule")
_IO = (*_SCHEDULE, "io_schedule")
_SYNC = ("ext4_sync_file", "do_fsync", "__x64_sys_fdatasync", "do_syscall_64")
STACK_DATA = (*_IO, "folio_wait_bit_common", "folio_wait_writeback", "__filemap_fdatawait_range", *_SYNC)
STACK_COMMIT = (*_SCHEDULE, "jbd2_log_wait_commit", "jbd2_complete_transaction", *_SYNC)
STACK_FLUSH = (*_IO, "submit_bio_wait", "blkdev_issue_flush", *_SYNC)
STACK_READ = (*_IO, "folio_wait_bit_common", "filemap_read", "ext4_file_read_iter", "vfs_read", "__x64_sys_pread64")
STACK_JOURNAL = (*_IO, "bit_wait_io", "__wait_on_buffer", "jbd2_journal_commit_transaction", "kjournald2", "kthread")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Bytes of one write: of which requests, and whether they end what they belong to."""

    requests: tuple[Request, ...]
    kind: MessageKind
    last: bool
    bytes: int


@dataclass(slots=True, kw_only=True)
class End:
    """One end of a connection. `arrived` replaces the inbox where nobody of this host reads it; `poller` is the thread
    in whose epoll set it is, `waiters` are those who wait for this end alone."""

    ino: int
    fd: int
    protocol: str
    inbox: list[Chunk] = field(default_factory=list)
    waiters: list[int] = field(default_factory=list)
    peer: End | None = None
    poller: int | None = None
    closed: bool = False
    arrived: Callable[[Chunk], None] | None = None


@dataclass(slots=True, kw_only=True)
class Listener:
    """The listening side of a service: connections nobody took yet, who waits for one, who polls all of them."""

    service: Service
    pid: int
    ino: int
    pending: deque[End] = field(default_factory=deque)
    acceptors: list[int] = field(default_factory=list)
    polls: list[tuple[int, list[End]]] = field(default_factory=list)
    given: int = 0


@dataclass(slots=True, kw_only=True)
class Channel:
    """The way to a helper thread and back: two pipes, or two words of memory."""

    kind: ChannelKind
    helper_tid: int
    ino: int
    back_ino: int
    uaddr: int
    back_uaddr: int
    jobs: deque[Job] = field(default_factory=deque)


@dataclass(slots=True, kw_only=True)
class Lock:
    """A futex lock: whoever comes first after a release gets it."""

    number: int
    uaddr: int
    holder: int | None = None
    waiters: deque[int] = field(default_factory=deque)


@dataclass(slots=True, kw_only=True)
class Journal:
    """Commits are numbered from 1; a sync needs the first commit that begins after it was asked for."""

    asked: int = 0
    running: int | None = None
    done: int = 0
    waiters: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Kernel:
    """Everything that threads share."""

    program: Program
    sched: Scheduler
    log: Log
    listeners: dict[str, Listener] = field(default_factory=dict)
    channels: dict[str, Channel] = field(default_factory=dict)
    locks: dict[str, Lock] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    _device: deque[Block] = field(default_factory=deque)
    _numbers: int = 5000
    _fds: dict[int, int] = field(default_factory=dict)

    # Small things

    def number(self) -> int:
        """A number nobody has yet: an inode, a port."""
        self._numbers += 1
        return self._numbers

    def fd(self, pid: int) -> int:
        """A file descriptor the process has not used yet."""
        self._fds[pid] = self._fds.get(pid, 2) + 1
        return self._fds[pid]

    def user(self) -> Run:
        """The moment between two system calls."""
        return Run(ns=self.sched.draw(self.program.machine.user_ns))

    def cost(self) -> Run:
        """The CPU that a piece of a system call takes."""
        return Run(ns=self.sched.draw(self.program.machine.syscall_ns))

    def file(self, path: str) -> int:
        """The inode of a file."""
        return self.log.files.setdefault(path, 100_000 + len(self.log.files))

    def enter(
        self,
        tid: int,
        nr: int,
        args: tuple[int, int, int],
        *,
        dev: int | None = None,
        ino: int | None = None,
        kind: str | None = None,
    ) -> Syscall:
        """A system call begins."""
        call = Syscall(tid=tid, nr=nr, enter_ns=self.sched.now, args=args, dev=dev, ino=ino, file_type=kind)
        self.log.syscalls.append(call)
        return call

    def leave(self, call: Syscall, ret: int) -> None:
        """It ends."""
        call.exit_ns, call.ret = self.sched.now, ret

    def waker(self, true: int | None) -> int | None:
        """The waker that a tracer sees: the true one, or as often as the machine says, whoever was interrupted."""
        rng = self.sched.rng
        return true if rng.random() < self.program.machine.true_wakers else rng.choice([self.sched.interrupted(), None])

    # Sockets

    def connect(self, pid: int, service: Service) -> End:
        """A connection from a process to a service; the server's end goes to whoever serves it."""
        port, listener = 30_000 + self.number() % 20_000, self.listeners.get(service.name)
        near = End(ino=self.number(), fd=self.fd(pid), protocol=service.protocol)
        remote = listener is None
        far = End(ino=self.number(), fd=-1 if listener is None else self.fd(listener.pid), protocol=service.protocol)
        near.peer, far.peer = far, near
        self._note_socket(near.ino, pid, port, service.port, None if remote else far.ino, remote)
        if listener is None:
            far.arrived = lambda chunk: self._answer_remotely(service, far, chunk)
        else:
            self._note_socket(far.ino, listener.pid, service.port, port, near.ino, remote=False)
            self.hand_over(listener, far)
        return near

    def connect_from_afar(self, service: str, arrived: Callable[[Chunk], None]) -> End:
        """A connection from another host: the server's end."""
        listener = self.listeners[service]
        end = End(ino=self.number(), fd=self.fd(listener.pid), protocol=listener.service.protocol)
        end.peer = End(ino=0, fd=-1, protocol=end.protocol, arrived=arrived)
        self._note_socket(
            end.ino, listener.pid, listener.service.port, 30_000 + self.number() % 20_000, None, remote=True
        )
        self.hand_over(listener, end)
        return end

    def hand_over(self, listener: Listener, end: End) -> None:
        """Give a new connection to a thread that polls, in turn, or to the first that accepts."""
        if listener.polls:
            end.poller, polled = listener.polls[listener.given % len(listener.polls)]
            polled.append(end)
            self.log.owners[end.ino] = end.poller
            listener.given += 1
            return
        listener.pending.append(end)
        if listener.acceptors:
            self.sched.wake(listener.acceptors.pop(0), self.waker(None))

    def deliver(self, end: End, chunk: Chunk, sender: int | None) -> None:
        """Bytes reach the end they were sent to, in the context of the sender (None: from another host)."""
        for request in chunk.requests if chunk.last else ():
            if request.arrive_ns is None:
                request.arrive_ns, request.server_ino = self.sched.now, end.ino
            else:
                request.delivered_ns = self.sched.now
        if end.arrived is not None:
            end.arrived(chunk)
            return
        end.inbox.append(chunk)
        self._tell(end, sender)

    def _tell(self, end: End, by: int | None) -> None:
        """Wake who waits for this end; a poller's only idle wait is the one in epoll_wait."""
        pollers = [] if end.poller is None or self.sched.waits_for(end.poller) != IDLE else [end.poller]
        for tid in (*end.waiters, *pollers):
            self.sched.wake(tid, self.waker(by))

    def write(self, tid: int, end: End, chunk: Chunk) -> Does[None]:
        """sendto(2) on a connection."""
        yield self.user()
        assert end.peer is not None
        call = self._on_socket(tid, SENDTO, end, chunk.bytes)
        yield self.cost()
        if self.program.machine.delivery == "inside":
            self.deliver(end.peer, chunk, tid)
            yield self.cost()
        else:
            self.deliver(end.peer, chunk, tid)
        self.leave(call, chunk.bytes)
        self._note_message(call, end, (chunk,), "out")

    def read(self, tid: int, end: End, cause: Cause) -> Does[list[Chunk]]:
        """recvfrom(2): waits while there is nothing; takes all there is; nothing at the end of the connection."""
        yield self.user()
        call = self._on_socket(tid, RECVFROM, end, 16_384)
        yield self.cost()
        yield from self.until_readable(tid, end, cause)
        chunks, end.inbox = end.inbox, []
        self.leave(call, sum(chunk.bytes for chunk in chunks))
        if chunks:
            self._note_message(call, end, chunks, "in")
        return chunks

    def poll(self, tid: int, end: End, cause: Cause) -> Does[None]:
        """poll(2) on one connection."""
        yield self.user()
        call = self.enter(tid, POLL, (0x7FFC_0000_0000 + tid, 1, 2**32 - 1))
        yield self.cost()
        yield from self.until_readable(tid, end, cause)
        self.leave(call, 1)

    def epoll_wait(self, tid: int, ends: Sequence[End], tick_ns: int | None) -> Does[list[End]]:
        """epoll_wait(2) on many connections: those that are readable, none after the timeout."""
        yield self.user()
        timeout = 2**32 - 1 if tick_ns is None else tick_ns // 1_000_000
        call = self.enter(
            tid, EPOLL_WAIT, (5, 0x7FFC_0000_0000 + tid, timeout), dev=ANON_DEV, ino=ANON_INO, kind="anon"
        )
        yield self.cost()
        over: list[bool] = []
        while not over and not any(end.inbox or end.closed for end in ends):
            if tick_ns is not None:
                self.sched.wake_later(tid, tick_ns, lambda: self.waker(None), lambda: over.append(True))
            yield Pause(cause=IDLE)
            yield self.cost()
        ready = [end for end in ends if end.inbox or end.closed]
        self.leave(call, len(ready))
        return ready

    def until_readable(self, tid: int, end: End, cause: Cause) -> Does[None]:
        """Wait until there is something to read, or the other end has closed."""
        while not end.inbox and not end.closed:
            end.waiters.append(tid)
            yield Pause(cause=cause)
            end.waiters.remove(tid)
            yield self.cost()

    def accept(self, tid: int, listener: Listener) -> Does[End]:
        """accept4(2)."""
        yield self.user()
        call = self.enter(tid, ACCEPT4, (4, 0, 0), dev=SOCKET_DEV, kind="sock")
        yield self.cost()
        while not listener.pending:
            listener.acceptors.append(tid)
            yield Pause(cause=IDLE)
            yield self.cost()
        end = listener.pending.popleft()
        call.ino = end.ino
        self.log.owners[end.ino] = tid
        self.leave(call, end.fd)
        return end

    def close(self, tid: int, end: End) -> Does[None]:
        """close(2) of a connection; the other end reads its end."""
        yield self.user()
        call = self._on_socket(tid, CLOSE, end, 0)
        yield self.cost()
        assert end.peer is not None
        end.peer.closed = True
        self._tell(end.peer, tid)
        self.leave(call, 0)

    def new_requests(self, tid: int | None, op: Call) -> tuple[Request, ...]:
        """The requests of one call, entered in the log."""
        listener = self.listeners.get(op.service)
        made = tuple(
            Request(
                number=len(self.log.requests) + i,
                service=op.service,
                verb=op.verb,
                detail=op.detail,
                client_tid=tid,
                server_pid=None if listener is None else listener.pid,
            )
            for i in range(op.pipeline)
        )
        self.log.requests.extend(made)
        return made

    def _answer_remotely(self, service: Service, far: End, chunk: Chunk) -> None:
        if not chunk.last:
            return
        assert service.remote_ns is not None
        assert far.peer is not None
        near, answer = far.peer, Chunk(requests=chunk.requests, kind="response", last=True, bytes=300)
        self.sched.after(self.sched.draw(service.remote_ns), lambda: self.deliver(near, answer, None))

    def _on_socket(self, tid: int, nr: int, end: End, size: int) -> Syscall:
        return self.enter(tid, nr, (end.fd, 0x5500_0000_0000 + tid, size), dev=SOCKET_DEV, ino=end.ino, kind="sock")

    def _note_socket(self, ino: int, pid: int, port: int, peer: int | None, peer_ino: int | None, remote: bool) -> None:
        self.log.sockets.append(
            Socket(ino=ino, pid=pid, local_port=port, peer_port=peer, peer_ino=peer_ino, remote=remote, listening=False)
        )

    def _note_message(self, call: Syscall, end: End, chunks: Sequence[Chunk], direction: Literal["in", "out"]) -> None:
        assert call.exit_ns is not None
        first = chunks[0]
        kind: MessageKind = "data" if end.protocol == "unknown" else first.kind
        request = first.requests[0] if kind == "request" else None
        self.log.messages.append(
            Message(
                tid=call.tid,
                ino=end.ino,
                enter_ns=call.enter_ns,
                exit_ns=call.exit_ns,
                direction=direction,
                kind=kind,
                protocol=end.protocol,
                verb=None if request is None else request.verb,
                detail=None if request is None else request.detail,
                commands=None if kind == "data" else sum(len(c.requests) for c in chunks if c.kind == kind),
                bytes=sum(chunk.bytes for chunk in chunks),
            )
        )

    # Files, the device, the journal

    def submit(self, tid: int, op: Literal["read", "write", "flush"], ino: int | None) -> Block:
        """Queue a request for the device."""
        block = Block(number=len(self.log.blocks), tid=tid, op=op, ino=ino, queued_ns=self.sched.now)
        self.log.blocks.append(block)
        self._device.append(block)
        if len(self._device) == 1:
            self._issue()
        return block

    def until_complete(self, block: Block, stack: tuple[str, ...]) -> Does[None]:
        """Wait for a block request."""
        while block.complete_ns is None:
            yield Pause(cause=Cause(kind="block", ids=(block.number,)), state=2, stack=stack)
            yield self.cost()

    def _issue(self) -> None:
        block, machine = self._device[0], self.program.machine
        block.issue_ns = self.sched.now
        self.sched.after(
            self.sched.draw(machine.flush_ns if block.op == "flush" else machine.device_ns), self._complete
        )

    def _complete(self) -> None:
        block = self._device.popleft()
        block.complete_ns = self.sched.now
        self.sched.wake(block.tid, self.waker(None))
        if self._device:
            self._issue()

    def until_committed(self, tid: int) -> Does[None]:
        """Ask the journal for a commit and wait for it."""
        journal = self.journal
        wanted = (journal.done if journal.running is None else journal.running) + 1
        journal.asked = max(journal.asked, wanted)
        if journal.running is None:
            self.sched.wake(self.program.journal_tid, tid)
        while journal.done < wanted:
            journal.waiters.append(tid)
            yield Pause(cause=Cause(kind="commit", ids=(wanted,)), state=2, stack=STACK_COMMIT)
            yield self.cost()

    def journal_thread(self) -> Does[None]:
        """kjournald2: commits when asked, one after the other."""
        tid, journal = self.program.journal_tid, self.journal
        while True:
            yield self.cost()
            while journal.asked <= journal.done:
                yield Pause(cause=IDLE)
                yield self.cost()
            journal.running = journal.done + 1
            for _ in range(self.sched.draw(self.program.machine.journal_blocks)):
                yield self.cost()
                yield from self.until_complete(self.submit(tid, "write", None), STACK_JOURNAL)
            yield from self.until_complete(self.submit(tid, "flush", None), STACK_JOURNAL)
            journal.done, journal.running = journal.running, None
            waiters, journal.waiters = journal.waiters, []
            for waiter in waiters:
                self.sched.wake(waiter, tid)
