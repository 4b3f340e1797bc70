"""The case of seed 000: a service that writes to Redis while it reads, and a Redis that syncs every write to disk.

`redis-slow` has two stages. As found: `appendfsync always` on a slow disk. Under `everysec`: what is left is the
number of round trips, which the service's repaired endpoint does without. `redis-slow-healthy` is that endpoint on an
ordinary disk under `everysec`: nothing is wrong.
"""

from __future__ import annotations

from culpa.labs import redis_stand, source
from culpa.labs.lab import Conditions, Lab, Measured, Played, Stage, Truth, TruthOn, TruthStep
from culpa.labs.redis_stand import RedisStand
from culpa.labs.stand import FAST_REQUESTS, who
from culpa.units import format_count

FSYNC_ALWAYS = "redis.aof.fsync-always"
WRITE_IN_READ = "app.redis.write-in-read-path"
ROUND_TRIPS = "app.redis.round-trips"

SYNC_SEEN_FROM_BELOW = (
    "disk.cgroup-throttle", "disk.fsync-heavy", "disk.slow-device", "fs.journal-wait",
    "redis.aof.write-slow-disk", "redis.disk.slow",
)  # fmt: skip
"""The lab's own throttle, and what a sync that waits for it looks like from the file system and the disk."""
WRITE_BEHIND_SYNC = ("redis.aof.write-behind-fsync", "redis.aof.fsync-late")
"""Under everysec the slow disk is still slow: a write can meet the sync of the second before."""
APP = "redis_slow"


def play(conditions: Conditions) -> Played:
    """The whole case: slow, judged, repaired by setting, judged again, repaired in code."""
    with redis_stand.opened(conditions, app=APP, slow=True) as stand:
        _fill(stand)
        slow = _as_found(stand)
        stages = [slow]
        if conditions.trace:  # samples cannot count round trips
            stages.append(_under_everysec(stand, before=slow.measured.after_fix or slow.measured.before))
        return Played(stages=tuple(stages), disk=stand.disk.kind)


def play_healthy(conditions: Conditions) -> Played:
    """The same service with both causes repaired, on the disk that is there."""
    with redis_stand.opened(conditions, app=APP, slow=False) as stand:
        _fill(stand)
        stand.server.set("appendfsync", "everysec")
        measured = Measured(before=stand.seconds("get_cache_data", requests=FAST_REQUESTS))
        judged = stand.judge("get_cache_data")
        stage = stand.stage("healthy", "get_cache_data", Truth(causes=()), judged, measured)
        return Played(stages=(stage,), disk=stand.disk.kind)


def _fill(stand: RedisStand) -> None:
    """Fill before the trouble starts: under `always` it would take half a minute."""
    keys = stand.conditions.parameters.keys
    stand.conditions.progress(f"filling {format_count(keys)} keys")
    stand.seconds(f"init/{keys}")


def _as_found(stand: RedisStand) -> Stage:
    """`appendfsync always`: judge, then make the fix and measure again."""
    say = stand.conditions.progress
    say("CONFIG SET appendfsync always")
    stand.server.set("appendfsync", "always")
    before = stand.seconds("get_cache")
    truth = _truth_as_found(stand)
    judged = stand.judge("get_cache", show=True)
    say("CONFIG SET appendfsync everysec")
    stand.server.set("appendfsync", "everysec")
    after = stand.seconds("get_cache", requests=FAST_REQUESTS)
    return stand.stage("always", "get_cache", truth, judged, Measured(before=before, after_fix=after))


def _under_everysec(stand: RedisStand, *, before: float) -> Stage:
    """`appendfsync everysec`: judge what is left, then ask the repaired endpoint."""
    judged = stand.judge("get_cache")
    truth = Truth(
        causes=(ROUND_TRIPS,),
        may=(WRITE_IN_READ, "cpu.busy", *WRITE_BEHIND_SYNC),
        who=(who(ROUND_TRIPS, stand.app.pid),),
        path=(TruthStep(kind="peer", pid=stand.server.pid),),
        fix="ask /get_cache_data",
    )
    after = stand.seconds("get_cache_data", requests=FAST_REQUESTS)
    return stand.stage("everysec", "get_cache", truth, judged, Measured(before=before, after_fix=after))


def _truth_as_found(stand: RedisStand) -> Truth:
    """Two causes; by samples alone only the sync can be demanded."""
    may = (*SYNC_SEEN_FROM_BELOW, ROUND_TRIPS, *(() if stand.disk.limit else ("cpu.busy",)))
    aof = str(stand.server.append_only_file())
    fsync_who, fsync_on = who(FSYNC_ALWAYS, stand.server.pid), TruthOn(cause=FSYNC_ALWAYS, path=aof)
    fix = "CONFIG SET appendfsync everysec"
    if not stand.conditions.trace:
        return Truth(causes=(FSYNC_ALWAYS,), may=(WRITE_IN_READ, *may), who=(fsync_who,), on=(fsync_on,), fix=fix)
    lines = source.call_lines(stand.app_file, function="get_cache", method="sadd")
    code_on = lines.named_in(WRITE_IN_READ)
    return Truth(
        causes=(FSYNC_ALWAYS, WRITE_IN_READ),
        may=may,
        who=(fsync_who, who(WRITE_IN_READ, stand.app.pid)),
        on=(fsync_on, code_on),
        path=(
            TruthStep(kind="peer", pid=stand.server.pid),
            TruthStep(kind="fsync", pid=stand.server.pid, path=aof),
            TruthStep(kind="device", device=stand.disk.device_name),
        ),
        fix=fix,
    )


REDIS_SLOW = Lab(
    name="redis-slow",
    family="seeds",
    needs=("redis-server",),
    seed="000",
    fires=(FSYNC_ALWAYS, WRITE_IN_READ, ROUND_TRIPS),
    silent=(),
    fast=False,
    play=play,
)
REDIS_SLOW_HEALTHY = REDIS_SLOW.healthy(silent=(FSYNC_ALWAYS, WRITE_IN_READ, ROUND_TRIPS), play=play_healthy)
