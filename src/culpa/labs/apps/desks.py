"""A service with a fixed number of desks, standalone: `python desks.py --port P DESKS WAIT-MS [FILE ROWS]`.

/stamp    a stamp, done at once by whichever desk is free; where there is a FILE it is entered in ROWS rows, each synced
/consult  asks a colleague, who answers after a while; the desk waits for the answer meanwhile
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import socket


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    timeout = 60
    wait_s = 0.0
    register = ""
    rows = 0

    def do_GET(self) -> None:
        """Answer one request; any other path says that the program is up."""
        body = self.consult() if self.path == "/consult" else self.stamp()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stamp(self) -> bytes:
        """Nothing to wait for but the register."""
        if self.register:
            self.enter()
        return b"stamped\n"

    def enter(self) -> None:
        """Row by row."""
        with open(self.register, "ab", buffering=0) as register:  # noqa: PTH123 - as anybody writes it
            for _ in range(self.rows):
                register.write(b"stamped\n")
                os.fsync(register.fileno())

    def consult(self) -> bytes:
        """The desk is taken until the colleague has answered."""
        time.sleep(self.wait_s)
        return b"consulted\n"


class Desks(HTTPServer):
    """Accepts in one thread and has each connection served by the next free thread of a fixed number."""

    request_queue_size = 128
    pool: ThreadPoolExecutor

    def process_request(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        """Leave the connection to the pool."""
        self.pool.submit(self._serve, request, client_address)

    def _serve(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        try:
            self.finish_request(request, client_address)
        finally:
            self.shutdown_request(request)


def main() -> None:
    """Serve until stopped."""
    arguments = argparse.ArgumentParser(description="a service with a fixed number of desks")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("desks", type=int)
    arguments.add_argument("wait_ms", type=int)
    arguments.add_argument("register", nargs="?", default="")
    arguments.add_argument("rows", nargs="?", type=int, default=0)
    given = arguments.parse_args()
    Handler.wait_s, Handler.register, Handler.rows = given.wait_ms / 1000, given.register, given.rows
    with Desks(("127.0.0.1", given.port), Handler) as server:
        server.pool = ThreadPoolExecutor(max_workers=given.desks)
        server.serve_forever()


if __name__ == "__main__":
    main()
