"""What part of the kernel an uninterruptible wait sits in, read off its kernel stack.

Functions are looked for from the innermost frame outwards, the first that has a meaning wins; function names are those
of fs/, mm/, block/ and kernel/ from 3.10 to 6.x. A stack without any known function keeps its innermost symbol.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

StageKind = Literal["journal", "device", "throttle", "reclaim", "fault", "lock", "unexplained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A named stage of a wait: its kind, a few words for people, whether it is part of a sync of some file, and of
    reclaim, whether a device is what it waits for.
    """

    kind: StageKind
    label: str
    syncs: bool = False
    at_device: bool = False


HELD_BUFFER = "a buffer the journal is writing"
"""Whoever changes it waits until it is on the disk: metadata of a transaction that somebody made the journal commit."""
SWAP_IN = "swap-in"
"""A page of a process, or of shared memory, that lies in swap is read back."""
VFORK = "a child that has not begun its program"
"""Whoever calls vfork or posix_spawn waits until the child executes a program, or ends."""
RECLAIM, COMPACTION = "memory reclaim", "memory compaction"
"""The host has no free pages (in one piece): whoever wants one makes room first."""
GROUP_RECLAIM = "reclaim at the limit of its control group"
GROUP_HIGH = "a pause above memory.high of its control group"
OF_GROUP = (GROUP_RECLAIM, GROUP_HIGH)
_PATTERNS: tuple[tuple[str, StageKind, str], ...] = (
    (r"jbd2_log_wait_commit|jbd2_complete_transaction", "journal", "journal commit"),
    (r"start_this_handle|wait_transaction_locked|add_transaction_credits", "journal", "room in the journal"),
    (r"do_get_write_access|jbd2_journal_get_write_access", "journal", HELD_BUFFER),
    (r"xlog_wait|xfs_log_force|xlog_grant|xfs_log_reserve|xlog_state_", "journal", "log commit"),
    (r"btrfs_wait_log|btrfs_sync_log|wait_for_commit|wait_current_trans", "journal", "tree log commit"),
    (r"balance_dirty_pages", "throttle", "dirty page throttling"),
    (r"blk_throtl|__rq_qos_throttle|rq_qos_wait|wbt_wait", "device", "block layer throttling"),
    (r"blk_mq_get_tag|__blk_queue_enter|get_request", "device", "a free place in the device queue"),
    (r"blkdev_issue_flush|blkdev_flush", "device", "device cache flush"),
    (
        r"folio_wait_writeback|wait_on_page_writeback|__filemap_fdatawait|filemap_fdatawait",
        "device",
        "data written out",
    ),
    (r"wait_on_buffer|__wait_on_buffer|sync_dirty_buffer|wait_on_bh", "device", "metadata block"),
    (r"shrink_|try_to_free|do_try_to_free", "reclaim", RECLAIM),
    (r"filemap_fault|__do_fault|do_fault|handle_mm_fault|do_page_fault|exc_page_fault", "fault", "page fault"),
    (r"jbd2_journal_commit_transaction|kjournald", "device", "journal blocks written"),
    (r"dio_await|__iomap_dio_rw|iomap_dio|__blockdev_direct_IO|blkdev_direct_IO", "device", "direct I/O"),
    (
        r"filemap_read|generic_file_buffered_read|filemap_get_pages|filemap_update_page|page_cache_",
        "device",
        "data read",
    ),
    (r"wait_for_vfork_done|kernel_clone|_do_fork", "unexplained", VFORK),
    (r"__mutex_lock|rwsem_down|rwbase_(read|write)_lock", "lock", "kernel lock"),
    (r"__down|inode_dio_wait", "unexplained", "a kernel lock"),
    (r"io_schedule|bit_wait_io|blk_mq_|wait_for_completion_io", "device", "block I/O"),
)
_FAULT = re.compile(r"filemap_fault|handle_mm_fault|do_page_fault|do_user_addr_fault|exc_page_fault|do_mem_abort")
"""Whatever a device does within one of these is part of a page fault, which no system call shows."""
_MEMORY_PATTERNS: tuple[tuple[str, StageKind, str], ...] = (
    # Below try_charge, try_charge_memcg and mem_cgroup_charge alike.
    (r"try_to_free_mem_cgroup_pages|mem_cgroup_oom_synchronize|mem_cgroup_out_of_memory", "reclaim", GROUP_RECLAIM),
    (r"_*mem_cgroup_handle_over_high", "reclaim", GROUP_HIGH),
    (r"try_to_compact_pages|__alloc_pages_direct_compact|compact_zone\w*", "reclaim", COMPACTION),
    # congestion_wait and wait_iff_congested became reclaim_throttle (8cd7c588decf, 5.16).
    (
        r"do_try_to_free_pages|try_to_free_pages|__alloc_pages_direct_reclaim|__perform_reclaim|reclaim_throttle"
        r"|congestion_wait|wait_iff_congested|throttle_direct_reclaim|node_reclaim|shrink_(node|zone|lruvec|slab)\w*",
        "reclaim",
        RECLAIM,
    ),
    # Of pages first, of folios later: swap_readpage and swap_read_folio, shmem_swapin_page and shmem_swapin_folio.
    (
        r"do_swap_page|swap_readpage|swap_read_folio\w*|(shmem_)?swapin_\w+|swap_(cluster|vma)_readahead"
        r"|__?read_swap_cache_async",
        "fault",
        SWAP_IN,
    ),
)
"""What decides wherever it stands in the stack: waits for a device or a lock within these are part of them."""
_MAKING_ROOM = frozenset({"start_this_handle", "add_transaction_credits"})
_SYNCING = re.compile(r"generic_write_sync|vfs_fsync_range|\w+_sync_file|\w+_file_fsync")
"""What a write does before it returns if its file was opened with O_DSYNC or O_SYNC, or by RWF_DSYNC."""
INODE_LOCK, MAP_LOCK = "i_rwsem of a file or directory", "mmap_lock of a process"
_TAKES = re.compile(
    r"(__)?(down|inode|mmap|mutex|vma)_\w*(read|write|lock|killable)\w*|\w*(rwsem|rwbase|mutex)_\w+|schedule\w*"
)
"""What takes a lock, or waits for it; whoever calls that tells which lock it is."""
_TAKEN_IN = (
    (
        r"lock_mm_and_find_vma|do_user_addr_fault|exc_page_fault|(__)?do_page_fault|vm_mmap_pgoff|(__)?(do_)?vm_munmap"
        r"|(__)?(do_|ksys_|sys_)?m(protect|remap|advise|lock|unmap|locked?)\w*|dup_mm(ap)?|copy_(mm|process)|sys_brk"
        r"|__mm_populate|m_start|show_smaps\w*|process_vm_rw\w*|(__)?get_user_pages\w*|(__)?access_remote_vm|exit_mm\w*",
        MAP_LOCK,
    ),
    (
        r"\w+_(write|read)_iter|\w+_(buffered|dio)_(write|read)\w*|xfs_ilock\w*|btrfs_inode_lock|generic_file_\w+"
        r"|do_truncate|\w+_fallocate|iterate_dir|lookup_\w+|(__)?lookup_slow|walk_component|open_last_lookups|path_openat"
        r"|do_last|(filename|kern_path|start|end)_\w*(create|dirop|removing|creating)\w*|do_(unlinkat|rmdir|renameat2)"
        r"|lock_(rename|two_directories)\w*|vfs_(unlink|rename|link|rmdir)|ch(mod|own)_common|vfs_\w+xattr|\w+_llseek",
        INODE_LOCK,
    ),
    (r"(__)?fdget_pos", "f_pos_lock of an open file"),
)
"""Callers of what takes a lock: arch/x86/mm, mm/ and kernel/fork.c; fs/."""
_MEMORY = tuple((re.compile(pattern), Stage(kind=kind, label=label)) for pattern, kind, label in _MEMORY_PATTERNS)
_LOCKS = tuple((re.compile(pattern), label) for pattern, label in _TAKEN_IN)
_COMPILED = tuple((re.compile(pattern), Stage(kind=kind, label=label)) for pattern, kind, label in _PATTERNS)
_PLUMBING = re.compile(
    r"__schedule|schedule|schedule_timeout|io_schedule\w*|bit_wait\w*|__wait_on_bit\w*|out_of_line_wait_on_bit\w*"
    r"|folio_wait_bit\w*|wait_on_page_bit\w*|__?folio_lock\w*|__lock_page\w*|submit_bio_wait|wait_for_completion\w*|__wait_for_common|prepare_to_wait\w*|__traceiter_\w+|bpf_\w+|trace_\w+|preempt_schedule\w*"
)
_SUFFIX = re.compile(r"(\.(isra|part|constprop|cold|llvm)\.?\d*|\+0x[0-9a-f/x]+).*$")


