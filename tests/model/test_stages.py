"""Stacks as kernels of several releases print them, and the stage they stand for."""

from __future__ import annotations

import pytest

from culpa.model.stages import classify


@pytest.mark.parametrize(
    ("frames", "kind", "label"),
    [
        # 6.18, redis-server in fdatasync on ext4.
        (
            ["__schedule", "schedule", "jbd2_log_wait_commit", "ext4_fsync_journal", "ext4_sync_file", "do_fsync"],
            "journal",
            "journal commit",
        ),
        (
            ["io_schedule", "folio_wait_bit_common", "folio_wait_writeback", "__filemap_fdatawait_range"],
            "device",
            "data written out",
        ),
        (
            [
                "schedule",
                "io_schedule",
                "wait_for_completion_io",
                "submit_bio_wait",
                "blkdev_issue_flush",
                "ext4_sync_file",
            ],
            "device",
            "device cache flush",
        ),
        # 3.10 names.
        (
            ["schedule", "sleep_on_page", "__wait_on_bit", "wait_on_page_bit", "wait_on_page_writeback"],
            "device",
            "data written out",
        ),
        (
            ["balance_dirty_pages.isra.22", "balance_dirty_pages_ratelimited", "generic_perform_write"],
            "throttle",
            "dirty page throttling",
        ),
        (["schedule", "xlog_wait_on_iclog", "xfs_file_fsync"], "journal", "log commit"),
        (["io_schedule", "bit_wait_io"], "device", "block I/O"),
        (
            ["schedule", "rwsem_down_write_slowpath", "ext4_buffered_write_iter"],
            "lock",
            "i_rwsem of a file or directory",
        ),
        # 6.18: behind a rename in that directory, behind an mprotect, behind a read of the same open file.
        (
            ["schedule_preempt_disabled", "rwsem_down_read_slowpath", "down_read_killable", "iterate_dir"],
            "lock",
            "i_rwsem of a file or directory",
        ),
        (
            [
                "rwsem_down_read_slowpath",
                "down_read",
                "walk_component",
                "path_lookupat",
                "filename_lookup",
                "vfs_statx",
            ],
            "lock",
            "i_rwsem of a file or directory",
        ),
        (
            ["rwsem_down_read_slowpath", "down_read_killable", "lock_mm_and_find_vma", "exc_page_fault"],
            "lock",
            "mmap_lock of a process",
        ),
        (
            ["rwsem_down_write_slowpath", "down_write_killable", "__vm_munmap", "__x64_sys_munmap"],
            "lock",
            "mmap_lock of a process",
        ),
        (["schedule", "__mutex_lock.constprop.0", "fdget_pos", "ksys_read"], "lock", "f_pos_lock of an open file"),
        # Names of other releases, and a lock that nobody here knows.
        (
            ["schedule", "call_rwsem_down_read_failed", "down_read", "__do_page_fault", "do_page_fault"],
            "lock",
            "mmap_lock of a process",
        ),
        (["schedule", "rwsem_down_write_failed", "down_write", "xfs_ilock"], "lock", "i_rwsem of a file or directory"),
        (["schedule", "__mutex_lock_slowpath", "mutex_lock", "some_new_thing"], "lock", "taken in some_new_thing"),
        (["schedule", "inode_dio_wait", "ext4_truncate"], "unexplained", "a kernel lock"),
        (
            ["io_schedule", "folio_wait_bit_common", "filemap_fault", "__do_fault", "handle_mm_fault"],
            "fault",
            "page fault",
        ),
        # 6.18, a mapped file whose pages are on the disk only.
        (
            ["io_schedule", "folio_wait_bit_common", "filemap_read_folio", "filemap_fault", "__do_fault", "do_fault"],
            "fault",
            "page fault, data read",
        ),
        # 6.18, a rename while the journal writes that block of the folder; making room in the journal behind a mutex.
        (
            ["io_schedule", "bit_wait_io", "__wait_on_bit", "do_get_write_access", "ext4_dx_add_entry", "ext4_rename"],
            "journal",
            "a buffer the journal is writing",
        ),
        (
            ["schedule", "__mutex_lock.constprop.0", "mutex_lock_io", "add_transaction_credits", "start_this_handle"],
            "journal",
            "room in the journal",
        ),
        # 6.18, 6.1 and 5.10: a page of a process that lies in swap.
        (
            [
                "schedule",
                "io_schedule",
                "folio_wait_bit_common",
                "__folio_lock_or_retry",
                "do_swap_page",
                "__handle_mm_fault",
                "handle_mm_fault",
                "do_user_addr_fault",
                "exc_page_fault",
            ],
            "fault",
            "swap-in",
        ),
        (
            ["io_schedule", "wait_on_page_bit_common", "__lock_page_or_retry", "do_swap_page", "handle_mm_fault"],
            "fault",
            "swap-in",
        ),
        (
            [
                "io_schedule",
                "blk_mq_get_tag",
                "blk_mq_submit_bio",
                "submit_bio_noacct",
                "swap_read_folio_bdev_async",
                "swap_cluster_readahead",
                "swapin_readahead",
                "do_swap_page",
                "handle_mm_fault",
            ],
            "fault",
            "swap-in",
        ),
        # Shared memory, by folios and by pages.
        (
            [
                "io_schedule",
                "folio_wait_bit_common",
                "shmem_swapin_folio.isra.0",
                "shmem_get_folio_gfp",
                "shmem_fault",
                "__do_fault",
                "handle_mm_fault",
            ],
            "fault",
            "swap-in",
        ),
        (["io_schedule", "__lock_page", "shmem_swapin_page", "shmem_getpage_gfp", "shmem_fault"], "fault", "swap-in"),
        # Room for that page is made first: at the limit of its own control group, or on the host.
        (
            [
                "io_schedule",
                "folio_wait_bit_common",
                "folio_wait_writeback",
                "shrink_folio_list",
                "shrink_lruvec",
                "shrink_node",
                "do_try_to_free_pages",
                "try_to_free_mem_cgroup_pages",
                "try_charge_memcg",
                "mem_cgroup_swapin_charge_folio",
                "do_swap_page",
                "handle_mm_fault",
            ],
            "reclaim",
            "reclaim at the limit of its control group",
        ),
        (
            [
                "io_schedule",
                "blk_mq_get_tag",
                "__swap_writepage",
                "pageout",
                "shrink_page_list",
                "shrink_node",
                "do_try_to_free_pages",
                "try_to_free_mem_cgroup_pages",
                "try_charge",
                "mem_cgroup_charge",
                "do_anonymous_page",
                "handle_mm_fault",
            ],
            "reclaim",
            "reclaim at the limit of its control group",
        ),
        (
            ["schedule_timeout", "mem_cgroup_handle_over_high", "exit_to_user_mode_loop"],
            "reclaim",
            "a pause above memory.high of its control group",
        ),
        (
            [
                "schedule_timeout",
                "reclaim_throttle",
                "shrink_node",
                "do_try_to_free_pages",
                "try_to_free_pages",
                "__alloc_pages_slowpath",
                "vma_alloc_folio",
                "do_anonymous_page",
                "handle_mm_fault",
            ],
            "reclaim",
            "memory reclaim",
        ),
        (
            [
                "io_schedule_timeout",
                "congestion_wait",
                "do_try_to_free_pages",
                "try_to_free_pages",
                "__alloc_pages_slowpath",
                "alloc_pages_vma",
                "do_anonymous_page",
                "handle_mm_fault",
            ],
            "reclaim",
            "memory reclaim",
        ),
        (
            [
                "schedule",
                "rwsem_down_read_slowpath",
                "super_cache_scan",
                "shrink_slab",
                "shrink_node",
                "try_to_free_pages",
                "__alloc_pages_slowpath",
            ],
            "reclaim",
            "memory reclaim",
        ),
        (
            [
                "io_schedule",
                "migrate_pages_batch",
                "compact_zone",
                "compact_zone_order",
                "try_to_compact_pages",
                "__alloc_pages_direct_compact",
            ],
            "reclaim",
            "memory compaction",
        ),
        # What others may not change while they reclaim stays what it is.
        (
            [
                "jbd2_log_wait_commit",
                "ext4_evict_inode",
                "evict",
                "prune_icache_sb",
                "shrink_slab",
                "shrink_node",
                "do_try_to_free_pages",
                "try_to_free_pages",
            ],
            "journal",
            "journal commit",
        ),
        # A write to a mapped page that must wait for its turn, as a write to a file would.
        (
            ["schedule_timeout", "balance_dirty_pages", "fault_dirty_shared_page", "do_fault", "handle_mm_fault"],
            "throttle",
            "dirty page throttling",
        ),
    ],
)
def test_known_stacks_have_their_stage(frames: list[str], kind: str, label: str) -> None:
    """The innermost function that has a meaning decides."""
    stage = classify(frames)

    assert (kind, label) == (stage.kind, stage.label)


