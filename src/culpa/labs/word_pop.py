"""The case of seed 002: a service that counts words by way of a thousand files, written, read back and deleted.

The disk takes a few megabytes a second, and few of its pages may be dirty, as on a host whose page cache is full. A
diary on the same disk suffers as well. The twin counts in memory. In the page-cache twin nothing bounds the dirty
pages: another program keeps the disk busy, the files are there and gone, and nobody waits.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace

from culpa.labs import slowdisk, source, stand, throttle
from culpa.labs.lab import Conditions, Lab, Parameters, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Program, Site, opened

TEMP_CHURN = "app.files.temp-churn"
LOG_FLOOD = "app.log.flood"
FLOOD_FROM_BELOW = (
    "mem.dirty-throttle", "disk.cgroup-throttle", "disk.neighbour", "disk.saturated", "disk.slow-device",
    "fs.journal-wait", "fs.unlink-big-file",
)  # fmt: skip
"""What a write flood looks like from the page cache, the file system and the disk."""
WORD = "lomi"
DIARY_EVERY_MS = 200
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What one run draws."""

    files: int
    file_bytes: int
    disk_bytes_per_s: int
    dirty_bytes: int

    @staticmethod
    def drawn(parameters: Parameters) -> Sizes:
        """As many files as the seed has, or a few hundred on a disk that is as much slower."""
        chance = parameters.chance("word-pop")
        if parameters.small:
            return Sizes(
                files=chance.randrange(300, 500, 10), file_bytes=chance.randrange(24_000, 48_000),
                disk_bytes_per_s=chance.randrange(3 * MIB, 5 * MIB), dirty_bytes=chance.randrange(2 * MIB, 4 * MIB),
            )  # fmt: skip
        return Sizes(
            files=chance.randrange(800, 1200, 10), file_bytes=chance.randrange(200_000, 400_000),
            disk_bytes_per_s=chance.randrange(24 * MIB, 40 * MIB), dirty_bytes=chance.randrange(32 * MIB, 64 * MIB),
        )  # fmt: skip


def play(conditions: Conditions) -> Played:
    """By way of files."""
    sizes = Sizes.drawn(conditions.parameters)
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, sizes, bounded=True)
        diary = _diary(case)
        played = case.troubled(f"popularity/{WORD}", _truth(case, diary), repaired=f"popular/{WORD}")
        diary.require_running()
    return replace(played, drawn=asdict(sizes))


def play_healthy(conditions: Conditions) -> Played:
    """In memory, on the same disk."""
    sizes = Sizes.drawn(conditions.parameters)
    with opened(conditions.progress) as here:
        played = _raised(here, conditions, sizes, bounded=True).sound(f"popular/{WORD}")
    return replace(played, drawn=asdict(sizes))


def play_cached(conditions: Conditions) -> Played:
    """By way of files that the page cache takes, on a disk that is busy with somebody else's."""
    sizes = Sizes.drawn(Parameters(seed=conditions.parameters.seed, small=True))
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, sizes, bounded=False)
        keep_busy(case)
        played = case.sound(f"popularity/{WORD}")
    return replace(played, drawn=asdict(sizes))


def _raised(here: Site, conditions: Conditions, sizes: Sizes, *, bounded: bool) -> stand.Stand:
    disk = flooded_disk(here, conditions, sizes.disk_bytes_per_s, sizes.dirty_bytes if bounded else None)
    arguments = (str(disk.directory), str(sizes.files), str(sizes.file_bytes), str(conditions.parameters.seed))
    return stand.raised(here, conditions, app="words", on=disk, arguments=arguments)


def flooded_disk(here: Site, conditions: Conditions, bytes_per_s: int, dirty_bytes: int | None) -> slowdisk.Disk:
    """The slow disk of labs that write floods.

    Raises:
        LabError: this host cannot have it; on an ordinary disk there would be nothing to find.
    """
    rate = throttle.Rate(per_second=bytes_per_s, unit="bytes")
    slowness = slowdisk.Slowness(rate=rate, dirty_bytes=dirty_bytes, image_bytes=slowdisk.FLOOD_IMAGE_BYTES)
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    conditions.progress(f"slow disk: {disk.device} on {disk.directory}, {rate}")
    return disk


def keep_busy(case: stand.Stand) -> Program:
    """A program that fills the disk's time with direct writes into a file of its own."""
    file = stand.copied(case.site, "copier.py", "copier.py")
    argv = [sys.executable, str(file), str(case.disk.directory / "copy"), str(MIB), "64"]
    return case.site.start(argv, name="copier")


def _diary(case: stand.Stand) -> Program:
    file = stand.copied(case.site, "diary.py", "diary.py")
    argv = [sys.executable, str(file), str(case.disk.directory / "diary.txt"), str(DIARY_EVERY_MS)]
    return case.site.start(argv, name="diary")


def _truth(case: stand.Stand, diary: Program) -> Truth:
    lines = source.function_lines(case.app_file, function="popularity")
    return Truth(
        causes=(TEMP_CHURN,),
        may=FLOOD_FROM_BELOW,
        who=(stand.who(TEMP_CHURN, case.app.pid),),
        bystanders=(stand.who(TEMP_CHURN, diary.pid),),
        on=(
            TruthOn(cause=TEMP_CHURN, path=f"{case.disk.directory}/<uuid>/*.txt"),
            lines.named_in(TEMP_CHURN),
        ),
        path=(TruthStep(kind="io", pid=case.app.pid),),
        fix="ask /popular: count in memory",
    )


WORD_POP = Lab(
    name="word-pop",
    family="seeds",
    needs=("root", "trace", "slow-disk"),
    seed="002",
    fires=(TEMP_CHURN,),
    silent=(LOG_FLOOD, "disk.fsync-heavy", "sleep.by-choice", "cpu.busy"),
    play=play,
)
WORD_POP_HEALTHY = WORD_POP.healthy(silent=(TEMP_CHURN,), play=play_healthy)
WORD_POP_CACHED = Lab(
    name="word-pop-cached",
    family="double",
    needs=("root", "trace", "slow-disk"),
    seed="002",
    fires=(),
    silent=(TEMP_CHURN, "disk.saturated", "disk.slow-device"),
    play=play_cached,
)
