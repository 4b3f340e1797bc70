"""What things are called: threads, processes, files, sockets, devices.

Identity comes from the tables; names are looked up here and nowhere else. Names are hostile text: reporters escape
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.units import format_dev

RING_WORKERS = ("iou-wrk-", "io_wqe_worker-")
"""Until 5.12 they were kernel threads (3bfe6106693b, "io-wq: fork worker threads from original task")."""
MAX_COMM = 15
"""What the kernel keeps of a thread's name (TASK_COMM_LEN, include/linux/sched.h)."""
RING_TAKERS = ("iou-sqp-", "io_uring-sq")
LOOPBACK = ("127.", "::1")
NAME_SERVER_PORT = 53
"""RFC 1035; what is asked over TLS or HTTPS looks like any other connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """What a wait was spent on; exactly the parts that are known are set.

    `behind` is the request served meanwhile. `other` says what somebody else's data was doing at the device (a write, a
    read): then who is named is its owner.
    """

    path: str | None = None
    peer: str | None = None
    device: str | None = None
    syscall: str | None = None
    stage: str | None = None
    lock: str | None = None
    behind: str | None = None
    other: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process as the capture knows it."""

    pid: int
    starttime: int | None = None
    comm: str | None = None
    cmdline: str | None = None
    exe: str | None = None
    unit: str | None = None
    cgroup: str | None = None
    container: str | None = None
    caught: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """One socket: its ends, and the socket at the other end where that is on this host."""

    ino: int
    netns: int | None
    local: str
    peer: str
    peer_addr: str | None
    peer_port: int | None
    peer_ino: int | None
    peer_is_local: bool

    @property
    def asks_names(self) -> bool:
        """Whether what is awaited on it is a name server's answer."""
        return self.peer_port == NAME_SERVER_PORT


