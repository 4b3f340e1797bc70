"""A hand-made scene: a service answers an HTTP request by asking a Redis server, on a clock of round numbers.

Every duration is chosen here, so what the verdict must say is known by construction and not by running culpa.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.columns import Table
from culpa.capture.manifest import Cost, Evidence, Host, Manifest, Target, TargetKind, Window

US = 1_000
MS = 1_000_000
APP, REDIS, JOURNAL = 500, 600, 70
APP_HTTP, APP_REDIS, REDIS_APP = 11, 12, 21
AOF = "/data/some.aof"
PROBE_PORT = 4001
ASK_NS, WAKE_NS, WORK_NS, GAP_NS = 5 * US, 2 * US, 10 * US, 20 * US
SENDTO, RECVFROM, READ, WRITE, FDATASYNC, EPOLL = 44, 45, 0, 1, 75, 232


@dataclass
class Scene:
    """Grows the tables of a capture; `now` is the clock."""

    start: int = 1_000 * MS
    now: int = field(init=False)
    rows: dict[str, dict[str, list[object]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    asleep_since: int = field(init=False)
    probes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.asleep_since = self.start

    def add(self, table: Table, **values: object) -> None:
        """One row; columns left out are null."""
        for column in table.columns:
            self.rows[table.name][column.name].append(values.get(column.name))

    def call(
        self, tid: int, nr: int, enter: int, leave: int, *, ino: int, kind: str = "sock", ret: int = 8, dev: int = 8
    ) -> None:
        """One system call."""
        self.add(
            schema.SYSCALLS,
            enter_ns=enter,
            exit_ns=leave,
            tid=tid,
            pid=tid,
            nr=nr,
            ret=ret,
            arg0=3,
            arg1=0,
            arg2=0,
            dev=dev,
            ino=ino,
            file_type=kind,
        )

    def message(
        self,
        tid: int,
        ino: int,
        enter: int,
        leave: int,
        direction: str,
        kind: str,
        protocol: str,
        verb: str | None = None,
        detail: str | None = None,
        status: int = 0,
    ) -> None:
        """One message on a socket."""
        self.add(
            schema.MESSAGES,
            enter_ns=enter,
            exit_ns=leave,
            tid=tid,
            pid=tid,
            ino=ino,
            direction=direction,
            protocol=protocol,
            kind=kind,
            verb=verb,
            detail=detail,
            status=status if kind == "response" else None,
            commands=1,
            bytes=40,
        )

    def sleep(
        self,
        tid: int,
        off: int,
        wake: int,
        on: int,
        *,
        state: int = 1,
        waker: int | None = None,
        stack: int | None = None,
    ) -> None:
        """One stretch off the CPU."""
        self.add(
            schema.OFFCPU,
            off_ns=off,
            wake_ns=wake,
            on_ns=on,
            tid=tid,
            pid=tid,
            state=state,
            cpu=0,
            waker_tid=waker,
            waker_pid=waker,
            stack_id=stack,
        )

    def request_arrives(self, method: str = "GET", path: str = "/thing") -> None:
        """The probe asks; the service wakes and reads."""
        self.probes.append((self.now, 0))
        self.sleep(APP, self.asleep_since, self.now + WAKE_NS, self.now + 2 * WAKE_NS)
        self.call(APP, EPOLL, self.asleep_since, self.now + 2 * WAKE_NS, ino=99, kind="anon", ret=1)
        read = self.now + 2 * WAKE_NS
        self.call(APP, RECVFROM, read, read + WAKE_NS, ino=APP_HTTP)
        self.message(APP, APP_HTTP, read, read + WAKE_NS, "in", "request", "http", method, path)
        self.now = read + WAKE_NS

    def redis(
        self,
        verb: str,
        key: str | None = "thing:*",
        *,
        sync_ns: int = 0,
        journal: bool = True,
        work_ns: int = WORK_NS,
        protocol: str = "resp",
        status: int = 0,
    ) -> None:
        """One command: the service writes, Redis wakes, works, perhaps syncs, answers; the service sleeps meanwhile.

        With another `protocol` it is a server of another kind, in Redis' place.
        """
        sent = self.now + ASK_NS
        self.call(APP, SENDTO, self.now, sent, ino=APP_REDIS)
        self.message(APP, APP_REDIS, self.now, sent, "out", "request", protocol, verb, key)
        redis_on = sent + 2 * WAKE_NS
        self.sleep(REDIS, self.redis_since, sent + WAKE_NS, redis_on)
        self.call(REDIS, EPOLL, self.redis_since, redis_on, ino=98, kind="anon", ret=1)
        read = redis_on + WAKE_NS
        self.call(REDIS, READ, redis_on, read, ino=REDIS_APP)
        self.message(REDIS, REDIS_APP, redis_on, read, "in", "request", protocol, verb, key)
        done = read + work_ns
        if sync_ns:
            done = self._sync(done, sync_ns, journal=journal)
        wrote = done + ASK_NS
        self.call(REDIS, WRITE, done, wrote, ino=REDIS_APP)
        self.message(REDIS, REDIS_APP, done, wrote, "out", "response", protocol, status=status)
        self.redis_since = wrote + WAKE_NS
        off = sent + WAKE_NS
        on = wrote + WAKE_NS
        self.sleep(APP, off, wrote, on, waker=REDIS)
        self.call(APP, RECVFROM, sent, on + WAKE_NS, ino=APP_REDIS)
        self.message(APP, APP_REDIS, sent, on + WAKE_NS, "in", "response", protocol, status=status)
        self.now = on + WAKE_NS + GAP_NS

    redis_since: int = 1_000 * MS

    def _sync(self, at: int, length: int, *, journal: bool) -> int:
        """fdatasync in Redis' main thread: off the CPU but for a microsecond on either side."""
        off, wake, on = at + US, at + length - 2 * US, at + length - US
        self.call(REDIS, FDATASYNC, at, at + length, ino=7, kind="reg", ret=0, dev=5)
        self.sleep(REDIS, off, wake, on, state=2, waker=JOURNAL if journal else None, stack=1 if journal else 2)
        if journal:
            submitted = off + 10 * US
            self.add(
                schema.BLOCKS,
                queued_ns=submitted,
                issue_ns=submitted + 5 * US,
                complete_ns=wake - 10 * US,
                dev=5,
                sector=8,
                bytes=4096,
                op="write",
                sync=True,
                tid=JOURNAL,
                pid=JOURNAL,
            )
            self.sleep(JOURNAL, self.journal_since, off + 5 * US, off + 6 * US, waker=REDIS)
            self.sleep(JOURNAL, submitted, wake - 9 * US, wake - 8 * US, state=2, stack=3)
            self.journal_since = wake
        return at + length

    journal_since: int = 1_000 * MS

    def compute(self, ns: int) -> None:
        """The service is on its CPU."""
        self.now += ns

    def nap(self, ns: int) -> None:
        """The service sleeps by its own choice (clock_nanosleep)."""
        self.call(APP, 230, self.now, self.now + ns + WAKE_NS, ino=0, kind="", ret=0)
        self.sleep(APP, self.now + US, self.now + ns, self.now + ns + US)
        self.now += ns + WAKE_NS

    def remote(self, ns: int) -> None:
        """The service asks another host."""
        self.call(APP, SENDTO, self.now, self.now + ASK_NS, ino=13)
        self.message(APP, 13, self.now, self.now + ASK_NS, "out", "data", "unknown")
        off = self.now + ASK_NS + US
        self.sleep(APP, off, off + ns, off + ns + US)
        self.call(APP, RECVFROM, self.now + ASK_NS, off + ns + 2 * US, ino=13)
        self.message(APP, 13, self.now + ASK_NS, off + ns + 2 * US, "in", "data", "unknown")
        self.now = off + ns + 2 * US

    def answer(self) -> None:
        """The service answers and goes back to sleep; the probe has it."""
        end = self.now + ASK_NS
        self.call(APP, SENDTO, self.now, end, ino=APP_HTTP)
        self.message(APP, APP_HTTP, self.now, end, "out", "response", "http")
        self.asleep_since = end + US
        self.probes[-1] = (self.probes[-1][0], end)
        self.now = end + MS

    def capture(self, *, appendfsync: str | None = None, kind: TargetKind = "url", lost: int = 0) -> Capture:
        """The capture; `kind` is the target's, the service is the target."""
        end = self.now + MS
        self.sleep(APP, self.asleep_since, end, end)
        for start, done in self.probes:
            if kind == "url":
                self.add(
                    schema.REQUESTS, start_ns=start, end_ns=done or None, local_port=PROBE_PORT, status=200, bytes=10
                )
        self._names()
        if appendfsync is not None:
            for name, value in (("appendfsync", appendfsync), ("appendonly", "yes")):
                self.add(
                    schema.REDIS,
                    ts_ns=end,
                    server="127.0.0.1:7000",
                    pid=REDIS,
                    source="CONFIG GET",
                    field=name,
                    value=value,
                )
        tables = {name: schema.BY_NAME[name].frame(columns) for name, columns in self.rows.items()}
        return Capture(manifest=self._manifest(end, kind, lost), tables=tables)

    def _names(self) -> None:
        for tid, comm, kernel in ((APP, "service", False), (REDIS, "kv", False), (JOURNAL, "jbd2/x-8", True)):
            self.add(schema.TASKS, tid=tid, pid=tid, comm=comm, kernel=kernel, watched_ns=self.start)
            self.add(schema.PROCESSES, pid=tid, comm=comm, cmdline=comm, role="target")
        for ino, port, peer_port, peer in (
            (APP_HTTP, 80, PROBE_PORT, None),
            (APP_REDIS, 5001, 7000, REDIS_APP),
            (REDIS_APP, 7000, 5001, APP_REDIS),
        ):
            self.add(
                schema.SOCKETS,
                ino=ino,
                family="tcp",
                local_addr="127.0.0.1",
                local_port=port,
                peer_addr="127.0.0.1",
                peer_port=peer_port,
                peer_ino=peer,
                listening=False,
            )
        self.add(
            schema.SOCKETS,
            ino=13,
            family="tcp",
            local_addr="10.0.0.1",
            local_port=5002,
            peer_addr="192.0.2.9",
            peer_port=443,
            listening=False,
        )
        self.add(schema.FILES, dev=5, ino=7, path=AOF)
        self.add(schema.DEVICES, dev=5, name="sdz")
        for stack, frames in (
            (1, ["schedule", "jbd2_log_wait_commit", "ext4_sync_file"]),
            (2, ["io_schedule", "blkdev_issue_flush"]),
            (3, ["io_schedule", "wait_on_buffer"]),
        ):
            self.add(schema.STACKS, stack_id=stack, frames=frames)

    def _manifest(self, end: int, kind: TargetKind, lost: int) -> Manifest:
        return Manifest(
            culpa_version="0",
            host=Host(
                kernel="6.1", machine="x86_64", cpus=2, memory_bytes=1 << 30, page_bytes=4096, ticks_per_second=100
            ),
            target=Target(kind=kind, name="http://x/thing" if kind == "url" else "service", pids=(APP,)),
            window=Window(start_ns=self.start, end_ns=end, start_realtime_ns=0, ended_by="limit"),
            evidence=Evidence(waits="events"),
            cost=Cost(events=1000, lost_events=lost),
        )
