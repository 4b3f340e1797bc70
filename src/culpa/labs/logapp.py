"""The case of seed 003: a service that was left at level DEBUG and dumps everything it has into its log.

The log is rotated by the program itself, and its level can be changed by a signal. The disk takes a few megabytes a
second, and few of its pages may be dirty. The twin logs records of the usual size. In the page-cache twin nothing
bounds the dirty pages: another program keeps the disk busy, and nobody waits for the log.
"""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, dataclass, replace

from culpa.labs import source, stand
from culpa.labs.lab import Conditions, Lab, Measured, Parameters, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened
from culpa.labs.word_pop import FLOOD_FROM_BELOW, LOG_FLOOD, MIB, TEMP_CHURN, flooded_disk, keep_busy

ACTION = "order"
LOG = "orders.log"
WARM_UP = 4
"""Records that the page cache takes before writers have to wait; after them the median is that of a slow request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What one run draws."""

    record_bytes: int
    records_per_part: int
    disk_bytes_per_s: int
    dirty_bytes: int

    @staticmethod
    def drawn(parameters: Parameters) -> Sizes:
        """Records a fraction of the seed's 300 MB, so that a request takes a few seconds; small ones on a slower
        disk."""
        chance = parameters.chance("logapp")
        unit = 8 * MIB if parameters.small else 64 * MIB
        return Sizes(
            record_bytes=chance.randrange(unit, 2 * unit), records_per_part=chance.randrange(2, 5),
            disk_bytes_per_s=chance.randrange(unit // 3, unit * 2 // 3), dirty_bytes=chance.randrange(unit // 2, unit),
        )  # fmt: skip


def play(conditions: Conditions) -> Played:
    """Judged at level DEBUG, then told by signal to log less."""
    sizes = Sizes.drawn(conditions.parameters)
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, sizes, bounded=True, record_bytes=sizes.record_bytes)
        before = case.seconds(ACTION, requests=WARM_UP)
        truth, judged = _truth(case), case.judge(ACTION)
        conditions.progress(f"kill -USR2 {case.app.pid}")
        os.kill(case.app.pid, signal.SIGUSR2)
        after = case.seconds(ACTION, requests=stand.FAST_REQUESTS)
        stage = case.stage("as found", ACTION, truth, judged, Measured(before=before, after_fix=after))
    return Played(stages=(stage,), disk=case.disk.kind, drawn=asdict(sizes))


def play_healthy(conditions: Conditions) -> Played:
    """Records of the usual size, at the same level, on the same disk."""
    sizes = Sizes.drawn(conditions.parameters)
    usual = conditions.parameters.chance("logapp-healthy").randrange(200, 2000)
    with opened(conditions.progress) as here:
        played = _raised(here, conditions, sizes, bounded=True, record_bytes=usual).sound(ACTION)
    return replace(played, drawn=asdict(sizes) | {"record_bytes": usual})


def play_cached(conditions: Conditions) -> Played:
    """Large records that the page cache takes, on a disk that is busy with somebody else's data."""
    sizes = Sizes.drawn(Parameters(seed=conditions.parameters.seed, small=True))
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, sizes, bounded=False, record_bytes=sizes.record_bytes)
        keep_busy(case)
        played = case.sound(ACTION)
    return replace(played, drawn=asdict(sizes))


def _raised(here: Site, conditions: Conditions, sizes: Sizes, *, bounded: bool, record_bytes: int) -> stand.Stand:
    disk = flooded_disk(here, conditions, sizes.disk_bytes_per_s, sizes.dirty_bytes if bounded else None)
    part_bytes = sizes.records_per_part * sizes.record_bytes
    arguments = (str(disk.directory / LOG), str(record_bytes), str(part_bytes))
    return stand.raised(here, conditions, app="orders", on=disk, arguments=arguments)


def _truth(case: stand.Stand) -> Truth:
    line = source.call_lines(case.app_file, function="take_order", method="debug")
    return Truth(
        causes=(LOG_FLOOD,),
        may=FLOOD_FROM_BELOW,
        who=(stand.who(LOG_FLOOD, case.app.pid),),
        on=(
            TruthOn(cause=LOG_FLOOD, path=str(case.disk.directory / LOG)),
            line.named_in(LOG_FLOOD),
        ),
        path=(TruthStep(kind="io", pid=case.app.pid),),
        fix="kill -USR2: level WARNING",
    )


LOGAPP = Lab(
    name="logapp",
    family="seeds",
    needs=("root", "trace", "slow-disk"),
    seed="003",
    fires=(LOG_FLOOD,),
    silent=(TEMP_CHURN, "disk.fsync-heavy", "sleep.by-choice", "cpu.busy"),
    play=play,
)
LOGAPP_HEALTHY = LOGAPP.healthy(silent=(LOG_FLOOD,), play=play_healthy)
LOGAPP_CACHED = Lab(
    name="logapp-cached",
    family="double",
    needs=("root", "trace", "slow-disk"),
    seed="003",
    fires=(),
    silent=(LOG_FLOOD, "disk.saturated", "disk.slow-device"),
    play=play_cached,
)
