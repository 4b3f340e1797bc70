"""A service whose disk is slow, and which waits for it beside the request: in io_uring_enter, or in io_getevents.

By the parameters it is the one or the other. No call names the file, and the wait is one that can be interrupted, like
that of its second thread, which waits in a ring for work that never comes. The twin has a disk that nothing holds back.
"""

from __future__ import annotations

import ctypes
import errno
import os

from culpa.labs import slowdisk, stand, throttle
from culpa.labs.lab import Conditions, Lab, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

SLOW_DEVICE = "disk.slow-device"
OWN_LIMIT = ("disk.cgroup-throttle",)
BUSY = "shuffle"
RING, CONTEXT = "ring", "context"
UNLIMITED = 10_000_000
RING_SETUP = 425
"""io_uring_setup, on every machine."""


def why_not() -> str | None:
    """Why this host lets nobody use io_uring; None if it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(ctypes.c_long(RING_SETUP), ctypes.c_uint(1), ctypes.create_string_buffer(120))
    if ring >= 0:
        os.close(ring)
        return None
    name = errno.errorcode.get(ctypes.get_errno(), "unknown")
    return f"no io_uring ({name}): sysctl kernel.io_uring_disabled=0, or a wider seccomp profile"


def way(conditions: Conditions) -> str:
    """Through a ring, or through libaio's calls."""
    return conditions.parameters.chance("async-io").choice((RING, CONTEXT))


def play(conditions: Conditions) -> Played:
    """On a slow disk."""
    with opened(conditions.progress) as here:
        case = _raised(here, conditions, write_iops=conditions.parameters.write_iops)
        played = case.troubled(BUSY, _truth(case), repaired=BUSY, mend=case.disk.quicken)
    return Played(stages=played.stages, disk=played.disk, drawn={"ring": int(way(conditions) == RING)})


def play_healthy(conditions: Conditions) -> Played:
    """On the same disk, which nothing holds back."""
    with opened(conditions.progress) as here:
        played = _raised(here, conditions, write_iops=UNLIMITED).sound(BUSY)
    return Played(stages=played.stages, disk=played.disk, drawn={"ring": int(way(conditions) == RING)})


def _raised(here: Site, conditions: Conditions, *, write_iops: int) -> stand.Stand:
    slowness = slowdisk.Slowness(rate=throttle.Rate(per_second=write_iops))
    disk = here.stack.enter_context(slowdisk.slow_disk(here, slowness))
    conditions.progress(f"slow disk: {disk.device} on {disk.directory}, {slowness.rate}")
    seconds = conditions.parameters.chance("async-io-size").uniform(0.5, 1.0)
    cards = int(seconds * conditions.parameters.write_iops)
    arguments = (str(disk.directory / "tray"), str(cards), str(conditions.parameters.seed), way(conditions))
    return stand.raised(here, conditions, app="tray", on=disk, arguments=arguments)


def _truth(case: stand.Stand) -> Truth:
    return Truth(
        causes=(SLOW_DEVICE,),
        may=OWN_LIMIT,
        on=(TruthOn(cause=SLOW_DEVICE, device=case.disk.device_name),),
        path=(
            TruthStep(kind="io", pid=case.app.pid, path=str(case.disk.directory / "tray")),
            TruthStep(kind="device", device=case.disk.device_name),
        ),
        fix="a faster disk: its limit lifted",
    )


ASYNC_IO = Lab(
    name="async-io",
    family="hosts",
    needs=("root", "trace", "slow-disk", "io-uring"),
    seed=None,
    fires=(SLOW_DEVICE,),
    silent=("disk.saturated", "disk.neighbour", "disk.fsync-heavy", "app.log.flood", "cpu.busy"),
    fast=True,
    play=play,
)
ASYNC_IO_HEALTHY = Lab(
    name="async-io-healthy",
    family="hosts",
    needs=("root", "trace", "slow-disk", "io-uring"),
    seed=None,
    fires=(),
    silent=(SLOW_DEVICE, "disk.saturated"),
    fast=True,
    play=play_healthy,
)
