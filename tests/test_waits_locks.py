"""Whole runs of `culpa why` on waits for locks of the kernel, and on futex words that change while one waits."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from whole_runs import every, needs_tracing, python, share, why

pytestmark = [pytest.mark.trace, needs_tracing]

APPEND = """
import mmap, os, sys
data = mmap.mmap(-1, 16 << 20)
data.write(os.urandom(16 << 20))
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
print(flush=True)
while os.getppid() > 1:
    os.ftruncate(file, 4096)
    for _ in range(8): os.pwrite(file, data, os.fstat(file).st_size)
"""
"""Direct writes that make a file longer: the kernel holds its lock until the device has taken each of them."""

FUTEX = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_uint32 * 64)()
    CONDITION, MUTEX = (ctypes.addressof(words) + 64 * place for place in (1, 2))
    def futex(word, operation, value=0, more=0, other=0, last=0):
        arguments = (word, operation | 128, value, more, other, last)
        return libc.syscall(202, *(ctypes.c_long(argument) for argument in arguments))
    asked = threading.Event()
"""


def of_kind(verdict: dict, kind: str) -> list[dict]:
    """The blame tree's nodes of a kind that name what they are about."""
    return [node for node in every(verdict["blame"]) if node["kind"] == kind and node["on"]]


@contextmanager
def appending(file: Path) -> Iterator[int]:
    """Another process that makes a file longer; its id."""
    with subprocess.Popen([sys.executable, "-c", APPEND, str(file)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            yield other.pid
        finally:
            other.kill()


def test_a_write_behind_one_of_another_process_waits_for_the_lock_of_their_file(tmp_path: Path) -> None:
    """The request writes a byte to the file as soon as the other process lets it, which is no peer of the server."""
    file = tmp_path / "shared"
    body = f"""
        file = os.open({str(file)!r}, os.O_WRONLY | os.O_CREAT)
        @page
        def note(): return os.pwrite(file, b"x", 0)
        serve(http.server.HTTPServer)
    """
    with appending(file) as pid, python(tmp_path, body) as url:
        verdict = why(f"{url}/note", "--for", "5s")

    waits = [node for node in of_kind(verdict, "lock") if node["on"]["lock"].startswith("i_rwsem")]
    locks = [node for node in waits if node["who"]["pid"] == pid]
    assert locks
    # In one wait the window may end: nobody has let the lock go by then, and nobody is named for it.
    assert sum(node["count"] for node in waits if node not in locks) <= 1
    assert share(verdict, lambda node: node in locks, "device", "io", "fsync", "running", "runnable") > 0.7
    cause = next(cause for cause in verdict["causes"] if cause["id"] == "lock.contention")
    assert pid == cause["who"]["pid"]


def test_page_faults_wait_while_another_thread_forks(tmp_path: Path) -> None:
    """A fork copies the page tables of 400 MB; the request fills memory meanwhile."""
    body = """
        import ctypes, mmap
        libc = ctypes.CDLL(None)
        ballast = mmap.mmap(-1, 400 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        ballast.madvise(15)  # no huge pages
        for at in range(0, len(ballast), 4096): ballast[at] = 1
        def fork():
            while True:
                child = os.fork()
                if not child: os._exit(0)
                os.waitpid(child, 0)
        threading.Thread(target=fork, daemon=True, name="forks").start()
        @page
        def fill():
            room = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            room.madvise(15)
            start = ctypes.addressof(ctypes.c_char.from_buffer(room))
            libc.memset(ctypes.c_void_p(start), 1, ctypes.c_size_t(len(room)))
        serve(http.server.HTTPServer)
    """
    with python(tmp_path, body) as url:
        verdict = why(f"{url}/fill", "--for", "3s")

    locks = [node for node in of_kind(verdict, "lock") if node["on"]["lock"].startswith("mmap_lock")]
    assert locks
    assert share(verdict, lambda node: node in locks, "running", "runnable") > 0.1


def test_a_waiter_that_is_moved_to_a_mutex_waits_for_whoever_holds_that(tmp_path: Path) -> None:
    """FUTEX_CMP_REQUEUE, as glibc before 2.25 does it: the other thread computes, moves the waiter, sleeps with the
    mutex, lets it go.
    """
    body = """
        def signal():
            while True:
                asked.wait(); asked.clear()
                hashed(60_000)
                while futex(CONDITION, 4, 0, 1, MUTEX, 0) < 1: time.sleep(0.001)
                time.sleep(0.1)
                futex(MUTEX, 1, 1)
        threading.Thread(target=signal, daemon=True).start()
        @page
        def wait():
            asked.set()
            return futex(CONDITION, 0)
        serve(http.server.HTTPServer)
    """
    with python(tmp_path, textwrap.dedent(FUTEX) + textwrap.dedent(body)) as url:
        verdict = why(f"{url}/wait", "--for", "3s")

    assert share(verdict, lambda node: "futex" in node["label"] or node["kind"] in ("lock", "peer"), "sleep") > 0.6
    assert share(verdict, lambda node: node["kind"] in ("lock", "peer"), "sleep", "running", "runnable") > 0.9


def test_a_wait_on_several_words_is_followed_to_who_woke_it(tmp_path: Path) -> None:
    """futex_waitv(2) on two words; a thread computes and wakes the second."""
    body = """
        class Word(ctypes.Structure):
            _fields_ = [("value", ctypes.c_uint64), ("address", ctypes.c_uint64), ("flags", ctypes.c_uint64)]
        both = (Word * 2)(Word(0, CONDITION, 2 | 128), Word(0, MUTEX, 2 | 128))
        def signal():
            while True:
                asked.wait(); asked.clear()
                hashed(240_000)
                while futex(MUTEX, 1, 1) < 1: time.sleep(0.001)
        threading.Thread(target=signal, daemon=True).start()
        @page
        def wait():
            asked.set()
            return libc.syscall(449, ctypes.byref(both), ctypes.c_long(2), ctypes.c_long(0), None, ctypes.c_long(1))
        serve(http.server.HTTPServer)
    """
    with python(tmp_path, textwrap.dedent(FUTEX) + textwrap.dedent(body)) as url:
        verdict = why(f"{url}/wait", "--for", "3s")

    assert share(verdict, lambda node: node["kind"] == "peer", "running", "runnable") > 0.8
