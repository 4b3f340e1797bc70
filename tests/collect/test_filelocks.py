"""The kernel's list of locks: what its lines say, and whose locks concern the processes that are watched."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from culpa.collect.filelocks import FileLocks, parse_locks
from culpa.units import dev_t

LIST = b"""1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 1073741826 1073742335
1: -> POSIX  ADVISORY  READ 3570 fd:00:2531452 1073741826 1073742335
2: FLOCK  ADVISORY  WRITE 3517 00:1f:1029 0 EOF
2:  -> FLOCK  ADVISORY  WRITE 3520 00:1f:1029 0 EOF
3: OFDLCK ADVISORY  READ -1 08:01:77 0 EOF
4: LEASE  ACTIVE    READ 900 08:01:78 0 EOF
5: DELEG  ACTIVE    READ 901 08:01:79 0 EOF
6: FLOCK nonsense
"""


def test_lines_of_the_list() -> None:
    """Kinds, holders and those who wait; leases are no locks that anybody waits for."""
    found = [(lock.pid, lock.dev, lock.ino, lock.exclusive, lock.waits) for lock in parse_locks(LIST)]
    assert [
        (3568, dev_t(0xFD, 0), 2531452, True, False),
        (3570, dev_t(0xFD, 0), 2531452, False, True),
        (3517, dev_t(0, 0x1F), 1029, True, False),
        (3520, dev_t(0, 0x1F), 1029, True, True),
        (-1, dev_t(8, 1), 77, False, False),
    ] == found


def test_the_lock_line_of_an_open_file() -> None:
    """fdinfo has the same line behind a word of its own."""
    (lock,) = parse_locks(b"pos:\t0\nflags:\t0100001\nlock:\t1: FLOCK  ADVISORY  WRITE 5 00:23:90 0 EOF\n")
    assert (5, 90, False) == (lock.pid, lock.ino, lock.waits)


def test_who_holds_the_lock_of_a_file_that_is_open_here_concerns_us(tmp_path: Path) -> None:
    """Another process holds it; a third process, with a lock of another file, is of no interest."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    program = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for path in (mine, other)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        locks = FileLocks()
        with mine.open():
            locks.look()
            found = locks.holders([os.getpid()], [os.getpid()])
        assert started[0].pid in found
        assert started[1].pid not in found
        rows = locks.rows().filter(ino=mine.stat().st_ino)
        assert [(started[0].pid, True, False)] == rows.select("pid", "exclusive", "waits").rows()
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_of_a_lock_whose_taker_has_ended_whoever_keeps_the_file_open_is_the_holder(tmp_path: Path) -> None:
    """`flock 9` of a shell: the program that took the lock is gone, the shell holds it."""
    file = tmp_path / "lock"
    taker = "import fcntl, os; os.fork() or (fcntl.flock(9, fcntl.LOCK_EX), os._exit(0)); os.wait(); print(flush=True)"
    holds = f"import os\nos.dup2(os.open({str(file)!r}, os.O_CREAT | os.O_RDWR), 9)\n{taker}\ninput()"
    with subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            waits = f"import fcntl; f = open({str(file)!r}); print(flush=True); fcntl.flock(f, fcntl.LOCK_EX)"
            with subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE) as waiter:
                assert waiter.stdout is not None
                waiter.stdout.readline()
                locks = FileLocks()
                while not locks.rows().filter(ino=file.stat().st_ino, waits=True).height:
                    locks.look()
                assert {holder.pid} == locks.holders([waiter.pid], [waiter.pid])
                waiter.kill()
        finally:
            holder.kill()


def test_a_file_that_is_locked_by_this_process_is_listed(tmp_path: Path) -> None:
    """The list of the running kernel is understood."""
    with (tmp_path / "own").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        locks = FileLocks()
        locks.look()
        stat = os.fstat(file.fileno())
        row = locks.rows().filter(ino=stat.st_ino).select("pid", "dev", "exclusive", "waits").row(0)
    assert (os.getpid(), dev_t(os.major(stat.st_dev), os.minor(stat.st_dev)), False, False) == row
