"""The application of seed 000: a small HTTP service that finds keys by value in Redis, in a bad way and in a good one.

A standalone program: `python redis_slow.py --port P --redis redis://127.0.0.1:6379/0 [--host H] [--seed N]`. It must
not import culpa: labs copy it out of the package and run it as anybody's program.

    /                        a greeting
    /init[/N]                empty the database, then write N keys `uuid:*`, each good, bad or normal
    /get_cache[/TYPE]        the keys of that value, gathered in a Redis set: two to three round trips a key
    /get_cache_data[/TYPE]   the same answer, gathered in memory, with a few round trips in all
"""

from __future__ import annotations

import argparse
import json
import random
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

PREFIX = "uuid:"
VALUES = ("good", "bad", "normal")
DEFAULT_KEYS = 5000
MAX_KEYS = 1_000_000
BATCH = 2000


class Cache:
    """The three things the service does to Redis."""

    def __init__(self, client: redis.Redis, seed: int) -> None:
        self.client = client
        self.random = random.Random(seed)  # noqa: S311 - chooses sample data

    def init(self, count: int) -> dict[str, object]:
        """Replace everything in the database by `count` keys."""
        self.client.flushdb()
        for _ in range(count):
            self.client.set(f"{PREFIX}{uuid.uuid1()}", self.random.choice(VALUES))
        return {"keys_initialized": count}

    def get_cache(self, wanted: str) -> dict[str, object]:
        """Collect in a Redis set what a list would hold: every match is a write."""
        for key in self.client.scan_iter(f"{PREFIX}*"):
            if self.client.get(key) == wanted:
                self.client.sadd(wanted, key.removeprefix(PREFIX))
        found = list(self.client.smembers(wanted))
        self.client.delete(wanted)
        return {"type": wanted, "count": len(found), "data": found}

    def get_cache_data(self, wanted: str) -> dict[str, object]:
        """Read many keys at a time and collect in memory."""
        found: set[str] = set()
        cursor = 0
        while True:
            cursor, keys = self.client.scan(cursor, match=f"{PREFIX}*", count=BATCH)
            values = self.client.mget(keys) if keys else []
            pairs = zip(keys, values, strict=True)
            found.update(str(key).removeprefix(PREFIX) for key, value in pairs if value == wanted)
            if cursor == 0:
                return {"type": wanted, "count": len(found), "data": sorted(found)}


class Handler(BaseHTTPRequestHandler):
    """One connection; keeps it open between requests, as HTTP/1.1 does."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = 1 << 20  # head and body of an answer leave in one write, which no delayed acknowledgement can hold up
    disable_nagle_algorithm = True
    cache: Cache

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.split("?", 1)[0].strip("/")
        if not path:
            self.reply(200, "text/plain", b"hello redis\n")
            return
        started = time.monotonic()
        try:
            answer = self.dispatch(*path.split("/"))
        except redis.RedisError as error:
            self.reply_json(502, {"error": f"redis: {error}"})
            return
        if answer is None:
            self.reply_json(404, {"error": "not found"})
            return
        self.reply_json(200, {**answer, "elapsed_seconds": time.monotonic() - started})

    def dispatch(self, action: str, argument: str | None = None, *rest: str) -> dict[str, object] | None:
        """Do what the path asks for; None if there is no such thing."""
        if rest:
            return None
        if action == "init":
            count = argument or str(DEFAULT_KEYS)
            return self.cache.init(int(count)) if count.isdecimal() and int(count) <= MAX_KEYS else None
        wanted = argument or VALUES[0]
        if wanted not in VALUES:
            return None
        if action == "get_cache":
            return self.cache.get_cache(wanted)
        return self.cache.get_cache_data(wanted) if action == "get_cache_data" else None

    def reply_json(self, status: int, answer: dict[str, object]) -> None:
        """Answer with a JSON object."""
        self.reply(status, "application/json", json.dumps(answer).encode() + b"\n")

    def reply(self, status: int, kind: str, body: bytes) -> None:
        """Send head and body."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until stopped."""
    arguments = argparse.ArgumentParser(description="the case application of redis-slow")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--redis", required=True, help="redis://host:port/db")
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    client = redis.Redis.from_url(given.redis, decode_responses=True, socket_timeout=120)
    Handler.cache = Cache(client, given.seed)
    with ThreadingHTTPServer((given.host, given.port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
