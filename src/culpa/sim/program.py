"""A program for the simulator, as data: which threads there are and what each of them does.

First room of the simulator: `random_programs` makes these, `engine` runs them. All times are nanoseconds of simulated
time that begins at 0. Names of services, files, locks and helpers are free; the simulator attaches no meaning to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Protocol = Literal["http", "resp", "unknown"]
Span = tuple[int, int]
"""An inclusive range to draw nanoseconds from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Use a CPU for `ns`."""

    ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """clock_nanosleep for `ns`."""

    ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Ask a service and wait for all answers.

    `pipeline` requests go out in the same write, which is split in two when `parts` is 2; `wait` is the system call
    in which the thread waits; with `fresh` every call opens and closes its own connection.
    """

    service: str
    verb: str
    detail: str | None = None
    pipeline: int = 1
    parts: int = 1
    wait: Literal["poll", "recv"] = "poll"
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """write(2) to a file, then fsync or fdatasync it; `journal` says whether the sync needs a commit."""

    file: str
    data_only: bool = True
    journal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectRead:
    """pread64 of a file that is not cached: one block request, waited for."""

    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """Do `ops` while holding a lock. Locks do not nest."""

    lock: str
    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """One write(2) to a file to which several write: the kernel holds the lock of its inode while the thread computes
    for `ns` and then reads a block of the file.
    """

    file: str
    ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Give a job to a helper thread of the same process and wait until it is done."""

    helper: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Have the kernel do `count` requests on a file beside the thread, do `meanwhile`, then wait until all are done.

    Reads and writes go to the device, past the page cache; an fsync is done by the thread's worker of io_uring, and
    needs a commit of the journal. Each call waits for `least` completions, and with `tick_ns` no longer than that.
    `each`: every completion wakes the thread, not only the one that is enough. `posts`: who posts the completion of
    what a worker did. `meanwhile` makes no such requests.
    """

    file: str
    interface: Literal["io_uring", "libaio"]
    op: Literal["read", "write", "fsync"] = "write"
    count: int = 1
    least: int = 1
    each: bool = False
    tick_ns: int | None = None
    posts: Literal["worker", "waiter"] = "worker"
    meanwhile: tuple[Op, ...] = ()


Need = Literal["swap", "host", "group", "compaction", "high"]
"""What a thread does for memory: read a page back from swap; make room because the host has none, at the limit of its
control group, or in one piece; pause above memory.high.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """Touch a page that is not there.

    Without `pause_ns` (swap, host, group) the thread waits until the device has read the page, or taken what is thrown
    out; with it (all but swap) it waits that long, and what it throws out for the host or the group is written beside
    it. `within`: the file to which a write call copies that page. The pause above memory.high comes after the call.
    """

    need: Need
    pause_ns: int | None = None
    within: str | None = None


Op = Compute | Sleep | Call | Sync | DirectRead | Locked | Shared | Ask | Beside | Touch


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Do `ops` `times` times, then pause for good."""

    ops: tuple[Op, ...]
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """Answer the requests of a service.

    `epoll`: one thread, many connections, one request at a time. With `flush` it works as Redis does: it handles
    everything that is ready, does `flush` for all of it, and only then writes the answers. `tick_ns` bounds an
    idle epoll_wait. `accept`: takes a connection, serves it until it closes, takes the next.
    """

    service: str
    handlers: Mapping[str, tuple[Op, ...]]
    style: Literal["epoll", "accept"] = "epoll"
    reply_parts: int = 1
    between_parts_ns: int = 20_000
    flush: tuple[Op, ...] = ()
    tick_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """Take the jobs of a helper's channel, one at a time: through a pipe, or a queue with a futex."""

    helper: str
    ops: tuple[Op, ...]
    channel: Literal["pipe", "queue"] = "queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A worker of io_uring: does for one thread, in order, what would make that wait."""

    owner_tid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """One thread."""

    tid: int
    comm: str
    body: Loop | Serve | Help | Work
    start_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process; `watched` says whether the tracer follows its threads, and `watched_ns` since when."""

    pid: int
    name: str
    role: Literal["target", "peer", "waker"]
    threads: tuple[Thread, ...]
    watched: bool = True
    watched_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A listening address. `remote_ns` set: it is on another host, and answers after that long."""

    name: str
    port: int
    protocol: Protocol
    remote_ns: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteClient:
    """A client on another host: asks, waits for the answer, thinks for `think_ns`, `times` times."""

    service: str
    verb: str
    detail: str | None
    think_ns: int
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The host: its CPUs, what a piece of a system call, the way to one and a wake-up cost, how fast its device is.

    `delivery`: the instant within a write at which the bytes reach the other end: its very end, or somewhere inside.
    `true_wakers`: the share of deliveries and completions that carry the waker they should have (the sender; nobody);
    the rest carry nobody or whoever happened to run.
    """

    cpus: int = 2
    slice_ns: int = 3_000_000
    syscall_ns: Span = (400, 4_000)
    user_ns: Span = (60, 600)
    wake_ns: Span = (0, 30_000)
    device_ns: Span = (20_000, 500_000)
    flush_ns: Span = (50_000, 1_000_000)
    journal_blocks: Span = (1, 3)
    delivery: Literal["exit", "inside"] = "exit"
    true_wakers: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Everything one run is made of. The root is the requests that the process `target_pid` serves."""

    seed: int
    machine: Machine = field(default_factory=Machine)
    processes: tuple[Process, ...]
    services: tuple[Service, ...] = ()
    remote_clients: tuple[RemoteClient, ...] = ()
    target_pid: int
    journal_tid: int = 90
    journal_watched_ns: int = 0
    window: Span
