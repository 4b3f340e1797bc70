"""Show a run as the tracer would have written it: a capture, cut at the window and at when each thread was watched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.columns import Table
from culpa.capture.manifest import Evidence, Host, Manifest, Target, Window
from culpa.sim import truth
from culpa.sim.kernel import FILE_DEV
from culpa.sim.log import Log, Message, Off, Socket, State, Syscall
from culpa.sim.program import Process, Program

NETNS = 4_026_531_840
HERE, HOST_ADDR, FAR_ADDR = "127.0.0.1", "192.0.2.10", "198.51.100.7"
ANY = "0.0.0.0"  # noqa: S104  # an address in a table; nothing is bound
_STATE_LETTERS: Mapping[State, str] = {"running": "R", "runnable": "R", "waiting": "S"}
UNINTERRUPTIBLE = 2
_OK = {"http": 200, "resp": 0}

Row = Mapping[str, object]


def capture(program: Program, log: Log, *, old_waits_known: bool = True, probed: bool = False) -> Capture:
    """What a tracer would have written of this run.

    Args:
        program: what was run; its window and what is watched decide what can be seen.
        log: the run.
        old_waits_known: of a wait that began before its thread was watched, state and stack are known all the same.
        probed: the target is a URL, and the client on another host is culpa's own probe.
    """
    view = _View(program, log, old_waits_known=old_waits_known)
    rows: dict[Table, Iterable[Row]] = {
        schema.OFFCPU: view.offcpu(),
        schema.SYSCALLS: view.syscalls(),
        schema.MESSAGES: view.messages(),
        schema.SOCKETS: (_socket(socket) for socket in log.sockets),
        schema.BLOCKS: view.blocks(),
        schema.DIRTIED: view.dirtied(),
        schema.ASYNC_IO: view.async_io(),
        schema.TASKS: view.tasks(),
        schema.PROCESSES: view.processes(),
        schema.FILES: (
            {"dev": FILE_DEV, "ino": ino, "path": path, "fs_type": "ext4"} for path, ino in log.files.items()
        ),
        schema.DEVICES: [
            {"dev": FILE_DEV, "name": "loop5", "rotational": False, "scheduler": "none", "queue_depth": 1}
        ],
        schema.THREAD_STATES: view.thread_states(),
    }
    tables = {table.name: _frame(table, list(found)) for table, found in rows.items()}
    tables[schema.STACKS.name] = _frame(schema.STACKS, view.stacks())
    manifest = _manifest(program)
    if probed:
        tables[schema.REQUESTS.name] = _frame(schema.REQUESTS, list(view.probe_requests()))
        target = msgspec.structs.replace(manifest.target, kind="url", name="http://192.0.2.10/")
        manifest = msgspec.structs.replace(manifest, target=target)
    return Capture(manifest=manifest, tables=tables)


def _frame(table: Table, rows: Sequence[Row]) -> pl.DataFrame:
    return table.frame({column.name: [row.get(column.name) for row in rows] for column in table.columns})


def _manifest(program: Program) -> Manifest:
    start_ns, end_ns = program.window
    target = next(process for process in program.processes if process.pid == program.target_pid)
    return Manifest(
        culpa_version="0",
        host=Host(
            kernel="6.1.0",
            machine="x86_64",
            cpus=program.machine.cpus,
            memory_bytes=2**33,
            page_bytes=4096,
            ticks_per_second=100,
        ),
        target=Target(kind="process", name=target.name, pids=(target.pid,)),
        window=Window(start_ns=start_ns, end_ns=end_ns, start_realtime_ns=1_700_000_000_000_000_000, ended_by="limit"),
        evidence=Evidence(waits="events"),
    )


def _socket(socket: Socket) -> Row:
    if socket.listening:
        local, peer = ANY, None
    else:
        local, peer = (HOST_ADDR, FAR_ADDR) if socket.remote else (HERE, HERE)
    return {
        "ino": socket.ino,
        "netns": NETNS,
        "family": "tcp",
        "local_addr": local,
        "local_port": socket.local_port,
        "peer_addr": peer,
        "peer_port": socket.peer_port,
        "peer_ino": socket.peer_ino,
        "pid": socket.pid,
        "listening": socket.listening,
    }


class _View:
    """What can be seen of a log: per thread from when it was watched, and nothing outside the window."""

    def __init__(self, program: Program, log: Log, *, old_waits_known: bool) -> None:
        self._program, self._log, self._old_waits_known = program, log, old_waits_known
        self._start_ns, self._end_ns = program.window
        self._pids = {t.tid: p.pid for p in program.processes for t in p.threads} | {
            program.journal_tid: program.journal_tid
        }
        self._from = {
            thread.tid: max(process.watched_ns, thread.start_ns, self._start_ns)
            for process in program.processes
            if process.watched
            for thread in process.threads
        } | {program.journal_tid: max(program.journal_watched_ns, self._start_ns)}
        self._stacks: dict[tuple[str, ...], int] = {}

    def _seen(self, tid: int, moment_ns: int | None) -> int | None:
        """The moment if the tracer watched the thread then, else None."""
        return moment_ns if moment_ns is not None and self._from[tid] <= moment_ns < self._end_ns else None

    def offcpu(self) -> Iterable[Row]:
        """Rows of `schema.OFFCPU`."""
        for tid in sorted(self._from):
            for off in self._log.offs[tid]:
                gone = off.on_ns is not None and off.on_ns < self._from[tid]
                if not gone and off.off_ns < self._end_ns and (self._old_waits_known or self._any_seen(off)):
                    yield self._off_row(off)

    def _any_seen(self, off: Off) -> bool:
        return any(self._seen(off.tid, moment) is not None for moment in (off.off_ns, off.wake_ns, off.on_ns))

    def _off_row(self, off: Off) -> Row:
        tid, began = off.tid, self._seen(off.tid, off.off_ns)
        wake, on = self._seen(tid, off.wake_ns), self._seen(tid, off.on_ns)
        known = began is not None or self._old_waits_known
        awake = began is None and off.wake_ns is not None and off.wake_ns < self._from[tid]
        waker = off.waker if wake is not None else None
        return {
            "off_ns": began,
            "wake_ns": wake,
            "on_ns": on,
            "tid": tid,
            "pid": self._pids[tid],
            "state": (0 if awake else off.state) if known else None,
            "cpu": off.cpu if on is not None else None,
            "waker_tid": waker,
            "waker_pid": None if waker is None else self._pids[waker],
            "stack_id": self._stack(off.stack) if known and not awake and off.stack is not None else None,
            "prev_tid": off.prev_tid if on is not None else None,
        }

    def _stack(self, frames: tuple[str, ...]) -> int:
        return self._stacks.setdefault(frames, len(self._stacks) + 1)

    def stacks(self) -> Sequence[Row]:
        """Rows of `schema.STACKS`: those that the other rows refer to, so ask last."""
        return [{"stack_id": number, "frames": list(frames)} for frames, number in self._stacks.items()]

    def syscalls(self) -> Iterable[Row]:
        """Rows of `schema.SYSCALLS`; a call that began unseen and has not ended leaves none."""
        for call in self._log.syscalls:
            if call.tid in self._from:
                enter, leave = self._seen(call.tid, call.enter_ns), self._seen(call.tid, call.exit_ns)
                if enter is not None or leave is not None:
                    yield self._call_row(call, enter, leave)

    def _call_row(self, call: Syscall, enter: int | None, leave: int | None) -> Row:
        return {
            "enter_ns": enter,
            "exit_ns": leave,
            "tid": call.tid,
            "pid": self._pids[call.tid],
            "nr": call.nr,
            "ret": None if leave is None else call.ret,
            "arg0": call.args[0],
            "arg1": call.args[1],
            "arg2": call.args[2],
            "dev": call.dev,
            "ino": call.ino,
            "file_type": call.file_type,
        }

    def messages(self) -> Iterable[Row]:
        """Rows of `schema.MESSAGES`: calls that ended while their thread was watched."""
        for message in self._log.messages:
            if message.tid in self._from and self._seen(message.tid, message.exit_ns) is not None:
                yield self._message_row(message)

    def _message_row(self, message: Message) -> Row:
        return {
            "enter_ns": self._seen(message.tid, message.enter_ns),
            "exit_ns": message.exit_ns,
            "tid": message.tid,
            "pid": self._pids[message.tid],
            "ino": message.ino,
            "direction": message.direction,
            "protocol": message.protocol,
            "kind": message.kind,
            "verb": message.verb,
            "detail": message.detail,
            "status": _OK.get(message.protocol) if message.kind == "response" else None,
            "commands": message.commands,
            "bytes": message.bytes,
        }

    def probe_requests(self) -> Iterable[Row]:
        """Rows of `schema.REQUESTS`: what the client on another host asked of the target within the window."""
        ports = {socket.ino: socket.peer_port for socket in self._log.sockets}
        for request in truth.probed(self._program, self._log):
            done = request.delivered_ns is not None and request.delivered_ns < self._end_ns
            yield {
                "start_ns": request.arrive_ns,
                "end_ns": request.delivered_ns if done else None,
                "local_port": ports[request.server_ino or 0],
                "status": 200 if done else None,
            }

    def blocks(self) -> Iterable[Row]:
        """Rows of `schema.BLOCKS`; a request that no one issued in time leaves none."""
        for block in self._log.blocks:
            done = block.complete_ns is not None and block.complete_ns < self._start_ns
            if done or block.issue_ns is None or block.issue_ns >= self._end_ns:
                continue
            ended = block.complete_ns is not None and block.complete_ns < self._end_ns
            yield {
                "queued_ns": block.queued_ns,
                "issue_ns": block.issue_ns if block.issue_ns >= self._start_ns else None,
                "complete_ns": block.complete_ns if ended else None,
                "dev": FILE_DEV,
                "sector": None if block.op == "flush" else 8 * block.number,
                "bytes": 0 if block.op == "flush" else 4096,
                "op": block.op,
                "sync": True,
                "tid": block.tid,
                "pid": self._pids[block.tid],
                "ino_dev": None if block.ino is None else FILE_DEV,
                "ino": block.ino,
            }

    def dirtied(self) -> Iterable[Row]:
        """Rows of `schema.DIRTIED`: simulated threads write data out as soon as they have dirtied it."""
        for block in self._log.blocks:
            if block.op == "write" and block.ino is not None and self._start_ns <= block.queued_ns < self._end_ns:
                yield {
                    "from_ns": block.queued_ns,
                    "to_ns": block.queued_ns,
                    "tid": block.writer,
                    "pid": self._pids[block.writer],
                    "dev": FILE_DEV,
                    "ino": block.ino,
                    "generation": 0,
                    "disk": FILE_DEV,
                    "bytes": 4096,
                }

    def async_io(self) -> Iterable[Row]:
        """Rows of `schema.ASYNC_IO`: requests that were given while their thread was watched, whoever ends them."""
        for aside in self._log.asides:
            if aside.tid not in self._from or self._seen(aside.tid, aside.given_ns) is None:
                continue
            posted = aside.posted_ns is not None and aside.posted_ns < self._end_ns
            yield {
                "submit_ns": aside.given_ns,
                "complete_ns": aside.posted_ns if posted else None,
                "tid": aside.tid,
                "pid": self._pids[aside.tid],
                "interface": aside.interface,
                "ring": aside.ring,
                "op": aside.op,
                "dev": FILE_DEV,
                "ino": aside.ino,
                "file_type": "reg",
                "ender_tid": aside.ender_tid if posted else None,
                "ret": (0 if aside.op == "fsync" else 4096) if posted else None,
            }

    def tasks(self) -> Iterable[Row]:
        """Rows of `schema.TASKS`."""
        for process in self._program.processes:
            for thread in process.threads:
                yield {
                    "tid": thread.tid,
                    "pid": process.pid,
                    "comm": thread.comm,
                    "kernel": False,
                    "watched_ns": self._from.get(thread.tid),
                }
        tid = self._program.journal_tid
        yield {"tid": tid, "pid": tid, "comm": "jbd2/loop5-8", "kernel": True, "watched_ns": self._from[tid]}

    def processes(self) -> Iterable[Row]:
        """Rows of `schema.PROCESSES`."""
        for process in self._program.processes:
            yield _process_row(process)
        tid = self._program.journal_tid
        yield {"pid": tid, "ppid": 2, "starttime": 20, "comm": "jbd2/loop5-8", "role": "kernel"}

    def thread_states(self) -> Iterable[Row]:
        """Rows of `schema.THREAD_STATES`: every watched thread at both ends of the window."""
        for tid in sorted(self._from):
            for moment_ns in (self._start_ns, self._end_ns):
                yield self._thread_state(tid, moment_ns)

    def _thread_state(self, tid: int, moment_ns: int) -> Row:
        changes = [*self._log.states[tid], (self._log.end_ns, "waiting")]
        spent = {"running": 0, "runnable": 0, "waiting": 0}
        state: State = "waiting"
        for (since, name), (until, _) in pairwise(changes):
            if since <= moment_ns:
                spent[name] += min(until, moment_ns) - since
                state = name
        blocked = state == "waiting" and any(
            o.state & UNINTERRUPTIBLE and o.off_ns <= moment_ns and (o.wake_ns is None or o.wake_ns > moment_ns)
            for o in self._log.offs[tid]
        )
        return {
            "ts_ns": moment_ns,
            "tid": tid,
            "pid": self._pids[tid],
            "state": "D" if blocked else _STATE_LETTERS[state],
            "nr": self._call_at(tid, moment_ns) if state == "waiting" else None,
            "cpu_ns": spent["running"],
            "run_delay_ns": spent["runnable"],
        }

    def _call_at(self, tid: int, moment_ns: int) -> int | None:
        for call in self._log.syscalls:
            if call.tid == tid and call.enter_ns <= moment_ns and (call.exit_ns is None or call.exit_ns > moment_ns):
                return call.nr
        return None


def _process_row(process: Process) -> Row:
    return {
        "pid": process.pid,
        "ppid": 1,
        "starttime": 1000 + process.pid,
        "comm": process.name,
        "cmdline": process.name,
        "exe": f"/opt/{process.name}",
        "cgroup": f"/{process.name}",
        "netns": NETNS,
        "role": process.role,
    }
