"""A Redis server whose keys lie in swap on a slow disk: its control group had too little memory for a while.

Clients read keys in no order; each that was pushed out has to come back first. The twin holds the same keys with room
enough, beside the same swap area.
"""

from __future__ import annotations

import random

from culpa.labs import memorygroup, swaparea, throttle
from culpa.labs.mem_swap import AREA_BYTES, LIMIT, MEGABYTE, SEEN_FROM_BELOW, SWAP
from culpa.labs.redis_checkup import Case, Drawn, Load, Programs, Scene, labs
from culpa.labs.redis_commands import SELDOM_S, name, others

READS_PER_SECOND = 150
"""A question for any key touches a few pages: together more than come back in that time. What a limit lets through at
once (a tenth of a second's worth) must not be enough for all of them.
"""
VALUE_BYTES = 400
ENOUGH_MEGABYTES = 1024


def _swapped(scene: Scene, chance: random.Random) -> Drawn:
    """All but a little pushed out, against a limit that is never reached."""
    site, keys, left = scene.site, chance.randrange(330_000, 380_000), chance.randrange(28, 40)
    rate = throttle.Rate(per_second=READS_PER_SECOND, unit="reads")
    area = site.stack.enter_context(swaparea.slow_swap(site, rate, AREA_BYTES))
    group = site.stack.enter_context(
        memorygroup.memory_group(book=site.ledger, name=site.name, beside=area.limit.group)
    )
    group.admit(scene.server.pid)
    every_ms = chance.randrange(20, 30)

    def squeeze() -> Programs:
        group.allow(left * MEGABYTE)
        group.lift()
        return ()

    def room() -> Programs:
        group.allow(ENOUGH_MEGABYTES * MEGABYTE)
        return ()

    return Drawn(
        fill=(("DEBUG", "POPULATE", str(keys), name(chance), str(VALUE_BYTES)),),
        load=Load(every_ms=every_ms, words=("ask", "RANDOMKEY")),
        beside=squeeze,
        harmless=room,
        mend=area.empty,
        device=area.device_name,
        amounts={"keys_there": keys, "left_mib": left, "every_ms": every_ms},
    )


CASES = (
    Case(
        name="redis-swap",
        cause="redis.mem.swap",
        draw=_swapped,
        measured_s=SELDOM_S,
        fix="everything read back from swap",
        may=(SWAP, *SEEN_FROM_BELOW),
        needs=("root", "redis-server", "trace", "slow-disk", "swap"),
        silent=(LIMIT, *others()),
    ),
)
REDIS_MEMORY = tuple(lab for case in CASES for lab in labs(case))
