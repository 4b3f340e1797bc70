"""A shop's search in MySQL or MariaDB, for `serve.py`: `shop.py SOCKET|PORT DATABASE ROWS STATEMENT`. It speaks the
server's protocol by itself.

/search   runs STATEMENT with a number from 1 to ROWS in the place of each `{}`; how many rows it gave
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import BinaryIO

PROTOCOL_41, SECURE, PLUGIN_AUTH, WITH_DATABASE = 1 << 9, 1 << 15, 1 << 19, 1 << 3
LARGEST_PACKET = 1 << 24
UTF8 = 33
OK, END, ERROR = 0x00, 0xFE, 0xFF
SHORT = 9
"""A packet that begins like the end, and is not shorter, is a row."""


class Connection:
    """One connection to a server that asks its local users for no password (Client/Server Protocol, text queries)."""

    def __init__(self, address: str, database: str = "") -> None:
        kind = socket.AF_INET if address.isdecimal() else socket.AF_UNIX
        self._socket = socket.socket(kind, socket.SOCK_STREAM)
        self._socket.settimeout(120)
        self._socket.connect(("127.0.0.1", int(address)) if address.isdecimal() else address)
        if kind == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file: BinaryIO = self._socket.makefile("rb")
        self._packet()
        abilities = PROTOCOL_41 | SECURE | PLUGIN_AUTH | (WITH_DATABASE if database else 0)
        names = b"root\0\0" + (database.encode() + b"\0" if database else b"") + b"mysql_native_password\0"
        self._send(1, struct.pack("<IIB23x", abilities, LARGEST_PACKET, UTF8) + names)
        number, answer = self._packet()
        if answer[0] == END:
            self._send(number + 1, b"")
            self._packet()

    def ask(self, statement: str) -> int:
        """How many rows a statement gives."""
        return len(self.rows(statement))

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self._socket.close()

    def rows(self, statement: str) -> list[bytes]:
        """The rows that a statement gives, as they come: each value behind its length."""
        self._send(0, b"\x03" + statement.encode())
        _, answer = self._packet()
        if answer[0] == OK:
            return []
        for _ in range(answer[0] + 1):  # the columns, and the end of them
            self._packet()
        found = [self._packet()[1]]
        while found[-1][0] != END or len(found[-1]) >= SHORT:
            found.append(self._packet()[1])
        return found[:-1]

    def _send(self, number: int, body: bytes) -> None:
        self._socket.sendall(struct.pack("<I", len(body))[:3] + bytes([number]) + body)

    def _packet(self) -> tuple[int, bytes]:
        """The sequence number and the body of the next packet; raises RuntimeError where it tells of an error."""
        header = self._file.read(4)
        body = self._file.read(int.from_bytes(header[:3], "little"))
        if not body or body[0] == ERROR:
            raise RuntimeError(body[9:].decode(errors="replace") or "the server has gone")
        return header[3], body


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The shop's search, over one connection."""
    address, database, rows, statement = arguments[0], arguments[1], int(arguments[2]), arguments[3]
    server, one_at_a_time = Connection(address, database), threading.Lock()
    chance = random.Random(rows)  # noqa: S311 - chooses what is searched for

    def search() -> str:
        with one_at_a_time:
            found = server.ask(statement.replace("{}", str(chance.randrange(1, rows))))
        return f"{found} found"

    return lambda path: search() if path == "search" else None
