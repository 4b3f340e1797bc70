"""A front that asks another server and passes its answer on, for `serve.py`: `front.py HOST PORT`.

/WORD   what the other server says to WORD, one line over a new TCP connection
"""

from __future__ import annotations

import socket
from collections.abc import Callable

TIMEOUT_S = 30.0
LIMIT_BYTES = 4096


def ask(host: str, port: int, word: str) -> str:
    """One question, one answer."""
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
        connection.sendall(f"{word}\n".encode())
        return connection.recv(LIMIT_BYTES).decode().strip()


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The front of one server."""
    host, port = arguments[0], int(arguments[1])
    return lambda path: ask(host, port, path)
