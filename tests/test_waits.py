"""Whole runs of `culpa why` on waits for other threads: the truth is what the programs were made to do.

Each test starts a real program, has the real tracer watch it, and looks for the true culprit in the blame tree.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from test_why import every, needs_tracing, why

pytestmark = [pytest.mark.trace, needs_tracing]

SERVER = """
    import hashlib, http.server, os, queue, subprocess, sys, threading, time
    PAGES = {}
    def page(function):
        PAGES["/" + function.__name__] = function
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            body = str(PAGES.get(self.path, int)()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *arguments): pass
    def hashed(rounds=120_000):
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", rounds)
    def serve(kind):
        kind(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
NODE = """
    const http = require('http'), crypto = require('crypto');
    http.createServer((question, answer) => {
      if (question.url === '/hash') crypto.pbkdf2('a', 'b', 150000, 64, 'sha512', () => answer.end('done'));
      else answer.end('up');
    }).listen(+process.argv[2], '127.0.0.1');
"""
LOOP = """
    import asyncio, hashlib, sys
    def hashed(): hashlib.pbkdf2_hmac("sha256", b"a", b"b", 120_000)
    async def serve(reader, writer):
        try:
            while head := await reader.readuntil(b"\\r\\n\\r\\n"):
                if head.startswith(b"GET /hash "):
                    await asyncio.get_running_loop().run_in_executor(None, hashed)
                writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nup")
        except asyncio.IncompleteReadError:
            writer.close()
    async def main():
        await (await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))).serve_forever()
    asyncio.run(main())
"""
MUTEX = """
    #include <pthread.h>
    #include <time.h>
    #include <unistd.h>
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static void *hold(void *unused) {
        struct timespec held = {0, 40000000}, between = {0, 2000000};
        for (;;) {
            pthread_mutex_lock(&lock);
            nanosleep(&held, 0);
            pthread_mutex_unlock(&lock);
            nanosleep(&between, 0);
        }
        return unused;
    }
    int main(void) {
        pthread_t holder;
        struct timespec between = {0, 1000000};
        pthread_create(&holder, 0, hold, 0);
        for (int i = 0; i < 25; i++) {
            nanosleep(&between, 0);
            pthread_mutex_lock(&lock);
            pthread_mutex_unlock(&lock);
        }
        return 0;
    }
"""


@contextmanager
def running(argv: list[str], path: Path, source: str) -> Iterator[str]:
    """A server made of a source; its address once it answers."""
    path.write_text(textwrap.dedent(source))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([*argv, str(path), str(port)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 20
            while not _answers(f"http://127.0.0.1:{port}/"):
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def python(folder: Path, body: str) -> Iterator[str]:
    """A Python server with the pages of `body`."""
    source = textwrap.dedent(SERVER) + textwrap.dedent(body)
    with running([sys.executable], folder / "server.py", source) as url:
        yield url


@contextmanager
def asking(url: str, clients: int) -> Iterator[None]:
    """Other clients, which never stop asking."""
    asker = f"from urllib.request import urlopen\nwhile True: urlopen({url!r}).read()"
    with ExitStack() as others:
        started = [
            others.enter_context(subprocess.Popen([sys.executable, "-c", asker], stderr=subprocess.DEVNULL))
            for _ in range(clients)
        ]
        try:
            yield
        finally:
            for other in started:
                other.kill()


def share(verdict: dict[str, Any], above: Callable[[dict[str, Any]], bool], *kinds: str) -> float:
    """The share of nodes of some kinds below the uppermost nodes that `above` accepts, of the time that is waited.

    What a busy host takes, before the request is read or while its own thread wants a CPU, is not part of the truth.
    """
    top = verdict["blame"]["children"]
    own = [n for n in top if n["kind"] in ("running", "runnable") or n["label"].startswith("queued at")]
    waited = 1 - sum(node["share"] for node in own if not list(_tops(node, above)))
    return sum(_below(node, kinds) for node in _tops(verdict["blame"], above)) / waited


def _tops(node: dict[str, Any], above: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    if above(node):
        yield node
    else:
        for child in node["children"]:
            yield from _tops(child, above)


def _below(node: dict[str, Any], kinds: tuple[str, ...]) -> float:
    if node["kind"] in kinds:
        return float(node["share"])
    return sum(_below(child, kinds) for child in node["children"])


def unexplained(verdict: dict[str, Any]) -> float:
    """The share of the leaves that say that they do not know."""
    return sum(node["share"] for node in every(verdict["blame"]) if node["kind"] == "unexplained")


def test_a_request_that_was_not_read_is_queued_behind_the_one_that_is_served(tmp_path: Path) -> None:
    """One thread; another client asks for a page that sleeps."""
    body = """
        @page
        def slow(): time.sleep(0.15)
        serve(http.server.HTTPServer)
    """
    with python(tmp_path, body) as url:
        asker = f"while True: urlopen({url + '/slow'!r}).read()"
        with subprocess.Popen([sys.executable, "-c", f"from urllib.request import urlopen\n{asker}"]) as other:
            verdict = why(f"{url}/quick", "--for", "3s")
            other.kill()

    assert share(verdict, lambda node: "behind GET /slow" in node["label"], "sleep") > 0.8
    assert "app.loop.blocked" == verdict["causes"][0]["id"]


def test_a_queue_in_front_of_all_workers_is_a_pool_that_is_exhausted(tmp_path: Path) -> None:
    """Two workers of one pool; three clients keep them in a page that sleeps."""
    body = """
        import concurrent.futures
        @page
        def slow(): time.sleep(0.1)
        Handler.protocol_version = "HTTP/1.0"
        class Pool(http.server.ThreadingHTTPServer):
            pool = concurrent.futures.ThreadPoolExecutor(2)
            def process_request(self, *connection): self.pool.submit(self.process_request_thread, *connection)
        serve(Pool)
    """
    with python(tmp_path, body) as url, asking(f"{url}/slow", 3):
        verdict = why(f"{url}/quick", "--for", "3s")

    head = verdict["causes"][0]
    assert ("app.pool.exhausted", "All 2 workers are busy with other requests") == (head["id"], head["title"])
    assert share(verdict, lambda node: "behind GET /slow" in node["label"], "sleep") > 0.8
    assert "sleep.by-choice" not in [cause["id"] for cause in verdict["causes"]]


def test_connections_that_all_other_requests_use_are_a_pool_that_is_exhausted(tmp_path: Path) -> None:
    """A thread for every client, but only two connections to a peer that takes its time."""
    body = """
        import socket, socketserver
        class Slow(socketserver.StreamRequestHandler):
            def handle(self):
                while line := self.rfile.readline():
                    time.sleep(0.1)
                    self.wfile.write(line)
        peer = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Slow)
        if not (child := os.fork()): peer.serve_forever()
        free = queue.LifoQueue()
        for _ in range(2): free.put(socket.create_connection(peer.server_address))
        @page
        def ask():
            connection = free.get()
            connection.sendall(b"?\\n")
            connection.recv(9)
            free.put(connection)
        import signal, threading
        threading.Thread(target=lambda: (sys.stdin.read(), os.kill(child, signal.SIGKILL), os._exit(0))).start()
        serve(http.server.ThreadingHTTPServer)
    """
    with python(tmp_path, body) as url, asking(f"{url}/ask", 4):
        verdict = why(f"{url}/ask", "--for", "3s")

    cause = next(cause for cause in verdict["causes"] if cause["id"] == "app.pool.exhausted")
    assert cause["title"] == "All 2 connections to a peer are in use by other requests"
    assert cause["share"] > 0.4
    assert cause["on"]["peer"].startswith("127.0.0.1:")


def test_a_lock_is_followed_to_its_holder(tmp_path: Path) -> None:
    """Three threads hash under a lock in turn; the request wants the lock as well."""
    body = """
        lock = threading.Lock()
        def renew():
            while True:
                with lock: hashed()
                time.sleep(0.002)
        for _ in range(3): threading.Thread(target=renew, daemon=True).start()
        @page
        def locked():
            with lock: return 1
        serve(http.server.ThreadingHTTPServer)
    """
    with python(tmp_path, body) as url:
        verdict = why(f"{url}/locked", "--for", "3s")

    assert share(verdict, lambda node: node["kind"] == "lock", "running", "runnable") > 0.7
    assert "lock.contention" in [cause["id"] for cause in verdict["causes"]]


def test_a_result_of_another_thread_is_followed_to_that_thread(tmp_path: Path) -> None:
    """A queue there, a queue back: what the worker computes is what the request waits for; it is no lock."""
    body = """
        jobs = queue.Queue()
        def work():
            while True:
                back = jobs.get()
                hashed()
                back.put(1)
        threading.Thread(target=work, daemon=True).start()
        @page
        def result():
            back = queue.Queue()
            jobs.put(back)
            return back.get()
        serve(http.server.ThreadingHTTPServer)
    """
    with python(tmp_path, body) as url:
        verdict = why(f"{url}/result", "--for", "3s")

    assert share(verdict, lambda node: node["kind"] == "peer", "running", "runnable") > 0.8
    assert "lock.contention" not in [cause["id"] for cause in verdict["causes"]]


def test_the_interpreter_lock_is_a_lock(tmp_path: Path) -> None:
    """A thread that never rests; the request counts as well and takes turns with it."""
    body = """
        def spin():
            while True: sum(range(1000))
        threading.Thread(target=spin, daemon=True).start()
        @page
        def count(): return sum(number % 7 for number in range(400_000))
        serve(http.server.ThreadingHTTPServer)
    """
    with python(tmp_path, body) as url:
        verdict = why(f"{url}/count", "--for", "3s")

    assert share(verdict, lambda node: node["kind"] == "lock", "lock") > 0.6
    assert unexplained(verdict) < 0.1


def test_a_child_at_the_other_end_of_a_pipe_is_followed(tmp_path: Path) -> None:
    """The request reads what a child writes after a sleep, and the end of the pipe after another one."""
    body = """
        @page
        def report(): return subprocess.run("sleep 0.1; echo 1; sleep 0.1", shell=True, stdout=-1).stdout
        serve(http.server.HTTPServer)
    """
    with python(tmp_path, body) as url:
        verdict = why(f"{url}/report", "--for", "3s")

    assert share(verdict, lambda node: node["kind"] == "peer", "sleep") > 0.8


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this host")
def test_an_event_loop_that_waits_for_its_thread_pool_is_explained_by_the_pool(tmp_path: Path) -> None:
    """Node hashes in a thread of its pool, which writes to an eventfd when it is done."""
    with running(["node"], tmp_path / "server.js", NODE) as url:
        verdict = why(f"{url}/hash", "--for", "3s")

    assert share(verdict, lambda node: node["kind"] == "peer", "running", "runnable") > 0.8
    assert unexplained(verdict) < 0.1


def test_an_event_loop_that_its_own_thread_wakes_through_a_socket_pair_is_explained_by_that_thread(
    tmp_path: Path,
) -> None:
    """asyncio hashes in an executor, whose thread writes one byte to a unix socket when it is done."""
    with running([sys.executable], tmp_path / "server.py", LOOP) as url:
        verdict = why(f"{url}/hash", "--for", "3s")

    assert share(verdict, lambda node: node["kind"] == "peer", "running", "runnable") > 0.7
    assert unexplained(verdict) < 0.1


def test_a_stopped_server_is_called_stopped_and_who_let_it_go_on_is_named(tmp_path: Path) -> None:
    """SIGSTOP before the window, SIGCONT by a shell within it."""
    with running([sys.executable], tmp_path / "server.py", LOOP) as url:
        pids = subprocess.run(["pgrep", "-f", str(tmp_path / "server.py")], capture_output=True, text=True, check=True)
        pid = pids.stdout.split()[0]
        subprocess.run(["kill", "-STOP", pid], check=True)
        with subprocess.Popen(["sh", "-c", f"sleep 4; kill -CONT {pid}; sleep 4"]):
            verdict = why(url, "--for", "6s")

    stopped = [node for node in every(verdict["blame"]) if node["kind"] == "stopped"]
    assert sum(node["share"] for node in stopped) > 0.5
    assert any("until sh[" in node["label"] for node in stopped)


def test_a_server_that_is_stopped_over_and_over_names_who_does_that(tmp_path: Path) -> None:
    """SIGSTOP and SIGCONT in turns by a shell, which the scheduler and its calls show."""
    with running([sys.executable], tmp_path / "server.py", LOOP) as url:
        found = subprocess.run(["pgrep", "-f", str(tmp_path / "server.py")], capture_output=True, text=True, check=True)
        pid = found.stdout.split()[0]
        turns = f"while kill -STOP {pid}; do sleep 0.1; kill -CONT {pid}; sleep 0.03; done"
        with subprocess.Popen(["sh", "-c", turns], stderr=subprocess.DEVNULL) as shell:
            verdict = why(url, "--for", "3s")
            shell.kill()
        subprocess.run(["kill", "-CONT", pid], check=True)

    head = verdict["causes"][0]
    assert ("proc.stopped", int(pid)) == (head["id"], head["who"]["pid"])
    assert head["title"].startswith("It is stopped by sh[")


@pytest.mark.skipif(not Path("/sys/fs/cgroup/freezer").is_dir(), reason="no freezer of cgroup v1 on this host")
def test_a_frozen_server_is_stopped_by_the_freezer(tmp_path: Path) -> None:
    """A group of its own, frozen and thawed in turns."""
    group = Path("/sys/fs/cgroup/freezer") / tmp_path.name
    with running([sys.executable], tmp_path / "server.py", LOOP) as url:
        found = subprocess.run(["pgrep", "-f", str(tmp_path / "server.py")], capture_output=True, text=True, check=True)
        group.mkdir()
        (group / "cgroup.procs").write_text(found.stdout.split()[0])
        turns = "while echo FROZEN; do sleep 0.1; echo THAWED; sleep 0.03; done"
        loop = turns.replace("; do", f" > {group}/freezer.state; do").replace(
            "THAWED;", f"THAWED > {group}/freezer.state;"
        )
        with subprocess.Popen(["sh", "-c", loop]) as shell:
            try:
                verdict = why(url, "--for", "3s")
            finally:
                shell.kill()
                shell.wait()
                (group / "freezer.state").write_text("THAWED")
                (group.parent / "cgroup.procs").write_text(found.stdout.split()[0])
    group.rmdir()

    head = verdict["causes"][0]
    assert ("proc.stopped", "It is stopped by the freezer of its control group") == (head["id"], head["title"])


def test_a_mutex_of_c_is_followed_to_the_thread_that_sleeps_while_it_holds_it(tmp_path: Path) -> None:
    """Plain pthread: one thread sleeps 40 ms with the mutex, the main thread wants it 25 times."""
    source, program = tmp_path / "mutex.c", tmp_path / "mutex"
    source.write_text(textwrap.dedent(MUTEX))
    compiler = shutil.which("cc") or shutil.which("clang")
    argv = [compiler] if compiler else [sys.executable, "-m", "ziglang", "cc"]
    subprocess.run([*argv, "-pthread", "-o", str(program), str(source)], check=True, timeout=120)
    verdict = why("--", str(program))

    assert share(verdict, lambda node: node["kind"] == "lock", "sleep") > 0.8
    assert "lock.contention" == verdict["causes"][0]["id"]


def test_a_full_pipe_is_explained_by_its_reader() -> None:
    """The writer has far more to say than a pipe holds; the reader sleeps between its reads."""
    reader = "import sys, time\nwhile sys.stdin.buffer.raw.read(1 << 16): time.sleep(0.03)"
    writer = f"import os, subprocess\np = subprocess.Popen([{sys.executable!r}, '-c', {reader!r}], stdin=-1)\n"
    writer += "for _ in range(40): os.write(p.stdin.fileno(), bytes(1 << 16))\n"
    verdict = why("--", sys.executable, "-c", writer)

    assert share(verdict, lambda node: node["kind"] == "peer" and "write" in node["label"], "sleep") > 0.5


def test_a_page_fault_names_the_mapped_file_and_the_device_below_it(tmp_path: Path) -> None:
    """A program reads pages of a mapping in no order; the page cache has none of them."""
    file = tmp_path / "mapped"
    file.write_bytes(os.urandom(64 << 20))
    program = """
        import mmap, os, random, sys
        descriptor = os.open(sys.argv[1], os.O_RDWR)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        pages = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        pages.madvise(mmap.MADV_RANDOM)
        for number in random.Random(1).sample(range(len(pages) >> 12), 4000): pages[number << 12]
    """
    verdict = why("--", sys.executable, "-c", textwrap.dedent(program), str(file))

    faults = [node for node in every(verdict["blame"]) if node["kind"] == "fault" and node["on"]]
    assert [str(file)] == [node["on"]["path"] for node in faults]
    assert faults[0]["count"] > 3000
    below = [child["share"] for child in faults[0]["children"] if child["kind"] == "device"]
    assert sum(below) > 0.9 * faults[0]["share"]


def test_writes_that_are_synced_one_by_one_are_syncs(tmp_path: Path) -> None:
    """dd(1) with O_DSYNC: no call is named sync."""
    file = tmp_path / "log"
    verdict = why("--", "dd", "if=/dev/zero", f"of={file}", "bs=4k", "count=1500", "oflag=dsync", "status=none")

    syncs = [node for node in every(verdict["blame"]) if node["kind"] == "fsync"]
    assert {str(file)} == {node["on"]["path"] for node in syncs}
    cause = next(cause for cause in verdict["causes"] if cause["id"] == "disk.fsync-heavy")
    assert ("dd", "write", str(file)) == (cause["who"]["comm"], cause["on"]["syscall"], cause["on"]["path"])
