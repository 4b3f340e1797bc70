"""Simulated shortage of memory: pages in swap, room made for the host, a control group or in one piece, pauses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from culpa.sim.kernel import FILE_DEV, WRITE, Does, Kernel
from culpa.sim.log import Cause
from culpa.sim.program import Need, Touch
from culpa.sim.scheduler import Pause
from culpa.sim.storage import Storage

KILLABLE = 0x102
"""TASK_KILLABLE (include/linux/sched.h): how a thread pauses above memory.high."""
_SCHEDULE = ("__schedule", "schedule")
_IO = (*_SCHEDULE, "io_schedule", "folio_wait_bit_common")
_FAULT = ("handle_mm_fault", "do_user_addr_fault", "exc_page_fault", "asm_exc_page_fault")
_HOST = ("do_try_to_free_pages", "try_to_free_pages", "__alloc_pages_slowpath", "do_anonymous_page", *_FAULT)
_GROUP = (
    "do_try_to_free_pages", "try_to_free_mem_cgroup_pages", "try_charge_memcg", "charge_memcg", "do_anonymous_page",
    *_FAULT,
)  # fmt: skip
_THROUGH: Mapping[Need, tuple[str, ...]] = {
    "swap": ("do_swap_page", *_FAULT),
    "host": _HOST,
    "group": _GROUP,
    "compaction": ("compact_zone", "try_to_compact_pages", "__alloc_pages_direct_compact", *_HOST[2:]),
    "high": ("__mem_cgroup_handle_over_high", "exit_to_user_mode_loop", "do_syscall_64"),
}
_SHRINK = ("shrink_folio_list", "shrink_lruvec", "shrink_node")
_THROTTLED = (*_SCHEDULE, "schedule_timeout", "reclaim_throttle")
AT_DEVICE: Mapping[Need, tuple[str, ...]] = {
    "swap": (*_IO, *_THROUGH["swap"]),
    "host": (*_IO, "folio_wait_writeback", *_SHRINK, *_THROUGH["host"]),
    "group": (*_IO, "folio_wait_writeback", *_SHRINK, *_THROUGH["group"]),
}
PAUSED: Mapping[Need, tuple[str, ...]] = {
    "host": (*_THROTTLED, "shrink_node", *_THROUGH["host"]),
    "group": (*_THROTTLED, "shrink_node", *_THROUGH["group"]),
    "compaction": (*_THROTTLED, "isolate_migratepages_block", *_THROUGH["compaction"]),
    "high": (*_SCHEDULE, "schedule_timeout", *_THROUGH["high"]),
}


@dataclass(slots=True, kw_only=True)
class Memory:
    """The memory of the host, of which there is too little."""

    kernel: Kernel
    storage: Storage

    def touch(self, tid: int, op: Touch) -> Does[None]:
        """Touch a page, in a write call or in none; the pause above memory.high lies on the way out of the kernel."""
        kernel = self.kernel
        yield kernel.user()
        call = None
        if op.within is not None:
            ino = kernel.file(op.within)
            call = kernel.enter(tid, WRITE, (8, 0x5600_0000_0000 + tid, 4096), dev=FILE_DEV, ino=ino, kind="reg")
        yield kernel.cost()
        if op.need != "high":
            yield from self._get(tid, op)
            yield kernel.cost()
        if call is not None:
            kernel.leave(call, 4096)
        if op.need == "high":
            yield from self._pause(tid, op)
            yield kernel.cost()

    def _get(self, tid: int, op: Touch) -> Does[None]:
        """Get the page."""
        if op.pause_ns is None:
            block = self.storage.submit(tid, "read" if op.need == "swap" else "write", None)
            yield from self.storage.until_complete(block, AT_DEVICE[op.need], op.need)
            return
        if op.need in ("host", "group"):
            self.storage.submit(tid, "write", None, done=lambda: None)
            yield self.kernel.cost()
        yield from self._pause(tid, op)

    def _pause(self, tid: int, op: Touch) -> Does[None]:
        """Wait for the timer."""
        assert op.pause_ns is not None
        sched, kernel = self.kernel.sched, self.kernel
        sched.wake_later(tid, op.pause_ns, lambda: kernel.waker(None), lambda: None)
        state = KILLABLE if op.need == "high" else 2
        yield Pause(cause=Cause(kind="reclaim", room=op.need), state=state, stack=PAUSED[op.need])
