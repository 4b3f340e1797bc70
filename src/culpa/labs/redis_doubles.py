"""Two faults at once on one Redis server: neither may hide the other."""

from __future__ import annotations

from culpa.labs import redis_commands, redis_stalls
from culpa.labs.redis_checkup import double

_CASES = {case.name: case for case in (*redis_commands.CASES, *redis_stalls.CASES)}
PAIRS = (
    ("redis-keys", "redis-script"),
    ("redis-keys", "redis-expire"),
    ("redis-keys", "redis-stopped"),
    ("redis-bigkey-read", "redis-script"),
    ("redis-bigkey-read", "redis-migrate"),
    ("redis-bigkey-delete", "redis-keys"),
    ("redis-bigkey-delete", "redis-expire"),
    ("redis-script", "redis-fork"),
    ("redis-script", "redis-stopped"),
    ("redis-migrate", "redis-stopped"),
)
FAST = {("redis-keys", "redis-script"), ("redis-keys", "redis-stopped")}
"""Run with all others in CI."""
REDIS_DOUBLES = tuple(double(_CASES[first], _CASES[second], fast=(first, second) in FAST) for first, second in PAIRS)
