"""A notebook in SQLite, for `serve.py`: `notes.py DATABASE ROWS`. SQLite's own defaults: rollback journal, full syncs.

/one_by_one   adds ROWS notes, each in a transaction of its own
/together     adds ROWS notes in one transaction
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

INSERT = "INSERT INTO note (text) VALUES (?)"


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The notebook's two ways to add notes."""
    database, rows = arguments[0], int(arguments[1])
    texts = [(f"note {number}",) for number in range(rows)]
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
    connection.close()

    def one_by_one() -> None:
        connection = sqlite3.connect(database)
        for text in texts:
            connection.execute(INSERT, text)
            connection.commit()
        connection.close()

    def together() -> None:
        connection = sqlite3.connect(database)
        connection.executemany(INSERT, texts)
        connection.commit()
        connection.close()

    def answer(path: str) -> str | None:
        ways = {"one_by_one": one_by_one, "together": together}
        if path not in ways:
            return None
        ways[path]()
        return f"{rows} notes added"

    return answer
