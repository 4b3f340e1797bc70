"""A crew of processes behind one port: `python crew.py --port P --workers N --share forked|reuseport JOURNAL LINES`.

`forked`: one process listens, then forks, and whoever is free accepts. `reuseport`: each process listens for itself on
the same port (SO_REUSEPORT), and the kernel chooses. A standalone program: it must not import culpa.

/each   appends LINES lines to JOURNAL and syncs each of them
/once   appends them without waiting for the disk
/rest   rests before it answers
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import FrameType

REST_S = 0.3


class Handler(BaseHTTPRequestHandler):
    """One request a connection, as HTTP/1.0 has it: each can meet another worker."""

    wbufsize = 1 << 20
    journal = -1
    lines = 0

    def do_GET(self) -> None:
        """Answer one request; the empty path says that the program is up."""
        action = self.path.strip("/")
        if action == "each":
            self.append_each()
        elif action == "once":
            os.write(self.journal, b"a line of a journal\n" * self.lines)
        elif action == "rest":
            self.rest()
        body = f"{os.getpid()}\n".encode()
        self.send_response(200 if action in ("", "each", "once", "rest") else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def rest(self) -> None:
        """Do nothing for a while."""
        time.sleep(REST_S)

    def append_each(self) -> None:
        """Line by line, each safe on disk before the next."""
        for _ in range(self.lines):
            os.write(self.journal, b"a line of a journal\n")
            os.fsync(self.journal)


def listening(port: int, *, shared: bool) -> HTTPServer:
    """A server on that port, which others may listen on as well if `shared`."""
    server = HTTPServer(("127.0.0.1", port), Handler, bind_and_activate=False)
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    server.server_bind()
    server.server_activate()
    return server


def work(server: HTTPServer) -> None:
    """Accept and answer until stopped. Not serve_forever: its poll would wake every worker for each connection."""
    while True:
        server.handle_request()


def end_all(number: int, _frame: FrameType | None) -> None:
    """End the whole crew: it is started in a session, and so in a process group, of its own."""
    signal.signal(number, signal.SIG_DFL)
    os.killpg(0, number)


def main() -> None:
    """Start the workers and wait for them; SIGTERM ends them as well."""
    arguments = argparse.ArgumentParser(description="processes behind one port")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--workers", type=int, required=True)
    arguments.add_argument("--share", choices=("forked", "reuseport"), required=True)
    arguments.add_argument("journal")
    arguments.add_argument("lines", type=int)
    given = arguments.parse_args()
    Handler.journal = os.open(given.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    Handler.lines = given.lines
    shared = given.share == "reuseport"
    common = None if shared else listening(given.port, shared=False)
    for _ in range(given.workers):
        if os.fork() == 0:
            work(common or listening(given.port, shared=True))
    signal.signal(signal.SIGTERM, end_all)
    for _ in range(given.workers):
        os.wait()


if __name__ == "__main__":
    main()