def classify(frames: Sequence[str]) -> Stage:
    """The stage of a stack.

    Args:
        frames: kernel symbols, innermost first.

    Returns:
        The first known stage from the inside out; what a device does within a page fault is part of that;
        `unknown: symbol` where nothing is known.
    """
    names = [_SUFFIX.sub("", frame) for frame in frames]
    return replace(_named(names), syncs=any(_SYNCING.fullmatch(name) for name in names))


def _named(names: Sequence[str]) -> Stage:
    telling = [name for name in names if not _PLUMBING.fullmatch(name)]
    memory = next((stage for pattern, stage in _MEMORY if any(pattern.fullmatch(name) for name in telling)), None)
    for name in telling:
        for pattern, stage in _COMPILED:
            if pattern.search(name):
                found = _within_journal(_which(stage, telling), telling)
                return _within_fault(found, telling) if memory is None else _for_memory(found, memory)
    if memory is not None:
        return memory
    if any(name.startswith("io_schedule") or name == "bit_wait_io" for name in names):
        return Stage(kind="device", label="block I/O")
    innermost = telling[0] if telling else (names[0] if names else "no stack")
    return Stage(kind="unexplained", label=f"unknown: {innermost}")


def _which(stage: Stage, names: Sequence[str]) -> Stage:
    """A lock with its name, as far as whoever takes it tells; else the function that does."""
    if stage.kind != "lock":
        return stage
    taker = next((name for name in names if not _TAKES.fullmatch(name)), "the kernel")
    known = next((label for pattern, label in _LOCKS if pattern.fullmatch(taker)), f"taken in {taker}")
    return replace(stage, label=known)


def _within_journal(stage: Stage, names: Sequence[str]) -> Stage:
    """A lock that is taken to make room in the journal is that; other locks stay."""
    room = next((name for name in names if name in _MAKING_ROOM), None)
    return stage if stage.kind != "lock" or room is None else _named([room])


def _for_memory(stage: Stage, memory: Stage) -> Stage:
    """What is done to get memory, or a page back from swap; the journal's commits and pauses of writers stay."""
    if stage.kind in ("journal", "throttle"):
        return stage
    return replace(memory, at_device=stage.kind == "device")


def _within_fault(stage: Stage, names: Sequence[str]) -> Stage:
    """The stage, as part of a page fault where further out there is one; reclaim, throttling and the journal stay."""
    if stage.kind == "device" and any(_FAULT.search(name) for name in names):
        return Stage(kind="fault", label=f"page fault, {stage.label}")
    return stage
