"""Rows about processes, their threads and their sockets, read from /proc at one moment."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl

from culpa.capture.schema import PROCESSES, SOCKETS, TASKS, THREAD_STATES
from culpa.collect.cgroups import read_membership
from culpa.collect.commandline import read_cmdline
from culpa.collect.procfs import (
    LINE_BYTES,
    PROC,
    TaskStat,
    namespace_inode,
    numbers_in,
    parse_schedstat,
    parse_stat,
    parse_status,
    parse_syscall,
    parse_wchan,
    read_bounded,
    read_link,
)
from culpa.collect.sockets import SocketTable
from culpa.units import printable

MAX_PATH_CHARS = 4096
MAX_THREADS = 50_000
NO_END_NS = 1 << 62

Row = dict[str, object]


def process_rows(roles: Mapping[int, str], proc_root: Path = PROC) -> pl.DataFrame:
    """`schema.PROCESSES` of the given processes, `roles` by pid; one that is gone keeps its pid and role alone."""
    return PROCESSES.frame(_columns([_process_row(proc_root, pid, role) for pid, role in roles.items()]))


def _process_row(proc_root: Path, pid: int, role: str) -> Row:
    stat = _stat(proc_root / str(pid))
    row: Row = dict.fromkeys(PROCESSES.schema)
    row |= {"pid": pid, "role": role}
    if stat is None:
        return row
    exe = read_link(proc_root / str(pid) / "exe")
    groups = read_membership(proc_root, pid)
    return row | {
        "ppid": stat.ppid,
        "starttime": stat.starttime,
        "comm": stat.comm,
        "cmdline": read_cmdline(proc_root, pid) or None,
        "exe": None if exe is None else printable(exe.removesuffix(" (deleted)"), MAX_PATH_CHARS),
        "cgroup": groups.path if groups else None,
        "unit": groups.unit if groups else None,
        "container": groups.container if groups else None,
        "netns": namespace_inode(proc_root, pid, "net"),
        "pidns": namespace_inode(proc_root, pid, "pid"),
        "caught": _caught(proc_root / str(pid)),
    }


def _caught(directory: Path) -> str | None:
    """The signals a process handles; those of the C library's own use (32, 33) and real-time ones are left out."""
    status = parse_status(read_bounded(directory / "status") or b"")
    if status is None:
        return None
    plain = [number for number in signal.Signals if number <= signal.SIGSYS]
    caught = [number for number in plain if status.caught_signals >> (number - 1) & 1]
    return " ".join(number.name.removeprefix("SIG") for number in caught)


def task_rows(pids: Iterable[int], proc_root: Path = PROC, *, watched_ns: int | None = None) -> pl.DataFrame:
    """`schema.TASKS` of all threads of the given processes; `watched_ns` where they are watched from now on."""
    rows: list[Row] = [
        {
            "tid": tid,
            "pid": pid,
            "comm": stat.comm,
            "kernel": stat.kernel,
            "watched_ns": watched_ns,
            "exit_ns": None,
        }
        for pid, tid in _threads(proc_root, pids)
        if (stat := _stat(proc_root / str(pid) / "task" / str(tid))) is not None
    ]
    return TASKS.frame(_columns(rows))


def thread_state_rows(pids: Iterable[int], proc_root: Path = PROC, *, most_ns: int = NO_END_NS) -> pl.DataFrame:
    """`schema.THREAD_STATES` of all threads of the given processes, now; of as many as can be read in `most_ns`."""
    ts_ns = time.monotonic_ns()
    rows: list[Row] = []
    for pid, tid in _threads(proc_root, pids):
        row = _state_row(proc_root, pid, tid, ts_ns)
        if row is not None:
            rows.append(row)
        if time.monotonic_ns() - ts_ns > most_ns:
            break
    return THREAD_STATES.frame(_columns(rows))


def _state_row(proc_root: Path, pid: int, tid: int, ts_ns: int) -> Row | None:
    task = f"{proc_root}/{pid}/task/{tid}"
    stat = parse_stat(read_bounded(f"{task}/stat", LINE_BYTES) or b"")
    if stat is None:
        return None
    # A task that is about to run is in no call any more, whatever the second file said a moment later.
    call = parse_syscall(b"" if stat.state == "R" else read_bounded(f"{task}/syscall", LINE_BYTES) or b"")
    times = parse_schedstat(read_bounded(f"{task}/schedstat", LINE_BYTES) or b"")
    return dict.fromkeys(THREAD_STATES.schema) | {
        "ts_ns": ts_ns,
        "tid": tid,
        "pid": pid,
        "state": stat.state,
        "nr": call.nr,
        "arg0": call.args[0] if call.args else None,
        "wchan": parse_wchan(read_bounded(f"{task}/wchan", LINE_BYTES) or b""),
        "cpu_ns": times.cpu_ns if times else None,
        "run_delay_ns": times.run_delay_ns if times else None,
    }


def socket_rows(pids: Iterable[int], proc_root: Path = PROC, *, table: SocketTable | None = None) -> pl.DataFrame:
    """`schema.SOCKETS`: the TCP and unix sockets that `pids` hold, the other ends of those on this host, and what
    listens on their ports: a process that is forked for a connection does not hold that socket itself.
    """
    sockets = SocketTable.read(proc_root) if table is None else table
    known = sockets.by_ino()
    owner: dict[int, int] = {}
    for pid in sorted(set(pids)):
        for ino in sockets.holders.sockets_of(pid) & known.keys():
            owner.setdefault(ino, pid)
    far = {peer for ino in owner if (peer := known[ino].peer_ino) in known} - owner.keys()
    held = sockets.holders.of({ino for ino in far if ino is not None})
    owner.update({ino: who[0] for ino, who in held.items()})
    chosen = owner.keys() | {ino for ino in far if ino is not None}
    ports = {(s.netns, s.local_port) for ino in chosen if (s := known[ino]).local_port is not None}
    listeners = {s.ino for s in sockets.sockets if s.listening and s.ino and (s.netns, s.local_port) in ports}
    wanted = [known[ino] for ino in sorted(chosen | listeners)]
    rows: list[Row] = [
        {name: getattr(s, name) for name in SOCKETS.schema if name != "pid"} | {"pid": owner.get(s.ino)} for s in wanted
    ]
    return SOCKETS.frame(_columns(rows))


def _threads(proc_root: Path, pids: Iterable[int]) -> Iterator[tuple[int, int]]:
    left = MAX_THREADS
    for pid in sorted(set(pids)):
        tids = numbers_in(proc_root / str(pid) / "task")[:left]
        left -= len(tids)
        yield from ((pid, tid) for tid in tids)


def _stat(directory: Path) -> TaskStat | None:
    raw = read_bounded(directory / "stat")
    return None if raw is None else parse_stat(raw)


def _columns(rows: list[Row]) -> dict[str, list[object]]:
    """Rows to columns; no rows give no columns, which `Table.frame` turns into an empty frame."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
