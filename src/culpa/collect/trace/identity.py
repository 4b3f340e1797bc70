"""Who and what the events are about: threads, files and sockets by the names people know.

Filled from the probes' own records; /proc is asked only for threads that were never watched, and at the end for the
present path of files that are still open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.collect.procfs import LINE_BYTES, numbers_in, parse_stat, parse_status, read_bounded
from culpa.collect.trace import events
from culpa.collect.trace.mounts import HostPaths
from culpa.collect.trace.overlays import Layers
from culpa.collect.trace.ring import Records
from culpa.units import DevT, dev_t

PROC: Final = Path("/proc")
MAX_OBJECTS: Final = 200_000
"""Files and sockets, and threads, kept by name; a hostile program could make millions."""
_AF_UNIX, _AF_INET, _AF_INET6, _SOCK_STREAM, _SOCK_DGRAM, _TCP_LISTEN = 1, 2, 10, 1, 2, 10
_FAMILIES: Final = {
    (_AF_INET, _SOCK_STREAM): "tcp", (_AF_INET6, _SOCK_STREAM): "tcp6", (_AF_INET, _SOCK_DGRAM): "udp",
    (_AF_INET6, _SOCK_DGRAM): "udp6",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Task:
    """One thread; `watched_ns` is None for a waker that was never watched."""

    tid: int
    pid: int | None
    comm: str | None
    kernel: bool | None
    ppid: int | None = None
    watched_ns: int | None = None
    exit_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file as first met: its path inside the mount namespace of who met it, and where to look again."""

    dev: int
    ino: int
    path: str | None
    fs_type: str
    pid: int
    fd: int
    mnt_ns: int
    within: bool
    """`path` is one within the file system, and neither `fd` nor `mnt_ns` is known."""


