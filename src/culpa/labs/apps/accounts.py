"""Accounts in PostgreSQL, for `serve.py`: `accounts.py PORT USER ROWS`. It speaks the server's protocol by itself.

/one_by_one   adds ROWS rows, each committed by itself
/together     adds ROWS rows in one transaction
/backend      the process that serves this program's connection
/wal          the file of the write-ahead log that takes the commits now
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

PROTOCOL_3 = 3 << 16
QUESTIONS = {"backend": "SELECT pg_backend_pid()", "wal": "SELECT pg_walfile_name(pg_current_wal_lsn())"}
INSERT = "INSERT INTO account (text) VALUES ('row {}')"


class Connection:
    """One connection to a server that trusts its local users (Frontend/Backend Protocol 3.0, simple queries)."""

    def __init__(self, port: int, user: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        words = f"user\0{user}\0database\0postgres\0\0".encode()
        self._socket.sendall(struct.pack("!ii", 8 + len(words), PROTOCOL_3) + words)
        list(self._answers())

    def ask(self, query: str) -> str:
        """The first field of the last row of a query's answer; empty where it has none."""
        words = query.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack("!i", 4 + len(words)) + words)
        found = ""
        for kind, body in self._answers():
            if kind == b"E":
                raise RuntimeError(body.decode(errors="replace"))
            if kind == b"D":
                (length,) = struct.unpack_from("!i", body, 2)
                found = body[6 : 6 + max(0, length)].decode()
        return found

    def _answers(self) -> Iterator[tuple[bytes, bytes]]:
        """Messages up to the one that says that the server is ready for the next query."""
        kind = b""
        while kind != b"Z":
            kind, length = struct.unpack("!ci", self._file.read(5))
            yield kind, self._file.read(length - 4)


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The accounts' two ways to grow, over one connection."""
    port, user, rows = int(arguments[0]), arguments[1], int(arguments[2])
    server = Connection(port, user)
    server.ask("CREATE TABLE account (id serial PRIMARY KEY, text text)")

    def one_by_one() -> str:
        for number in range(rows):
            server.ask(INSERT.format(number))
        return f"{rows} rows"

    def together() -> str:
        server.ask("BEGIN;" + ";".join(INSERT.format(number) for number in range(rows)) + ";COMMIT")
        return f"{rows} rows"

    def answer(path: str) -> str | None:
        ways = {"one_by_one": one_by_one, "together": together}
        return server.ask(QUESTIONS[path]) if path in QUESTIONS else ways[path]() if path in ways else None

    return answer
