"""Writes of Redis' append-only file that wait: behind its own sync, behind what its child saves, behind a neighbour.

All on ext4 on a slow disk, with a journal that commits each second (the usual five would make a lab long). An append
changes the file's inode; a commit under way holds it until the data of all files that it orders is on the disk, and so
the main thread waits for whoever wrote most. The twins make the same appends on the same disk.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from culpa.labs import loopdev, slowdisk, throttle
from culpa.labs.redis_checkup import Case, Drawn, Load, Programs, Scene, labs
from culpa.labs.redis_commands import COMMANDS, name
from culpa.labs.site import Site
from culpa.labs.waiting import wait_until

SYNC, CHILD, DISK = "redis.aof.write-behind-fsync", "redis.aof.write-behind-child", "redis.aof.write-slow-disk"
THREE = (SYNC, CHILD, DISK)
SEEN_FROM_BELOW = (
    "fs.journal-wait", "disk.neighbour", "disk.saturated", "disk.slow-device", "disk.cgroup-throttle",
    "mem.dirty-throttle", "redis.aof.fsync-late", "redis.rdb.too-often",
)  # fmt: skip
BYTES_PER_SECOND = 4 << 20
COMMIT_S = 1
MEASURED_S = 4.0
"""Longer than from one sync that is late to the next."""


def _disk(site: Site) -> slowdisk.Disk:
    slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=BYTES_PER_SECOND, unit="bytes"))
    disk = site.stack.enter_context(slowdisk.slow_disk(site, slowness))
    loopdev.run_tool("mount", "-o", f"remount,commit={COMMIT_S}", str(disk.directory))
    return disk


def _sync(scene: Scene, chance: random.Random) -> Drawn:
    """A fifth more appended than the disk takes, against a disk that takes it."""
    kilobytes, prefix = chance.randrange(240, 260), name(chance)

    def lift() -> None:
        assert scene.disk is not None
        limit = scene.disk.limit
        if limit is not None:
            throttle.clear(limit.control, limit.device)
        _settle(scene)

    def lifted() -> Programs:
        lift()
        return ()

    return Drawn(
        load=Load(every_ms=500, words=("fill", prefix, "10", str(kilobytes * 1024))),
        harmless=lifted,
        mend=lift,
        amounts={"kilobytes_a_second": 20 * kilobytes},
    )


def _save(scene: Scene, chance: random.Random) -> Drawn:
    """Saves again and again that leave their whole file to the end, against saves that compress to next to nothing."""
    kilobytes, prefix = chance.randrange(9, 13) * 1024, name(chance)
    wrong = {"rdbcompression": "no", "rdb-save-incremental-fsync": "no", "save": "1 1"}
    right = {"rdbcompression": "yes", "rdb-save-incremental-fsync": "yes"}

    def small() -> None:
        for setting, value in right.items():
            scene.server.set(setting, value)
        wait_until(lambda: not _is_saving(scene), what="the save to end")
        _settle(scene)

    return Drawn(
        fill=(("SETRANGE", prefix, str(kilobytes * 1024 - 1), "x"),),
        load=Load(every_ms=100, words=("ask", "DBSIZE")),
        wrong=wrong,
        right={**right, "save": "1 1"},
        mend=small,
        amounts={"kilobytes_saved": kilobytes},
    )


def _neighbour(scene: Scene, chance: random.Random) -> Drawn:
    """A program that syncs large pieces to the same disk, against one that syncs small pieces now and then."""
    kilobytes = chance.randrange(9, 13) * 1024

    def filing(size: int, every_ms: int) -> Callable[[], Programs]:
        def start() -> Programs:
            assert scene.disk is not None
            folder = scene.disk.directory / "archive"
            folder.mkdir()
            program = scene.program("archive.py", str(folder), str(size), str(every_ms))
            scene.disk.admit(program.pid)
            return (program,)

        return start

    return Drawn(
        load=Load(every_ms=100, words=("ask", "DBSIZE")),
        beside=filing(kilobytes, 0),
        harmless=filing(16, 1000),
        after=lambda: _settle(scene),
        amounts={"kilobytes": kilobytes},
    )


def _is_saving(scene: Scene) -> bool:
    info = scene.server.client.info("persistence")
    assert isinstance(info, dict)
    return bool(info["rdb_bgsave_in_progress"])


def _settle(scene: Scene) -> None:
    """Wait until the disk has what was written before."""
    assert scene.disk is not None
    folder = os.open(scene.disk.directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _silent(cause: str) -> tuple[str, ...]:
    return (*(other for other in THREE if other != cause), "redis.aof.fsync-always", "redis.aof.dirty-throttle",
            *COMMANDS, "redis.expire.burst", "redis.fork.slow")  # fmt: skip


def _case(
    case: str,
    cause: str,
    draw: Callable[[Scene, random.Random], Drawn],
    fix: str,
    *,
    appendfsync: str,
    culprit_beside: bool = False,
    fast: bool = True,
) -> Case:
    return Case(
        name=case, cause=cause, draw=draw, fix=fix, silent=_silent(cause), may=SEEN_FROM_BELOW, seed="004",
        needs=("root", "redis-server", "trace", "slow-disk"), disk=_disk, measured_s=MEASURED_S,
        settings={"appendonly": "yes", "appendfsync": appendfsync, "auto-aof-rewrite-percentage": "0"},
        culprit_beside=culprit_beside, fast=fast,
    )  # fmt: skip


CASES = (
    _case("redis-aof-sync", SYNC, _sync, "a disk that takes what is appended", appendfsync="everysec", fast=False),
    # Under everysec a write is put off for 2 s, which hides what is shorter.
    _case("redis-aof-save", CHILD, _save, "save incrementally, and compressed", appendfsync="no"),
    _case("redis-aof-neighbour", DISK, _neighbour, "end the archiving", appendfsync="no", culprit_beside=True),
)
REDIS_DISK = tuple(lab for case in CASES for lab in labs(case))