def test_of_reclaim_it_is_known_whether_a_device_is_waited_for() -> None:
    """A pause of reclaim has no request; the write of what is thrown out has one."""
    outer = ["shrink_node", "do_try_to_free_pages", "try_to_free_pages"]

    assert classify(["io_schedule", "folio_wait_writeback", "shrink_folio_list", *outer]).at_device
    assert not classify(["schedule_timeout", "reclaim_throttle", *outer]).at_device


def test_an_unknown_stack_keeps_its_symbol() -> None:
    """Nothing is guessed."""
    stage = classify(["schedule", "some_new_thing+0x12/0x40", "do_syscall_64"])

    assert ("unexplained", "unknown: some_new_thing") == (stage.kind, stage.label)


def test_no_stack_is_unexplained() -> None:
    """An empty stack does not crash."""
    assert "unexplained" == classify([]).kind


def test_a_write_to_a_file_opened_with_o_dsync_is_a_sync() -> None:
    """The same wait below fsync(2) and below write(2); a write that is merely held up is none."""
    inner = ["schedule", "io_schedule", "submit_bio_wait", "blkdev_issue_flush", "ext4_sync_file"]

    assert classify([*inner, "ext4_buffered_write_iter", "vfs_write", "ksys_write"]).syncs
    assert not classify(["schedule", "rwsem_down_write_slowpath", "ext4_buffered_write_iter", "vfs_write"]).syncs