class Objects:
    """Names and identities in one capture."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    @cached_property
    def comm(self) -> dict[int, str]:
        """tid to thread name."""
        tasks = self._capture.frame(schema.TASKS).drop_nulls(["tid", "comm"])
        return dict(zip(tasks["tid"].to_list(), tasks["comm"].to_list(), strict=True))

    @cached_property
    def kernel_tids(self) -> frozenset[int]:
        """Kernel threads."""
        tasks = self._capture.frame(schema.TASKS).drop_nulls("tid")
        return frozenset(tasks.filter(pl.col("kernel").fill_null(value=False))["tid"].to_list())

    @cached_property
    def ring_threads(self) -> frozenset[int]:
        """Threads that the kernel made in a process that uses io_uring: its workers, and those that take requests."""
        return frozenset(tid for tid, comm in self.comm.items() if comm.startswith((*RING_WORKERS, *RING_TAKERS)))

    @cached_property
    def ring_workers(self) -> frozenset[int]:
        """Those of `ring_threads` that do what would make its caller wait."""
        return frozenset(tid for tid, comm in self.comm.items() if comm.startswith(RING_WORKERS))

    def works_for(self, worker: int, tid: int) -> bool:
        """Whether a thread is a worker of io_uring that does what another one asks for: it is named after that one
        (io_init_new_worker in io_uring/io-wq.c). The older ones, which are named after nobody, may work for anybody.
        """
        comm = self.comm.get(worker, "")
        owned = comm.startswith(RING_WORKERS[0])
        return worker in self.ring_workers and (not owned or comm == f"{RING_WORKERS[0]}{tid}"[:MAX_COMM])

    @cached_property
    def pid_of(self) -> dict[int, int]:
        """tid to pid."""
        tasks = self._capture.frame(schema.TASKS).drop_nulls(["tid", "pid"])
        return dict(zip(tasks["tid"].to_list(), tasks["pid"].to_list(), strict=True))

    @cached_property
    def journal_tids(self) -> frozenset[int]:
        """The threads that write the journals of ext4 and ocfs2 (fs/jbd2/journal.c)."""
        return frozenset(tid for tid in self.kernel_tids if (self.comm.get(tid) or "").startswith("jbd2/"))

    @cached_property
    def _processes(self) -> dict[int, Process]:
        names = ("pid", "starttime", "comm", "cmdline", "exe", "unit", "cgroup", "container", "caught")
        rows = self._capture.frame(schema.PROCESSES).drop_nulls("pid").select(names)
        return {row[0]: Process(**dict(zip(names, row, strict=True))) for row in rows.iter_rows()}

    @cached_property
    def own_pids(self) -> frozenset[int]:
        """culpa itself, while it watched."""
        rows = self._capture.frame(schema.PROCESSES).filter(pl.col("role") == "culpa")
        return frozenset(rows["pid"].drop_nulls().to_list())

    def process(self, pid: int) -> Process:
        """The process; only its pid and name where /proc was too late."""
        return self._processes.get(pid) or Process(pid=pid, comm=self.comm.get(pid))

    def thread_name(self, tid: int) -> str:
        """`comm[tid]`."""
        return f"{self.comm.get(tid) or self.process(tid).comm or 'thread'}[{tid}]"

    @cached_property
    def _files(self) -> dict[tuple[int, int], str]:
        rows = self._capture.frame(schema.FILES).drop_nulls(["dev", "ino", "path"])
        return {(dev, ino): path for dev, ino, path in rows.select("dev", "ino", "path").iter_rows()}

    def file(self, dev: int, ino: int) -> str:
        """The file's path; its identity where the path is not known."""
        return self._files.get((dev, ino)) or f"inode {ino} on device {self.device(dev)}"

    @cached_property
    def inner_paths(self) -> dict[str, str]:
        """Path as the host sees it to the path as the process sees it, where these differ."""
        rows = self._capture.frame(schema.FILES).drop_nulls(["path", "inner_path"])
        return dict(rows.select("path", "inner_path").iter_rows())

    @cached_property
    def _devices(self) -> dict[int, str]:
        rows = self._capture.frame(schema.DEVICES).drop_nulls(["dev", "name"])
        return dict(zip(rows["dev"].to_list(), rows["name"].to_list(), strict=True))

    def device(self, dev: int) -> str:
        """The kernel's name of the device, else `major:minor`."""
        return self._devices.get(dev) or format_dev(dev)

    @cached_property
    def pure_servers(self) -> frozenset[int]:
        """Processes that listen and have asked nobody: whatever they wait for, it is work.

        A connection from a port of its own that does not listen says that a process is a client as well.
        """
        rows = self._capture.frame(schema.SOCKETS).drop_nulls("pid")
        listening = rows.filter(pl.col("listening").fill_null(value=False))
        ports = listening["local_port"].drop_nulls().implode()
        connected = ~pl.col("listening").fill_null(value=False) & pl.col("peer_addr").is_not_null()
        clients = rows.filter(connected & ~pl.col("local_port").is_in(ports).fill_null(value=False))
        return frozenset(listening["pid"].to_list()) - frozenset(clients["pid"].to_list())

    @cached_property
    def client_sockets(self) -> frozenset[int]:
        """Connected sockets at the end that asked for the connection: nobody listens on their port, or they have no
        name.
        """
        rows = self._capture.frame(schema.SOCKETS).drop_nulls("ino")
        ports = rows.filter(pl.col("listening").fill_null(value=False))["local_port"].drop_nulls().implode()
        serves = pl.col("local_port").is_in(ports).fill_null(pl.col("local_addr").is_not_null())
        connected = pl.col("peer_addr").is_not_null() | pl.col("peer_ino").is_not_null()
        return frozenset(rows.filter(connected & ~serves)["ino"].to_list())

    @cached_property
    def unix_peers(self) -> dict[int, int]:
        """Inode of a unix socket to that of its other end."""
        rows = self._capture.frame(schema.SOCKETS).filter(pl.col("family") == "unix").drop_nulls(["ino", "peer_ino"])
        return dict(zip(rows["ino"].to_list(), rows["peer_ino"].to_list(), strict=True))

    @cached_property
    def sockets(self) -> dict[int, Socket]:
        """Socket inode to socket."""
        rows = self._capture.frame(schema.SOCKETS).drop_nulls("ino")
        names = ("ino", "netns", "family", "local_addr", "local_port", "peer_addr", "peer_port", "peer_ino")
        here = {addr for addr in rows["local_addr"].to_list() if addr}
        found: dict[int, Socket] = {}
        for ino, netns, family, local, local_port, peer, peer_port, peer_ino in rows.select(names).iter_rows():
            local_here = family == "unix" or peer_ino is not None or (peer or "").startswith(LOOPBACK) or peer in here
            found[ino] = Socket(
                ino=ino,
                netns=netns,
                local=_endpoint(local, local_port),
                peer=_endpoint(local if family == "unix" and not peer else peer, peer_port),
                peer_addr=peer,
                peer_port=peer_port,
                peer_ino=peer_ino,
                peer_is_local=local_here,
            )
        return found


def _endpoint(addr: str | None, port: int | None) -> str:
    if port is None:
        return addr or "an unnamed socket"
    return f"[{addr}]:{port}" if addr and ":" in addr else f"{addr or '?'}:{port}"
