"""The parsers of /proc/PID read every kernel's form, and agree with ps on living processes."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from culpa.collect.procfs import (
    PF_KTHREAD,
    SyscallState,
    bracketed_number,
    numbers_in,
    parse_fdinfo,
    parse_mountinfo,
    parse_schedstat,
    parse_stat,
    parse_status,
    parse_syscall,
    parse_wchan,
    read_bounded,
)
from culpa.units import dev_t

OLD = Path(__file__).parents[1] / "fixtures" / "proc" / "linux-3.10" / "4711"
TAIL = b" S 1 9 9 0 -1 %d 1500 0 12 0 345 678 0 0 20 0 4 0 987654 1 2"


def read(name: str) -> bytes:
    """A file of the recorded Linux 3.10 process."""
    return (OLD / name).read_bytes()


def test_stat_of_a_name_with_parentheses_and_newline() -> None:
    """The name ends at the last parenthesis, and is made safe to show."""
    found = parse_stat(read("stat"))
    assert found is not None
    assert ("redis) (x)\\x0a7", "D", 1, 12, 345, 678, 2, 987654) == (
        found.comm, found.state, found.ppid, found.major_faults, found.user_ticks, found.system_ticks, found.threads,
        found.starttime,
    )  # fmt: skip


@given(st.binary(max_size=15))
def test_any_name_leaves_the_numbers_right(name: bytes) -> None:
    """Whatever a process calls itself."""
    found = parse_stat(b"7 (" + name + b")" + TAIL % 0)
    assert found is not None
    assert (7, 987654, False) == (found.tid, found.starttime, found.kernel)


@given(st.binary(max_size=300))
def test_a_broken_stat_line_is_none_or_a_value(raw: bytes) -> None:
    """Short or torn lines raise nothing unless numbers are not numbers, which no kernel writes."""
    cut = (b"7 (x)" + TAIL % 0)[: len(raw)]
    found = parse_stat(cut)
    assert found is None or found.tid == 7


def test_kernel_threads_are_told_by_flag() -> None:
    """PF_KTHREAD, on every kernel."""
    found = parse_stat(b"7 (kworker/0:1)" + TAIL % PF_KTHREAD)
    assert found is not None
    assert found.kernel


def test_status_without_the_lines_of_newer_kernels() -> None:
    """Linux 3.10 has no NSpid."""
    found = parse_status(read("status"))
    assert found is not None
    assert (4711, 1, 994, (), 0) == (found.tgid, found.ppid, found.uid, found.ns_pids, found.effective_capabilities)
    assert parse_status(b"") is None


def test_status_of_this_process() -> None:
    """Against the system calls that know."""
    found = parse_status(read_bounded("/proc/self/status") or b"")
    assert found is not None
    assert (os.getpid(), os.getppid(), os.getuid()) == (found.tgid, found.ppid, found.uid)
    assert os.getpid() == found.ns_pids[-1]


def test_syscall_forms() -> None:
    """In a call, running, and blocked outside any call."""
    assert SyscallState(running=False, nr=75, args=(8, 1, 0, 0, 0x7FFD, 0)) == parse_syscall(read("syscall"))
    assert SyscallState(running=True) == parse_syscall(b"running\n")
    assert SyscallState(running=False) == parse_syscall(b"-1 0x7ffe1 0x7f00\n")


def test_schedstat_and_wchan() -> None:
    """All zero is a kernel without the counters; `0` and bare addresses name no symbol."""
    found = parse_schedstat(b"123456789 555 42\n")
    assert found is not None
    assert (123456789, 555, 42) == (found.cpu_ns, found.run_delay_ns, found.timeslices)
    assert parse_schedstat(b"0 0 0\n") is None
    assert "jbd2_log_wait_commit" == parse_wchan(read("wchan"))
    assert parse_wchan(b"0") is None
    assert parse_wchan(b"18446744071579305384") is None


def test_fdinfo_with_and_without_inode() -> None:
    """`ino` came with Linux 5.14."""
    new = parse_fdinfo(b"pos:\t0\nflags:\t0100002\nmnt_id:\t27\nino:\t531\n")
    assert (0o100002, 27, 531) == (new.flags, new.mount_id, new.ino)
    old = parse_fdinfo(b"pos:\t0\nflags:\t02\nmnt_id:\t27\n")
    assert old.ino is None


def test_mountinfo_escapes_and_optional_fields() -> None:
    """Blanks in paths are octal; between root and the dash there may be any number of tags."""
    text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\njunk\n"
    (found,) = parse_mountinfo(text)
    assert (36, dev_t(98, 0), "/mnt1", "/mnt 2", "ext3", ("rw", "errors=continue")) == (
        found.mount_id, found.dev, found.root, found.point, found.fs_type, found.options,
    )  # fmt: skip


def test_what_is_gone_is_none() -> None:
    """No exception for a process that ended."""
    assert read_bounded("/proc/4194305/stat") is None
    assert [] == numbers_in("/proc/4194305/task")


@pytest.mark.parametrize("number", [errno.ESRCH, errno.ENODEV, errno.ENXIO])
def test_what_goes_between_opening_and_reading_is_none(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A process, a control group or device, a network namespace: each has its own word for being gone."""

    def gone(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("culpa.collect.procfs.os.read", gone)
    assert read_bounded("/proc/self/stat") is None


def test_every_living_process_agrees_with_ps() -> None:
    """The parent as ps sees it, for each process that had it before and after: who loses it is given another one."""
    before = told_by_ps()
    raw = {pid: read_bounded(f"/proc/{pid}/stat") for pid in before}
    stayed = dict(before.items() & told_by_ps().items())
    found = {pid: stat.ppid for pid in stayed if (stat := parse_stat(raw[pid] or b"")) is not None}
    assert os.getpid() in found
    assert stayed == found


def told_by_ps() -> dict[int, int]:
    """The parent of each process."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return {int(pid): int(ppid) for pid, ppid in (line.split() for line in listed.splitlines())}


def test_bracketed_numbers() -> None:
    """Inode in the text of a link."""
    assert 123 == bracketed_number("socket:[123]")
    assert bracketed_number("/tmp/[12") is None
    assert bracketed_number("anon_inode:[eventpoll]") is None