@dataclass(slots=True)
class Identities:
    """Everything named so far."""

    tasks: dict[int, Task] = field(default_factory=dict)
    files: dict[tuple[int, int], File] = field(default_factory=dict)
    sockets: dict[int, dict[str, object]] = field(default_factory=dict)
    dirtied: dict[tuple[int, str], int] = field(default_factory=dict)
    """Inodes whose pages became dirty, by device and the path within it: a number may be another file's by now."""
    reused: set[int] = field(default_factory=set)
    """Numbers that two processes had one after the other."""

    def take_tasks(self, records: Records) -> None:
        """TASK_EVENT records: threads that began to be watched, executed a program, or ended."""
        for ts_ns, tid, pid, ppid, kind, kernel, comm in records.tolist():
            task = self.tasks.get(tid)
            if task is None or task.pid != pid or (task.exit_ns is not None and kind != events.TASK_EXIT):
                if task is None and len(self.tasks) >= MAX_OBJECTS:
                    continue
                if task is not None and task.watched_ns is not None and tid == pid == task.pid:
                    self.reused.add(pid)
                task = Task(tid=tid, pid=pid, ppid=ppid, comm=None, kernel=bool(kernel), watched_ns=ts_ns)
                self.tasks[tid] = task
            task.comm, task.kernel = _text(bytes(comm)), bool(kernel)
            task.watched_ns = ts_ns if task.watched_ns is None else task.watched_ns
            if kind == events.TASK_EXIT:
                task.exit_ns = ts_ns

    def take_writers(self, records: Records) -> None:
        """DIRTIED_EVENT records: whoever dirtied pages, with the name it had then."""
        for tid in np.setdiff1d(records["tid"], np.fromiter(self.tasks, np.int64, len(self.tasks))).tolist():
            if len(self.tasks) < MAX_OBJECTS:
                last = records[records["tid"] == tid][-1]
                self.tasks[tid] = Task(
                    tid=tid, pid=int(last["pid"]), comm=_text(last["comm"].tobytes()), kernel=bool(last["kernel"])
                )

    def take_files(self, records: Records) -> None:
        """FILE_EVENT records; the last path of a reused inode number wins."""
        for record in records:
            key = int(record["dev"]), int(record["ino"])
            if key in self.files or len(self.files) < MAX_OBJECTS:
                found, known = _file(record), self.files.get(key)
                if found.within and found.path is not None and len(self.dirtied) < MAX_OBJECTS:
                    self.dirtied[found.dev, found.path] = found.ino
                # The path within the file system says less than the whole path of the same file.
                if not (found.within and known and _ends_with(known.path, found.path)):
                    self.files[key] = found

    def take_sockets(self, records: Records) -> None:
        """SOCKET_EVENT records; a later one of the same socket knows more."""
        for record in records:
            ino = int(record["ino"])
            if ino in self.sockets or len(self.sockets) < MAX_OBJECTS:
                self.sockets[ino] = _socket(record)

    def watch(self, pid: int, now_ns: int) -> None:
        """Name the threads a process has now: one that stays asleep sends no record."""
        leader = _from_proc(pid)
        for tid in numbers_in(f"{PROC}/{pid}/task")[: MAX_OBJECTS - len(self.tasks)]:
            known = self.tasks.get(tid)
            if known is None or known.pid != pid:
                known = Task(tid=tid, pid=pid, comm=_comm(f"{PROC}/{pid}/task/{tid}"), kernel=leader.kernel)
            known.watched_ns = now_ns if known.watched_ns is None else known.watched_ns
            self.tasks[tid] = known

    def watched_pids(self) -> frozenset[int]:
        """The processes whose threads were watched at some time."""
        return frozenset(t.pid for t in self.tasks.values() if t.watched_ns is not None and t.pid is not None)

    def meet(self, tids: Iterable[int]) -> None:
        """Ask /proc for threads that appear in the events and have no name yet."""
        for tid in tids:
            if tid not in self.tasks and len(self.tasks) < MAX_OBJECTS:
                self.tasks[tid] = _from_proc(tid)

    def task_table(self) -> pl.DataFrame:
        """`schema.TASKS`."""
        rows = list(self.tasks.values())
        names = [column.name for column in schema.TASKS.columns]
        return schema.TASKS.frame({name: [getattr(row, name) for row in rows] for name in names})

    def file_table(self, paths: HostPaths) -> pl.DataFrame:
        """`schema.FILES`; `paths` turns a path inside another mount namespace into the host's."""
        rows = list(self.files.values())
        layers = Layers(self.files, self.dirtied, paths)
        behind = [layers.behind(row) for row in rows]
        own = [paths.is_own(row.mnt_ns) for row in rows]
        outer = [
            held.path if held and held.path else _outer(paths, row, own=mine)
            for row, mine, held in zip(rows, own, behind, strict=True)
        ]
        inner = [
            None if (mine and held is None) or row.within or row.path == path else row.path
            for row, mine, held, path in zip(rows, own, behind, outer, strict=True)
        ]
        return schema.FILES.frame(
            {
                "dev": [row.dev for row in rows],
                "ino": [row.ino for row in rows],
                "path": outer,
                "inner_path": inner,
                "fs_type": [row.fs_type for row in rows],
                "backing_dev": [held and held.dev for held in behind],
                "backing_ino": [held and held.ino for held in behind],
            }
        )

    def refresh_paths(self, paths: HostPaths, limit: int) -> None:
        """Read again where files that are still open are: they may have been renamed. At most `limit` files."""
        for key, known in list(self.files.items())[-limit:]:
            link = PROC / str(known.pid) / "fd" / str(known.fd)
            with suppress(OSError):
                if paths.is_own(known.mnt_ns) and identity(link)[:2] == key:
                    path = os.fsencode(link.readlink()).removesuffix(b" (deleted)")
                    self.files[key] = File(
                        dev=known.dev, ino=known.ino, path=_text(path), fs_type=known.fs_type, pid=known.pid,
                        fd=known.fd, mnt_ns=known.mnt_ns, within=False,
                    )  # fmt: skip

    def socket_table(self) -> pl.DataFrame:
        """`schema.SOCKETS`, with both ends of a local connection naming each other."""
        _pair_unix(self.sockets)
        _pair_inet(self.sockets)
        rows = list(self.sockets.values())
        names = [column.name for column in schema.SOCKETS.columns]
        return schema.SOCKETS.frame({name: [row.get(name) for row in rows] for name in names})


def identity(path: Path) -> tuple[DevT, int, int]:
    """Device in the kernel's encoding, inode and mode of what `path` leads to.

    Raises:
        OSError: it leads nowhere.
    """
    stat = path.stat()
    return dev_t(os.major(stat.st_dev), os.minor(stat.st_dev)), stat.st_ino, stat.st_mode


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _from_proc(tid: int) -> Task:
    """What /proc says of a thread; nothing but its number if it is gone.

    The stat file beside status would add up the times of all threads of the process, each time that it is read.
    """
    if tid == 0:
        return Task(tid=0, pid=0, comm="swapper", kernel=True)
    status = parse_status(read_bounded(f"{PROC}/{tid}/status") or b"")
    stat = parse_stat(read_bounded(f"{PROC}/{tid}/task/{tid}/stat", LINE_BYTES) or b"")
    if status is None or stat is None:
        return Task(tid=tid, pid=None, comm=None, kernel=None)
    return Task(tid=tid, pid=status.tgid, comm=_comm(f"{PROC}/{tid}"), kernel=stat.kernel)


