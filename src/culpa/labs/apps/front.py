"""A front that asks another server and passes its answer on, for `serve.py`: `front.py HOST PORT [OTHER-PORT]`.

/WORD   what the other server says to WORD, one line over a new TCP connection

Where there is an OTHER-PORT, a thread asks there all the time, and no request waits for it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

TIMEOUT_S = 30.0
BESIDE_S = 0.02
LIMIT_BYTES = 4096


def ask(host: str, port: int, word: str) -> str:
    """One question, one answer."""
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
        connection.sendall(f"{word}\n".encode())
        return connection.recv(LIMIT_BYTES).decode().strip()


def keep_asking(host: str, port: int) -> None:
    """Again and again, a moment later each time."""
    while True:
        ask(host, port, "now")
        time.sleep(BESIDE_S)


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The front of one server."""
    host, port = arguments[0], int(arguments[1])
    for other in map(int, arguments[2:]):
        threading.Thread(target=keep_asking, args=(host, other), daemon=True).start()
    return lambda path: ask(host, port, path)
