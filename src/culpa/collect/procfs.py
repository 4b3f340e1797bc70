"""What /proc says about one process: pure parsers, bytes in, values out.

Each parser mirrors one file of fs/proc (proc(5)) and takes what Linux 3.10 to 6.x write there. Everything read is
hostile: a process chooses its own name, arguments and paths. Readers get `proc_root` and answer None for what is gone
or refused.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from culpa.errors import CulpaError
from culpa.units import DevT, dev_t, printable

PROC = Path("/proc")
MAX_FILE_BYTES = 1 << 20
LINE_BYTES = 4096
"""More than any file of one line holds."""
MAX_COMM_CHARS = 64
PF_KTHREAD = 0x00200000
"""include/linux/sched.h, in the flags field of stat."""

_GONE = {
    errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EINVAL, errno.EIO, errno.EOPNOTSUPP,
    errno.ENODEV, errno.ENXIO,
}  # fmt: skip
"""ENODEV: a cgroup or device was removed between open and read; ENXIO: a network namespace is being taken down."""
_OCTAL = re.compile(r"\\([0-7]{3})")


def read_bounded(path: Path | str, limit: int = MAX_FILE_BYTES) -> bytes | None:
    """At most `limit` bytes of a /proc or /sys file; None where it is gone, refused or not supported."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as problem:
        _raise_unless_gone(problem)
        return None
    try:
        return _read_up_to(descriptor, limit)
    except OSError as problem:
        _raise_unless_gone(problem)
        return None
    finally:
        os.close(descriptor)


