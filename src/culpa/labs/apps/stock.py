"""A stock list kept in Redis, for `serve.py`: `stock.py REDIS-PORT WHOLE PART`, two Redis commands as JSON lists of
words.

/whole   how many entries the first of them gives
/part    how many the second one gives
"""

from __future__ import annotations

import json
from collections.abc import Callable

import redis


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The two ways to look at the stock."""
    client = redis.Redis(port=int(arguments[0]), socket_timeout=120)
    everything, some = json.loads(arguments[1]), json.loads(arguments[2])

    def whole() -> str:
        entries = client.execute_command(*everything)  # type: ignore[no-untyped-call]  # the client's own lack
        return f"{len(entries)} entries"

    def part() -> str:
        entries = client.execute_command(*some)  # type: ignore[no-untyped-call]  # as above
        return f"{len(entries)} entries"

    ways = {"whole": whole, "part": part}
    return lambda path: ways[path]() if path in ways else None
