"""Pages kept in Redis for a while, for `serve.py`: `pages.py REDIS-URL SEED`. Cache-aside, as it should be done.

/page   some page: looked up in Redis; if it is not there, built, stored with a lifetime, and counted
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import redis

PAGES = 100_000
LIFETIME_S = 60
ROUNDS = 20_000
"""Of hashing, for one page: about 15 ms of work."""


def build(number: int) -> str:
    """The costly part, which the cache saves."""
    return hashlib.pbkdf2_hmac("sha256", str(number).encode(), b"page", ROUNDS).hex()


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The pages of one Redis server."""
    client = redis.Redis.from_url(arguments[0], decode_responses=True, socket_timeout=60)
    chance = random.Random(int(arguments[1]))  # noqa: S311 - chooses sample data

    def page() -> str:
        number = chance.randrange(PAGES)
        key = f"page:{number}"
        text = client.get(key)
        if text is None:
            text = build(number)
            client.set(key, text)
            client.expire(key, LIFETIME_S)
        client.incr("pages:served")
        return str(text)

    return lambda path: page() if path == "page" else None