def _comm(directory: str) -> str | None:
    raw = read_bounded(f"{directory}/comm", LINE_BYTES)
    return None if raw is None else _text(raw.removesuffix(b"\n"))


def _file(record: Records) -> File:
    used = min(int(record["path_bytes"]), events.PATH_BYTES)
    names = record["path"].tobytes()[:used].split(b"\0")[:-1]
    path = "/" + b"/".join(reversed(names)).decode("utf-8", "replace")
    return File(
        dev=int(record["dev"]),
        ino=int(record["ino"]),
        path=path if record["whole"] else None,
        fs_type=_text(record["fs_type"].tobytes()),
        pid=int(record["pid"]),
        fd=int(record["fd"]),
        mnt_ns=int(record["mnt_ns"]),
        within=bool(record["within"]),
    )


def _outer(paths: HostPaths, row: File, *, own: bool) -> str | None:
    """The file's path as culpa sees it."""
    if row.within:
        return paths.of(row.dev, row.path)
    return row.path if own else paths.outside(row.pid, row.dev, row.path)


def _ends_with(path: str | None, within: str | None) -> bool:
    """Whether a path can lead to what lies at `within` in its file system: mounts may hide the first parts of it."""
    return path is not None and within is not None and path.rpartition("/")[2] == within.rpartition("/")[2]


def _socket(record: Records) -> dict[str, object]:
    """One row of `schema.SOCKETS`."""
    family, listening = int(record["family"]), int(record["state"]) == _TCP_LISTEN
    row: dict[str, object] = {
        "ino": int(record["ino"]),
        "netns": int(record["netns"]) or None,
        "family": "unix" if family == _AF_UNIX else _FAMILIES.get((family, int(record["type"])), "other"),
        "local_addr": None,
        "local_port": None,
        "peer_addr": None,
        "peer_port": None,
        "peer_ino": int(record["peer_ino"]) or None,
        "pid": int(record["pid"]) or None,
        "listening": listening,
    }
    if family == _AF_UNIX:
        row["local_addr"] = _unix_path(record)
    elif family in (_AF_INET, _AF_INET6):
        row["local_addr"] = _address(family, record["local_addr"].tobytes())
        row["local_port"] = int(record["local_port"])
        if record["peer_port"]:
            row["peer_addr"] = _address(family, record["peer_addr"].tobytes())
            row["peer_port"] = int(record["peer_port"])
    return row


def _unix_path(record: Records) -> str | None:
    raw = record["path"].tobytes()[: min(int(record["path_bytes"]), events.UNIX_PATH_BYTES - 4)]
    if raw[:1] == b"\0":
        return "@" + raw[1:].rstrip(b"\0").decode("utf-8", "replace")
    return _text(raw) or None


def _address(family: int, raw: bytes) -> str:
    if family == _AF_INET:
        return str(IPv4Address(raw[:4]))
    address = IPv6Address(raw)
    return str(address.ipv4_mapped or address)


def _pair_unix(sockets: dict[int, dict[str, object]]) -> None:
    """A connection that was not accepted yet knows its peer from one side only."""
    for ino, row in list(sockets.items()):
        other = sockets.get(peer) if isinstance(peer := row["peer_ino"], int) else None
        if other is not None and other["peer_ino"] is None:
            other["peer_ino"] = ino


def _pair_inet(sockets: dict[int, dict[str, object]]) -> None:
    """Mirrored addresses and ports: first within one network namespace, then between the namespaces of this host."""
    for scope in (True, False):
        ends: dict[tuple[object, ...], int | None] = {}
        for ino, row in sockets.items():
            if _is_open_end(row):
                key = (row["netns"] if scope else None, *(row[name] for name in _LOCAL + _PEER))
                ends[key] = None if key in ends else ino  # two alike: neither can be told
        for row in sockets.values():
            if _is_open_end(row) and (scope or not str(row["peer_addr"]).startswith(("127.", "::1"))):
                row["peer_ino"] = ends.get((row["netns"] if scope else None, *(row[name] for name in _PEER + _LOCAL)))


_LOCAL: Final = ("local_addr", "local_port")
_PEER: Final = ("peer_addr", "peer_port")


def _is_open_end(row: dict[str, object]) -> bool:
    return row["family"] in ("tcp", "tcp6") and row["peer_port"] is not None and row["peer_ino"] is None
