"""What holds up a Redis server outside of any command: expiry, eviction, fork, other programs, being stopped.

The clients' commands are harmless; in each twin the same work is done where nobody has to wait for it.
"""

from __future__ import annotations

import os
import random

from culpa.labs import cpuquota, ports
from culpa.labs.cpu_pinned import bind
from culpa.labs.cpu_runqueue import yield_to_others
from culpa.labs.ports import LOOPBACK
from culpa.labs.redis_checkup import Case, Drawn, Load, Programs, Scene, labs
from culpa.labs.redis_commands import COMMANDS, COUNT_UP, FILL_SET, name, others

VALUE_BYTES = 32 << 20
HOGS = 3
"""For each CPU."""
HOGS_ON_ONE = 6
"""Where the server is bound to it."""
LOWEST = 19
"""Priority of the server's main thread beside them: a scheduler that is fair to sleepers hardly delays a higher one."""
SLICES_S = 4.0
"""How long the lab's clock looks where others take the CPU: how often that holds up an answer changes by the second."""
LARGE_SETS, ELEMENT_BYTES = 5, 60
SMALL_STRINGS, STRING_BYTES = 200_000, 200
"""A little less than they take, so that the cache is full."""
STOPPED = "proc.stopped"


def _expire(_: Scene, chance: random.Random) -> Drawn:
    """Again and again a great many keys that expire in one and the same second, against keys that expire apart.

    Apart a tenth as many: as many would be more than the cycle can keep up with, however they are spread.
    """
    keys, prefix = chance.randrange(85_000, 100_000), name(chance)
    return Drawn(
        load=Load(every_ms=1000, words=("expire", prefix, str(keys), "0")),
        sound=Load(every_ms=1000, words=("expire", prefix, str(keys // 10), "3")),
        amounts={"keys_at_once": keys},
    )


def _evict(_: Scene, chance: random.Random) -> Drawn:
    """A full cache of large sets, each new one in an old one's place, against a full cache of small strings."""
    elements, prefix, every_ms = chance.randrange(250_000, 300_000), name(chance), chance.randrange(500, 700)
    fill = tuple(("EVAL", FILL_SET, "1", f"{prefix}:old:{number}", str(elements)) for number in range(LARGE_SETS))
    policy = ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    return Drawn(
        fill=(*fill, policy),
        sound_fill=(("DEBUG", "POPULATE", str(SMALL_STRINGS), prefix, "100"), policy),
        load=Load(every_ms=every_ms, words=("grow", prefix, str(elements))),
        sound=Load(every_ms=every_ms, words=("fresh", prefix, "2000", "100")),
        wrong={"maxmemory": f"{elements * LARGE_SETS * ELEMENT_BYTES}"},
        right={"lazyfree-lazy-eviction": "yes", "maxmemory": f"{SMALL_STRINGS * STRING_BYTES}"},
        amounts={"elements": elements, "every_ms": every_ms},
    )


def _fork(_: Scene, chance: random.Random) -> Drawn:
    """A large server with a replica whose first copy never succeeds, against one without a replica."""
    values, prefix, every_ms = chance.randrange(60, 70), name(chance), chance.randrange(250, 300)
    fill = tuple(("SETRANGE", f"{prefix}:{number}", str(VALUE_BYTES - 1), "x") for number in range(values))
    broken = Load(every_ms=every_ms, words=("resync",))
    quiet = Load(every_ms=every_ms, words=("ask", "DBSIZE"))
    return Drawn(fill=fill, load=broken, sound=quiet, amounts={"values": values, "every_ms": every_ms})


def _starved(scene: Scene, chance: random.Random) -> Drawn:
    """At a low priority beside programs that want all CPUs, against being alone."""

    def hogs() -> Programs:
        yield_to_others(scene.server.pid, LOWEST)
        return (scene.program("burn.py", str(HOGS * len(os.sched_getaffinity(0)))),)

    load, amounts = _whole_small_sets(chance)
    return Drawn(fill=_small_set(load), load=load, beside=hogs, amounts=amounts)


def _pinned(scene: Scene, chance: random.Random) -> Drawn:
    """Bound to the one CPU that other programs have, against being free and without them.

    Free beside them is not sound on a host with two CPUs: the clients, culpa and the server fill the other one.
    """
    cpus = os.sched_getaffinity(0)
    cpu = chance.choice(sorted(cpus))

    def bound() -> Programs:
        bind(scene.server.pid, {cpu})
        return tuple(scene.program("burn.py", "1", str(cpu)) for _ in range(HOGS_ON_ONE))

    load = Load(every_ms=chance.randrange(10, 20), words=("fill", name(chance), "3000", "100"))
    amounts = {"every_ms": load.every_ms, "cpu": cpu}
    calm = Load(every_ms=100, words=load.words)
    return Drawn(load=load, sound=calm, beside=bound, mend=lambda: bind(scene.server.pid, cpus), amounts=amounts)


def _quota(scene: Scene, chance: random.Random) -> Drawn:
    """In a control group that may run for a fraction of each period, against one with a quota that is never used up.

    The commands are short, and more of them than the quota is enough for.
    """
    quota_us, loops = chance.randrange(12_000, 20_000), chance.randrange(40_000, 60_000)
    book, name_of_group, pid = scene.site.ledger, f"{scene.site.name}-quota", scene.server.pid
    found: list[cpuquota.Quota] = []

    def limited(to_us: int) -> Programs:
        quota = scene.site.stack.enter_context(cpuquota.quota(to_us, book=book, name=name_of_group))
        scene.site.stack.callback(quota.release, pid)
        quota.admit(pid)
        found.append(quota)
        return ()

    return Drawn(
        load=Load(every_ms=3, words=("ask", "EVAL", COUNT_UP, "0", str(loops))),
        beside=lambda: limited(quota_us),
        harmless=lambda: limited(cpuquota.PERIOD_US * (os.cpu_count() or 1)),
        mend=lambda: found[0].lift(),
        amounts={"quota_us": quota_us, "loops": loops},
    )


def _whole_small_sets(chance: random.Random) -> tuple[Load, dict[str, int]]:
    """A command that is none too short, and looks long where the CPU is away meanwhile."""
    every_ms = chance.randrange(15, 25)
    return Load(every_ms=every_ms, words=("ask", "SMEMBERS", name(chance))), {"every_ms": every_ms}


def _small_set(load: Load) -> tuple[tuple[str, ...], ...]:
    return (("EVAL", FILL_SET, "1", load.words[-1], "900"),)


def _paused(scene: Scene, chance: random.Random) -> tuple[tuple[str, ...], dict[str, int]]:
    stopped_ms, going_ms = chance.randrange(40, 90), chance.randrange(150, 300)
    return (str(scene.server.pid), str(stopped_ms), str(going_ms)), {"stopped_ms": stopped_ms, "going_ms": going_ms}


def _stopped(scene: Scene, chance: random.Random) -> Drawn:
    """Stopped by signal and let go on, again and again."""
    arguments, amounts = _paused(scene, chance)
    load = Load(every_ms=chance.randrange(20, 40), words=("ask", "DBSIZE"))
    return Drawn(load=load, beside=lambda: (scene.program("pauser.py", *arguments),), amounts=amounts)


def _frozen(scene: Scene, chance: random.Random) -> Drawn:
    """The same behind a tunnel: only what the server says can be seen, and it knows nothing of it."""
    port = ports.free_port()
    scene.program("forwarder.py", str(port), str(scene.server.port))
    arguments, amounts = _paused(scene, chance)
    return Drawn(
        load=Load(every_ms=chance.randrange(20, 40), words=("ask", "DBSIZE")),
        beside=lambda: (scene.program("pauser.py", *arguments),),
        url=f"redis://{LOOPBACK}:{port}/0",
        amounts=amounts,
    )


CASES = (
    Case(
        name="redis-expire",
        cause="redis.expire.burst",
        draw=_expire,
        seed="001",
        fix="spread the times to live",
        silent=others("redis.expire.burst"),
    ),
    Case(
        name="redis-evict",
        cause="redis.evict.storm",
        draw=_evict,
        fix="small values, freed in the background",
        silent=others("redis.evict.storm"),
    ),
    Case(
        name="redis-fork",
        cause="redis.fork.slow",
        draw=_fork,
        seed="001",
        fix="let the replica finish",
        silent=others("redis.fork.slow"),
    ),
    Case(
        name="redis-starved",
        cause="redis.cpu.starved",
        draw=_starved,
        seed="001",
        measured_s=SLICES_S,
        fix="a CPU of its own",
        needs=("redis-server", "trace"),
        silent=COMMANDS,
    ),
    Case(
        name="redis-pinned",
        cause="redis.cpu.pinned",
        draw=_pinned,
        seed="001",
        measured_s=SLICES_S,
        fix="let it use all CPUs",
        needs=("redis-server", "trace"),
        silent=COMMANDS,
    ),
    Case(
        name="redis-quota",
        cause="redis.cpu.quota",
        draw=_quota,
        measured_s=SLICES_S,
        fix="lift the quota",
        may=("cpu.cgroup-quota",),
        needs=("root", "redis-server", "cpu-quota"),
        silent=(*COMMANDS, "redis.cpu.starved", "cpu.runqueue"),
    ),
    Case(
        name="redis-stopped",
        cause=STOPPED,
        draw=_stopped,
        fix="end the process that stops it",
        silent=others(),
    ),
    Case(
        name="redis-frozen",
        cause="redis.stall.unattributed",
        draw=_frozen,
        fix="end the process that stops it",
        of_host=False,
        silent=others("redis.stall.unattributed"),
    ),
)
REDIS_STALLS = tuple(lab for case in CASES for lab in labs(case))
