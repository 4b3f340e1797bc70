"""Writes to Redis in a read request that are right: a cache filled after a miss, a lifetime, a cheap count.

A lab for staying silent: the slow disk and `appendfsync everysec` make the writes look suspicious, and they cost next
to nothing. It has no twin, because nothing is wrong with it.
"""

from __future__ import annotations

from culpa.labs import redis_server, stand
from culpa.labs.lab import Conditions, Lab, Played
from culpa.labs.site import opened


def play(conditions: Conditions) -> Played:
    """Pages that are hardly ever in the cache."""
    with opened(conditions.progress) as here:
        disk = stand.disk(here, conditions, slow=True)
        server = redis_server.start(here, disk.directory, appendonly="yes", appendfsync="everysec")
        disk.admit(server.pid)
        arguments = (server.url, str(conditions.parameters.seed))
        return stand.raised(here, conditions, app="pages", on=disk, arguments=arguments).sound("page")


CACHE_ASIDE = Lab(
    name="cache-aside",
    family="double",
    needs=("trace", "redis-server"),
    fires=(),
    silent=("app.redis.write-in-read-path", "app.redis.round-trips", "redis.aof.fsync-always"),
    play=play,
)
