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
        (["schedule", "rwsem_down_write_slowpath", "ext4_buffered_write_iter"], "lock", "a kernel lock"),
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
