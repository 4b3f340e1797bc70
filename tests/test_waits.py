"""Whole runs of `culpa why` on waits for other threads: the truth is what the programs were made to do.

Each test starts a real program, has the real tracer watch it, and looks for the true culprit in the blame tree.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from whole_runs import LOOP, asking, beside, needs_tracing, python, running, share, unexplained, waited, why

pytestmark = [pytest.mark.trace, needs_tracing]


NODE = """
    const http = require('http'), crypto = require('crypto');
    http.createServer((question, answer) => {
      if (question.url === '/hash') crypto.pbkdf2('a', 'b', 150000, 64, 'sha512', () => answer.end('done'));
      else answer.end('up');
    }).listen(+process.argv[2], '127.0.0.1');
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


def test_a_request_that_was_not_read_is_queued_behind_the_one_that_is_served(tmp_path: Path) -> None:
    """One thread; another client asks for a page that sleeps."""
    body = """
        @page
        def slow(): time.sleep(0.15)
        serve(http.server.HTTPServer)
    """
    with python(tmp_path, body) as url, asking(f"{url}/slow", 1):
        verdict = why(f"{url}/quick", "--for", "3s")

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
        if not os.fork():
            threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()  # when the test lets go of it
            peer.serve_forever()
        free = queue.LifoQueue()
        for _ in range(2): free.put(socket.create_connection(peer.server_address))
        @page
        def ask():
            connection = free.get()
            connection.sendall(b"?\\n")
            connection.recv(9)
            free.put(connection)
        serve(http.server.ThreadingHTTPServer)
    """
    with python(tmp_path, body) as url, asking(f"{url}/ask", 6):
        verdict = why(f"{url}/ask", "--for", "3s")

    cause = next(cause for cause in verdict["causes"] if cause["id"] == "app.pool.exhausted")
    assert cause["title"] == "All 2 connections to a peer are in use by other requests"
    assert cause["share"] / waited(verdict) > 0.5  # five of seven wait while two are served
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


def test_a_mutex_of_c_is_followed_to_the_thread_that_sleeps_while_it_holds_it(tmp_path: Path) -> None:
    """Plain pthread: one thread sleeps 40 ms with the mutex, the main thread wants it 25 times."""
    source, program = tmp_path / "mutex.c", tmp_path / "mutex"
    source.write_text(textwrap.dedent(MUTEX))
    compiler = shutil.which("cc") or shutil.which("clang")
    argv = [compiler] if compiler else [sys.executable, "-m", "ziglang", "cc"]
    subprocess.run([*argv, "-pthread", "-o", str(program), str(source)], check=True, timeout=600)
    verdict = why("--", str(program))

    assert share(verdict, lambda node: node["kind"] == "lock", "sleep") > 0.8
    assert "lock.contention" == verdict["causes"][0]["id"]


READS_SLOWLY = """
import socket, sys, time
box = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
box.bind(sys.argv[1])
while True:
    box.recv(9000); time.sleep(0.01)
"""


def test_many_who_send_datagrams_wait_for_their_one_reader(tmp_path: Path) -> None:
    """Each request sends more than the queue holds, on a socket of its own; the reader pauses after each."""
    box = tmp_path / "box"
    body = f"""
        import socket, time
        @page
        def log():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect({str(box)!r})
                for _ in range(30): sender.send(bytes(300))
        serve(http.server.HTTPServer)
    """
    with beside(READS_SLOWLY, str(box)) as pid, python(tmp_path, body) as url:
        verdict = why(f"{url}/log", "--for", "4s")

    assert share(verdict, lambda node: node["kind"] == "peer", "sleep") > 0.8
    head = verdict["causes"][0]
    assert ("sleep.by-choice", pid) == (head["id"], head["who"]["pid"])
