"""A small HTTP service whose answers take as long as a setting of a Redis server says: the effect of a fix is known.

    python victim.py REDIS_PORT SETTING VALUE FACTOR BASE_MS SEED

Each answer takes BASE_MS times a factor of chance that is like its neighbours' (an autoregressive process, bursts), and
times FACTOR while SETTING of that server is VALUE. FACTOR 0: it then answers with status 500. It prints its port.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis


def chances(dice: random.Random) -> Iterator[float]:
    """Log-normal, slowly drifting, and now and then a burst of some ten slow ones."""
    level, burst = 0.0, 0
    while True:
        level = 0.9 * level + dice.gauss(0, 0.08)
        burst = burst - 1 if burst else 10 * (dice.random() < 0.004)
        yield math.exp(level + dice.gauss(0, 0.2)) * (3 if burst else 1)


def main() -> None:
    """Serve until it is killed."""
    port, setting, value, factor, base_ms, seed = sys.argv[1:]
    client = redis.Redis(port=int(port), decode_responses=True, socket_timeout=5)
    chance = chances(random.Random(int(seed)))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                is_on = client.config_get(setting)[setting] == value
            except redis.RedisError:
                is_on = False
            seconds = float(base_ms) / 1000 * next(chance) * ((float(factor) or 1) if is_on else 1)
            time.sleep(seconds)
            with suppress(BrokenPipeError):  # of a question that was cut off
                self._answer(is_on)

        def _answer(self, is_on: bool) -> None:
            self.send_response(500 if is_on and not float(factor) else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *words: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
