"""Whole runs of `culpa why` on waits for locks of files, and for the other end of a named pipe or a full connection."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from whole_runs import beside, every, needs_tracing, python, share, why

pytestmark = [pytest.mark.trace, needs_tracing]

HOLDS_FLOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
while True:
    fcntl.flock(file, fcntl.LOCK_EX); time.sleep(0.2); fcntl.flock(file, fcntl.LOCK_UN); time.sleep(0.01)
"""
HOLDS_FOR_GOOD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); time.sleep(300)
"""
HOLDS_DATABASE = """
import sqlite3, sys, time
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("create table if not exists t (x)")
print(flush=True)
while True:
    base.execute("begin immediate"); base.execute("insert into t values (1)"); time.sleep(0.3); base.execute("commit")
    time.sleep(0.01)
"""


def lock_nodes(verdict: dict, path: Path) -> list[dict]:
    """The blame tree's waits for the lock of a file."""
    return [n for n in every(verdict["blame"]) if n["kind"] == "lock" and (n["on"] or {}).get("path") == str(path)]


def contention(verdict: dict) -> tuple[int, str]:
    """Who is accused of holding the lock of which file."""
    cause = next(cause for cause in verdict["causes"] if cause["id"] == "lock.contention")
    return cause["who"]["pid"], cause["on"]["path"]


def test_a_request_that_waits_for_a_flock_waits_for_its_holder(tmp_path: Path) -> None:
    """The holder sleeps with the lock, which it lets go for a hundredth of a second each time."""
    file = tmp_path / "till"
    body = f"""
        import fcntl
        @page
        def sale():
            with open({str(file)!r}, "a") as till: fcntl.flock(till, fcntl.LOCK_EX)
        serve(http.server.HTTPServer)
    """
    with beside(HOLDS_FLOCK, str(file)) as pid, python(tmp_path, body) as url:
        verdict = why(f"{url}/sale", "--for", "5s")

    locks = lock_nodes(verdict, file)
    assert {pid} == {node["who"]["pid"] for node in locks}
    assert share(verdict, lambda node: node in locks, "sleep", "running", "runnable") > 0.8
    assert (pid, str(file)) == contention(verdict)


def test_a_lock_that_is_never_let_go_has_a_holder(tmp_path: Path) -> None:
    """Nobody wakes the waiter; the kernel's list of locks names the holder."""
    file = tmp_path / "ledger"
    body = f"""
        import fcntl
        @page
        def book():
            with open({str(file)!r}, "a") as ledger: fcntl.lockf(ledger, fcntl.LOCK_EX)
        serve(http.server.HTTPServer)
    """
    with beside(HOLDS_FOR_GOOD, str(file)) as pid, python(tmp_path, body) as url:
        verdict = why(f"{url}/book", "--for", "4s")

    assert (pid, str(file)) == contention(verdict)


def test_sqlite_waits_for_whoever_writes(tmp_path: Path) -> None:
    """It tries for the lock, sleeps, tries again; the other process holds a transaction open."""
    file = tmp_path / "orders"
    body = f"""
        import sqlite3
        @page
        def order():
            base = sqlite3.connect({str(file)!r}, timeout=30, isolation_level=None)
            base.execute("insert into t values (2)")
            base.close()
        serve(http.server.HTTPServer)
    """
    with beside(HOLDS_DATABASE, str(file)) as pid, python(tmp_path, body) as url:
        verdict = why(f"{url}/order", "--for", "6s")

    assert (pid, str(file)) == contention(verdict)
    assert "sleep.by-choice" not in {cause["id"] for cause in verdict["causes"]}


def test_opening_a_named_pipe_waits_for_who_opens_its_other_end(tmp_path: Path) -> None:
    """The other process sleeps before it opens it for writing."""
    pipe = tmp_path / "inbox"
    os.mkfifo(pipe)
    body = f"""
        @page
        def letter():
            with open({str(pipe)!r}) as inbox: return len(inbox.read())
        serve(http.server.HTTPServer)
    """
    writer = "import sys, time\nwhile True:\n    time.sleep(0.2); open(sys.argv[1], 'w').write('x')"
    with beside(writer, str(pipe)) as pid, python(tmp_path, body) as url:
        verdict = why(f"{url}/letter", "--for", "5s")

    peers = [n for n in every(verdict["blame"]) if n["kind"] == "peer" and (n["who"] or {}).get("pid") == pid]
    assert share(verdict, lambda node: node in peers, "sleep") > 0.8


def test_what_is_sent_faster_than_it_is_read_waits_for_the_reader(tmp_path: Path) -> None:
    """Each request sends 8 MB to another process, which sleeps between its reads."""
    reader = """
        import socket, time
        listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen()
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            while connection.recv(1 << 20): time.sleep(0.02)
            connection.close()
    """
    argv = [sys.executable, "-c", textwrap.dedent(reader)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        body = f"""
            import socket
            @page
            def send():
                with socket.create_connection(("127.0.0.1", {port})) as archive: archive.sendall(bytes(8 << 20))
            serve(http.server.HTTPServer)
        """
        try:
            with python(tmp_path, body) as url:
                verdict = why(f"{url}/send", "--for", "5s")
        finally:
            other.kill()

    peers = [n for n in every(verdict["blame"]) if n["kind"] == "peer" and (n["who"] or {}).get("pid") == other.pid]
    assert share(verdict, lambda node: node in peers, "sleep", "running", "runnable") > 0.6
