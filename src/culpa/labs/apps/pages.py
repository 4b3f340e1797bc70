"""Pages whose parts are kept in Redis for a while, for `serve.py`: `pages.py REDIS-URL SEED`. Cache-aside, as it
should be done.

/page   some page: each part looked up in Redis; if it is not there, built and stored with a lifetime; one count a page
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import redis

PAGES = 100_000
PARTS = 18
LIFETIME_S = 10
ROUNDS = 200
"""Of hashing, for one part: so little work that the writes are a fair share of the request."""


REPEATS = 128
"""Of the 64 characters that are worked out: 8 KiB a part."""


def build(key: str) -> str:
    """What the cache saves."""
    return hashlib.pbkdf2_hmac("sha256", key.encode(), b"part", ROUNDS).hex() * REPEATS


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The pages of one Redis server."""
    client = redis.Redis.from_url(arguments[0], decode_responses=True, socket_timeout=60)
    chance = random.Random(int(arguments[1]))  # noqa: S311 - chooses sample data

    def part(key: str) -> str:
        text = client.get(key)
        if text is None:
            text = build(key)
            client.set(key, text)
            client.expire(key, LIFETIME_S)
        return str(text)

    def page() -> str:
        number = chance.randrange(PAGES)
        parts = [part(f"page:{number}:{place}") for place in range(PARTS)]
        client.incr("pages:served")
        return "\n".join(parts)

    return lambda path: page() if path == "page" else None