def _read_up_to(descriptor: int, limit: int) -> bytes:
    """seq_file hands out a page at a time, so read on until the end."""
    parts: list[bytes] = []
    left = limit
    while left > 0 and (part := os.read(descriptor, min(left, 1 << 18))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _raise_unless_gone(problem: OSError) -> None:
    if problem.errno not in _GONE:
        raise problem


def read_text(path: Path | str, limit: int = MAX_FILE_BYTES) -> str | None:
    """`read_bounded`, decoded; bytes that are not UTF-8 become the replacement character."""
    raw = read_bounded(path, limit)
    return None if raw is None else decoded(raw)


def decoded(raw: bytes) -> str:
    """Text of a name or path that may hold any byte."""
    return raw.decode("utf-8", "replace")


def read_link(path: Path | str) -> str | None:
    """The text of a symbolic link; None where it is gone or refused."""
    try:
        return decoded(os.readlink(os.fsencode(path)))  # noqa: PTH115 - bytes: Path cannot hold every name
    except OSError as problem:
        _raise_unless_gone(problem)
        return None


def numbers_in(directory: Path | str) -> list[int]:
    """The entries of a directory that are decimal numbers, ascending: pids, tids or fds; empty where it is gone."""
    try:
        return sorted(int(name) for name in os.listdir(directory) if name.isdecimal())  # noqa: PTH208
    except OSError as problem:
        _raise_unless_gone(problem)
        return []


def own_pid(proc_root: Path = PROC) -> int:
    """This process' number in that /proc, which another pid namespace than its own may have mounted."""
    name = read_link(proc_root / "self")
    return int(name) if name is not None and name.isdigit() else os.getpid()


def require_proc(proc_root: Path = PROC) -> None:
    """Everything that culpa knows of processes comes from there.

    Raises:
        CulpaError: it is not mounted, or hides this process.
    """
    if read_bounded(proc_root / "self" / "stat", LINE_BYTES) is None:
        raise CulpaError(f"cannot see any process: {proc_root} is not mounted", way_out="mount -t proc proc /proc")


def namespace_inode(proc_root: Path, pid: int, kind: str) -> int | None:
    """Inode of a namespace of a process (`net`, `pid`, `mnt`); None where it is gone or refused."""
    link = read_link(proc_root / str(pid) / "ns" / kind)
    return None if link is None else bracketed_number(link)


def bracketed_number(link: str) -> int | None:
    """The number in `socket:[123]`, `pipe:[123]` or `net:[123]`."""
    body = link.rpartition("[")[2].removesuffix("]")
    return int(body) if link.endswith("]") and body.isdecimal() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStat:
    """The fields of /proc/PID/stat or /proc/PID/task/TID/stat that culpa uses; times in ticks."""

    tid: int
    comm: str
    state: str
    ppid: int
    kernel: bool
    major_faults: int
    user_ticks: int
    system_ticks: int
    threads: int
    starttime: int


def parse_stat(raw: bytes) -> TaskStat | None:
    """Read a stat line (fs/proc/array.c do_task_stat); None where it is cut short.

    The name stands in parentheses and may hold parentheses, spaces and newlines: it ends at the last one.
    """
    opening, closing = raw.find(b"("), raw.rfind(b")")
    fields = raw[closing + 1 :].split()
    if opening < 1 or closing < opening or len(fields) < 20 or not raw[:opening].strip().isdigit():
        return None
    return TaskStat(
        tid=int(raw[:opening]),
        comm=printable(decoded(raw[opening + 1 : closing]), MAX_COMM_CHARS),
        state=fields[0].decode("ascii", "replace"),
        ppid=int(fields[1]),
        kernel=bool(int(fields[6]) & PF_KTHREAD),
        major_faults=int(fields[9]),
        user_ticks=int(fields[11]),
        system_ticks=int(fields[12]),
        threads=int(fields[17]),
        starttime=int(fields[19]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """The lines of /proc/PID/status that culpa uses. `ns_pids` is empty before Linux 4.1, outermost first.

    `caught_signals` has bit n - 1 set for signal n.
    """

    name: str
    tgid: int
    ppid: int
    tracer_pid: int
    uid: int
    ns_pids: tuple[int, ...]
    effective_capabilities: int
    caught_signals: int


def parse_status(raw: bytes) -> TaskStatus | None:
    """Read a status file; None where the lines culpa needs are missing. Newlines in names come escaped."""
    lines = dict(line.split(b":", 1) for line in raw.split(b"\n") if b":" in line)
    if not {b"Tgid", b"PPid"} <= lines.keys():
        return None
    return TaskStatus(
        name=printable(decoded(lines.get(b"Name", b"")).strip("\t"), MAX_COMM_CHARS),
        tgid=int(lines[b"Tgid"]),
        ppid=int(lines[b"PPid"]),
        tracer_pid=int(lines.get(b"TracerPid", b"0")),
        uid=int(lines.get(b"Uid", b"0").split()[0]),
        ns_pids=tuple(int(number) for number in lines.get(b"NSpid", b"").split()),
        effective_capabilities=int(lines.get(b"CapEff", b"0"), 16),
        caught_signals=int(lines.get(b"SigCgt", b"0"), 16),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SyscallState:
    """Where a task is: running, in call `nr` with its arguments, or blocked outside any call (`nr` None)."""

    running: bool
    nr: int | None = None
    args: tuple[int, ...] = ()


def parse_syscall(raw: bytes) -> SyscallState:
    """Read /proc/PID/syscall (fs/proc/base.c proc_pid_syscall): `running`, `-1 sp pc`, or `nr a0 .. a5 sp pc`."""
    words = raw.split()
    if not words or words[0] == b"running":
        return SyscallState(running=True)
    nr = int(words[0])
    if nr < 0:
        return SyscallState(running=False)
    return SyscallState(running=False, nr=nr, args=tuple(int(word, 16) for word in words[1:7]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedStat:
    """/proc/PID/schedstat: time on CPU, time runnable but waiting, and how often it got a CPU."""

    cpu_ns: int
    run_delay_ns: int
    timeslices: int


def parse_schedstat(raw: bytes) -> SchedStat | None:
    """Read a schedstat line; None where the kernel keeps none (all zero without CONFIG_SCHED_INFO)."""
    words = raw.split()
    if len(words) < 3 or int(words[2]) == 0:
        return None
    return SchedStat(cpu_ns=int(words[0]), run_delay_ns=int(words[1]), timeslices=int(words[2]))


def parse_wchan(raw: bytes) -> str | None:
    """The kernel symbol a task sleeps in; None: running, refused (both read 0), or a bare address."""
    word = raw.strip(b"\0\n ")
    return None if not word or word.isdigit() else printable(decoded(word))


@dataclass(frozen=True, slots=True, kw_only=True)
class FdInfo:
    """/proc/PID/fdinfo/FD: open flags, mount, and the inode (None before Linux 5.14)."""

    flags: int
    mount_id: int | None
    ino: int | None


def parse_fdinfo(raw: bytes) -> FdInfo:
    """Read the common lines of an fdinfo file."""
    lines = dict(line.split(b":", 1) for line in raw.split(b"\n") if b":" in line)
    mount, ino = lines.get(b"mnt_id"), lines.get(b"ino")
    return FdInfo(
        flags=int(lines.get(b"flags", b"0"), 8),
        mount_id=None if mount is None else int(mount),
        ino=None if ino is None else int(ino),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo: `root` is the mounted part of the file system, `point` where it is seen."""

    mount_id: int
    dev: DevT
    root: str
    point: str
    fs_type: str
    options: tuple[str, ...]


def parse_mountinfo(raw: bytes) -> tuple[Mount, ...]:
    """Read /proc/PID/mountinfo; a line that does not have its form is passed over."""
    return tuple(mount for line in decoded(raw).split("\n") if (mount := _mount(line)) is not None)


def _mount(line: str) -> Mount | None:
    before, _, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    major, _, minor = left[2].partition(":") if len(left) > 5 else ("", "", "")
    if not (major.isdecimal() and minor.isdecimal() and left[0].isdecimal() and len(right) >= 3):
        return None
    return Mount(
        mount_id=int(left[0]),
        dev=dev_t(int(major), int(minor)),
        root=_unescaped(left[3]),
        point=_unescaped(left[4]),
        fs_type=right[0],
        options=tuple(right[2].split(",")),
    )


def _unescaped(text: str) -> str:
    """mountinfo writes blank, tab, newline and backslash as three octal digits."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
