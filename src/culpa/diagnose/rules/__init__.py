"""One file per family of causes; `RULES` is all of them, in the order in which their pages are listed."""

from __future__ import annotations

from culpa.diagnose.rule import Rule
from culpa.diagnose.rules.acceptqueue import accept_queue
from culpa.diagnose.rules.app_loop import blocked
from culpa.diagnose.rules.app_pool import exhausted
from culpa.diagnose.rules.app_redis import round_trips, slow_command, write_in_read_path
from culpa.diagnose.rules.cachelost import cache_lost
from culpa.diagnose.rules.cpu import busy, sleeping
from culpa.diagnose.rules.disk import fsync_heavy, saturated, slow_device
from culpa.diagnose.rules.files import log_flood, temp_churn
from culpa.diagnose.rules.freeing import unlink_big_file
from culpa.diagnose.rules.journal import journal_wait
from culpa.diagnose.rules.locks import contention
from culpa.diagnose.rules.memory import dirty_throttle
from culpa.diagnose.rules.mysql import missing_index
from culpa.diagnose.rules.namelookup import name_lookup
from culpa.diagnose.rules.neighbour import neighbour
from culpa.diagnose.rules.network import loss, remote_slow
from culpa.diagnose.rules.numa import remote
from culpa.diagnose.rules.pinned import pinned as bound_to_cpus
from culpa.diagnose.rules.reclaim import reclaim
from culpa.diagnose.rules.redis_aof import fsync_always
from culpa.diagnose.rules.redis_children import CHILDREN
from culpa.diagnose.rules.redis_cpus import CPUS
from culpa.diagnose.rules.redis_cycle import batch
from culpa.diagnose.rules.redis_disk import dirty_throttle as aof_dirty_throttle
from culpa.diagnose.rules.redis_disk import write_behind_child, write_behind_fsync, write_slow_disk
from culpa.diagnose.rules.redis_holds import (
    bigkey_delete,
    bigkey_read,
    command_slow,
    flush_sync,
    migrate,
    script_long,
)
from culpa.diagnose.rules.redis_host import HOST_STATES, pinned
from culpa.diagnose.rules.redis_peers import PEERS
from culpa.diagnose.rules.redis_replies import REPLY_STATES
from culpa.diagnose.rules.redis_rest import unattributed
from culpa.diagnose.rules.redis_saving import SAVING
from culpa.diagnose.rules.redis_stalls import defrag_stall, evict_storm, expire_burst, fork_slow, load_blocks, starved
from culpa.diagnose.rules.redis_state import STATES
from culpa.diagnose.rules.redis_swap import swapped
from culpa.diagnose.rules.rereads import reads_again
from culpa.diagnose.rules.runqueue import cgroup_quota, runqueue
from culpa.diagnose.rules.small_calls import small_reads, small_writes
from culpa.diagnose.rules.space import full
from culpa.diagnose.rules.stopped import stopped
from culpa.diagnose.rules.swap import cgroup_limit, swap
from culpa.diagnose.rules.sync_open import sync_open
from culpa.diagnose.rules.throttle import cgroup_throttle

RULES: tuple[Rule, ...] = (
    fsync_always,
    command_slow,
    bigkey_read,
    bigkey_delete,
    flush_sync,
    script_long,
    migrate,
    batch,
    expire_burst,
    evict_storm,
    defrag_stall,
    fork_slow,
    starved,
    load_blocks,
    swapped,
    aof_dirty_throttle,
    write_behind_fsync,
    write_behind_child,
    write_slow_disk,
    write_in_read_path,
    round_trips,
    slow_command,
    missing_index,
    temp_churn,
    log_flood,
    small_writes,
    small_reads,
    reads_again,
    sync_open,
    fsync_heavy,
    saturated,
    slow_device,
    neighbour,
    cgroup_throttle,
    full,
    journal_wait,
    unlink_big_file,
    dirty_throttle,
    cache_lost,
    swap,
    cgroup_limit,
    reclaim,
    remote_slow,
    loss,
    name_lookup,
    accept_queue,
    contention,
    blocked,
    exhausted,
    bound_to_cpus,
    remote,
    runqueue,
    cgroup_quota,
    stopped,
    busy,
    sleeping,
    pinned,
    *CPUS,
    *SAVING,
    *CHILDREN,
    *PEERS,
    *STATES,
    *REPLY_STATES,
    *HOST_STATES,
    unattributed,
)
