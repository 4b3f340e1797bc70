"""What a run of the simulator leaves behind: every scheduled fact, complete and unclipped.

`emit` shows the part of it that a tracer would have seen; `truth` explains requests from all of it. Records are filled
in while the simulation goes on, so a field that is None at the end means: it had not happened yet.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from culpa.sim.program import Need

State = Literal["running", "runnable", "waiting"]
CauseKind = Literal["sleep", "idle", "reply", "commit", "block", "lock", "turn", "job", "reclaim"]
MessageKind = Literal["request", "response", "data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What a thread truly waits for. `ids`: request, block, job or commit numbers; one lock number, also for a turn at
    a lock of the kernel, which whoever waits longest gets; else empty. `room`: what it does for memory, where it does.
    """

    kind: CauseKind
    ids: tuple[int, ...] = ()
    room: Need | None = None


@dataclass(slots=True, kw_only=True)
class Off:
    """One stretch off the CPU. `cause` is None where it was preempted."""

    tid: int
    off_ns: int
    wake_ns: int | None = None
    on_ns: int | None = None
    state: int
    cpu: int | None = None
    waker: int | None = None
    stack: tuple[str, ...] | None = None
    prev_tid: int | None = None
    cause: Cause | None = None


@dataclass(slots=True, kw_only=True)
class Syscall:
    """One system call; `fd_ino` and `file_type` as in `schema.SYSCALLS`."""

    tid: int
    nr: int
    enter_ns: int
    exit_ns: int | None = None
    ret: int | None = None
    args: tuple[int, int, int] = (0, 0, 0)
    dev: int | None = None
    ino: int | None = None
    file_type: str | None = None


@dataclass(slots=True, kw_only=True)
class Message:
    """One read or write on a socket that moved bytes."""

    tid: int
    ino: int
    enter_ns: int
    exit_ns: int
    direction: Literal["in", "out"]
    kind: MessageKind
    protocol: str
    verb: str | None
    detail: str | None
    commands: int | None
    bytes: int


@dataclass(slots=True, kw_only=True)
class Request:
    """One request of a service.

    `sent_ns`, `read_ns` and `reply_ns` are ends of calls: the client's last write, the server's read of the last byte,
    its last write of the answer. `arrive_ns` and `delivered_ns` are the instants at which the last bytes reached the
    other end. `server_*` are None on another host, `server_tid` also while the request is unread.
    """

    number: int
    service: str
    verb: str
    detail: str | None
    client_tid: int | None
    server_pid: int | None
    server_ino: int | None = None
    server_tid: int | None = None
    sent_ns: int | None = None
    arrive_ns: int | None = None
    read_ns: int | None = None
    reply_ns: int | None = None
    delivered_ns: int | None = None


@dataclass(slots=True, kw_only=True)
class Block:
    """One request to the device, which serves one at a time in order of arrival; `writer` dirtied what it carries."""

    number: int
    tid: int
    writer: int
    op: Literal["read", "write", "flush"]
    ino: int | None
    queued_ns: int
    issue_ns: int | None = None
    complete_ns: int | None = None


@dataclass(slots=True, kw_only=True)
class Job:
    """One job given to a helper thread."""

    number: int
    asker_tid: int
    asked_ns: int
    helper_tid: int
    taken_ns: int | None = None
    done_ns: int | None = None


@dataclass(slots=True, kw_only=True)
class Aside:
    """One request that the kernel does beside the thread: a block request, or a worker's job.

    `posted_ns`: when its completion was posted (io_uring) or its event taken (libaio), by `ender_tid`.
    """

    tid: int
    interface: Literal["io_uring", "libaio"]
    ring: int
    op: Literal["read", "write", "fsync"]
    ino: int
    given_ns: int
    of: Block | Job
    posted_ns: int | None = None
    ender_tid: int | None = None

    @property
    def cause(self) -> Cause:
        """That of a wait for it."""
        return Cause(kind="block" if isinstance(self.of, Block) else "job", ids=(self.of.number,))

    @property
    def is_done(self) -> bool:
        """Whether the device or the worker is done with it."""
        return (self.of.complete_ns if isinstance(self.of, Block) else self.of.done_ns) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """One socket; `peer_ino` is None for a listener and where the other end is remote."""

    ino: int
    pid: int
    local_port: int
    peer_port: int | None
    peer_ino: int | None
    remote: bool
    listening: bool


@dataclass(slots=True, kw_only=True)
class Log:
    """A whole run. `states[tid]` and `holders[lock]` say since when a thread has been in a state, or held a lock;
    `handed[lock]` when which thread handed it over to one that waited; times within one list rise. `owners` says which
    thread serves a connection, by the inode of the server's end."""

    end_ns: int = 0
    states: dict[int, list[tuple[int, State]]] = field(default_factory=lambda: defaultdict(list))
    offs: dict[int, list[Off]] = field(default_factory=lambda: defaultdict(list))
    syscalls: list[Syscall] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    asides: list[Aside] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)
    holders: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    handed: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
