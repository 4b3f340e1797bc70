"""Simulated sockets: connections between threads of this host, to another host, and from one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from culpa.sim.kernel import (
    ACCEPT4,
    ANON_DEV,
    ANON_INO,
    CLOSE,
    EPOLL_WAIT,
    IDLE,
    POLL,
    RECVFROM,
    SENDTO,
    SOCKET_DEV,
    Does,
    Kernel,
)
from culpa.sim.log import Cause, Message, MessageKind, Request, Socket, Syscall
from culpa.sim.program import Call, Service
from culpa.sim.scheduler import Pause


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
class Sockets:
    """All connections, and the calls on them."""

    kernel: Kernel
    listeners: dict[str, Listener] = field(default_factory=dict)

    def connect(self, pid: int, service: Service) -> End:
        """A connection from a process to a service; the server's end goes to whoever serves it."""
        port, listener = 30_000 + self.kernel.number() % 20_000, self.listeners.get(service.name)
        near = End(ino=self.kernel.number(), fd=self.kernel.fd(pid), protocol=service.protocol)
        remote = listener is None
        far = End(
            ino=self.kernel.number(),
            fd=-1 if listener is None else self.kernel.fd(listener.pid),
            protocol=service.protocol,
        )
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
        end = End(ino=self.kernel.number(), fd=self.kernel.fd(listener.pid), protocol=listener.service.protocol)
        end.peer = End(ino=0, fd=-1, protocol=end.protocol, arrived=arrived)
        self._note_socket(
            end.ino, listener.pid, listener.service.port, 30_000 + self.kernel.number() % 20_000, None, remote=True
        )
        self.hand_over(listener, end)
        return end

    def hand_over(self, listener: Listener, end: End) -> None:
        """Give a new connection to a thread that polls, in turn, or to the first that accepts."""
        if listener.polls:
            end.poller, polled = listener.polls[listener.given % len(listener.polls)]
            polled.append(end)
            self.kernel.log.owners[end.ino] = end.poller
            listener.given += 1
            return
        listener.pending.append(end)
        if listener.acceptors:
            self.kernel.sched.wake(listener.acceptors.pop(0), self.kernel.waker(None))

    def deliver(self, end: End, chunk: Chunk, sender: int | None) -> None:
        """Bytes reach the end they were sent to, in the context of the sender (None: from another host)."""
        for request in chunk.requests if chunk.last else ():
            if request.arrive_ns is None:
                request.arrive_ns, request.server_ino = self.kernel.sched.now, end.ino
            else:
                request.delivered_ns = self.kernel.sched.now
        if end.arrived is not None:
            end.arrived(chunk)
            return
        end.inbox.append(chunk)
        self._tell(end, sender)

    def _tell(self, end: End, by: int | None) -> None:
        """Wake who waits for this end; a poller's only idle wait is the one in epoll_wait."""
        pollers = [] if end.poller is None or self.kernel.sched.waits_for(end.poller) != IDLE else [end.poller]
        for tid in (*end.waiters, *pollers):
            self.kernel.sched.wake(tid, self.kernel.waker(by))

    def write(self, tid: int, end: End, chunk: Chunk) -> Does[None]:
        """sendto(2) on a connection."""
        yield self.kernel.user()
        assert end.peer is not None
        call = self._on_socket(tid, SENDTO, end, chunk.bytes)
        yield self.kernel.cost()
        if self.kernel.program.machine.delivery == "inside":
            self.deliver(end.peer, chunk, tid)
            yield self.kernel.cost()
        else:
            self.deliver(end.peer, chunk, tid)
        self.kernel.leave(call, chunk.bytes)
        self._note_message(call, end, (chunk,), "out")

    def read(self, tid: int, end: End, cause: Cause) -> Does[list[Chunk]]:
        """recvfrom(2): waits while there is nothing; takes all there is; nothing at the end of the connection."""
        yield self.kernel.user()
        call = self._on_socket(tid, RECVFROM, end, 16_384)
        yield self.kernel.cost()
        yield from self.until_readable(tid, end, cause)
        chunks, end.inbox = end.inbox, []
        self.kernel.leave(call, sum(chunk.bytes for chunk in chunks))
        if chunks:
            self._note_message(call, end, chunks, "in")
        return chunks

    def poll(self, tid: int, end: End, cause: Cause) -> Does[None]:
        """poll(2) on one connection."""
        yield self.kernel.user()
        call = self.kernel.enter(tid, POLL, (0x7FFC_0000_0000 + tid, 1, 2**32 - 1))
        yield self.kernel.cost()
        yield from self.until_readable(tid, end, cause)
        self.kernel.leave(call, 1)

    def epoll_wait(self, tid: int, ends: Sequence[End], tick_ns: int | None) -> Does[list[End]]:
        """epoll_wait(2) on many connections: those that are readable, none after the timeout."""
        yield self.kernel.user()
        timeout = 2**32 - 1 if tick_ns is None else tick_ns // 1_000_000
        call = self.kernel.enter(
            tid, EPOLL_WAIT, (5, 0x7FFC_0000_0000 + tid, timeout), dev=ANON_DEV, ino=ANON_INO, kind="anon"
        )
        yield self.kernel.cost()
        over: list[bool] = []
        while not over and not any(end.inbox or end.closed for end in ends):
            if tick_ns is not None:
                self.kernel.sched.wake_later(tid, tick_ns, lambda: self.kernel.waker(None), lambda: over.append(True))
            yield Pause(cause=IDLE)
            yield self.kernel.cost()
        ready = [end for end in ends if end.inbox or end.closed]
        self.kernel.leave(call, len(ready))
        return ready

    def until_readable(self, tid: int, end: End, cause: Cause) -> Does[None]:
        """Wait until there is something to read, or the other end has closed."""
        while not end.inbox and not end.closed:
            end.waiters.append(tid)
            yield Pause(cause=cause)
            end.waiters.remove(tid)
            yield self.kernel.cost()

    def accept(self, tid: int, listener: Listener) -> Does[End]:
        """accept4(2)."""
        yield self.kernel.user()
        call = self.kernel.enter(tid, ACCEPT4, (4, 0, 0), dev=SOCKET_DEV, kind="sock")
        yield self.kernel.cost()
        while not listener.pending:
            listener.acceptors.append(tid)
            yield Pause(cause=IDLE)
            yield self.kernel.cost()
        end = listener.pending.popleft()
        call.ino = end.ino
        self.kernel.log.owners[end.ino] = tid
        self.kernel.leave(call, end.fd)
        return end

    def close(self, tid: int, end: End) -> Does[None]:
        """close(2) of a connection; the other end reads its end."""
        yield self.kernel.user()
        call = self._on_socket(tid, CLOSE, end, 0)
        yield self.kernel.cost()
        assert end.peer is not None
        end.peer.closed = True
        self._tell(end.peer, tid)
        self.kernel.leave(call, 0)

    def new_requests(self, tid: int | None, op: Call) -> tuple[Request, ...]:
        """The requests of one call, entered in the log."""
        listener = self.listeners.get(op.service)
        made = tuple(
            Request(
                number=len(self.kernel.log.requests) + i,
                service=op.service,
                verb=op.verb,
                detail=op.detail,
                client_tid=tid,
                server_pid=None if listener is None else listener.pid,
            )
            for i in range(op.pipeline)
        )
        self.kernel.log.requests.extend(made)
        return made

    def _answer_remotely(self, service: Service, far: End, chunk: Chunk) -> None:
        if not chunk.last:
            return
        assert service.remote_ns is not None
        assert far.peer is not None
        near, answer = far.peer, Chunk(requests=chunk.requests, kind="response", last=True, bytes=300)
        self.kernel.sched.after(self.kernel.sched.draw(service.remote_ns), lambda: self.deliver(near, answer, None))

    def _on_socket(self, tid: int, nr: int, end: End, size: int) -> Syscall:
        return self.kernel.enter(
            tid, nr, (end.fd, 0x5500_0000_0000 + tid, size), dev=SOCKET_DEV, ino=end.ino, kind="sock"
        )

    def _note_socket(self, ino: int, pid: int, port: int, peer: int | None, peer_ino: int | None, remote: bool) -> None:
        self.kernel.log.sockets.append(
            Socket(ino=ino, pid=pid, local_port=port, peer_port=peer, peer_ino=peer_ino, remote=remote, listening=False)
        )

    def _note_message(self, call: Syscall, end: End, chunks: Sequence[Chunk], direction: Literal["in", "out"]) -> None:
        assert call.exit_ns is not None
        first = chunks[0]
        kind: MessageKind = "data" if end.protocol == "unknown" else first.kind
        request = first.requests[0] if kind == "request" else None
        self.kernel.log.messages.append(
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
