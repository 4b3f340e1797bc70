"""The records of the probes as numpy dtypes, field for field as bpf/events.h; a test compares the two.

Little-endian, like every architecture culpa's wheels exist for. Times are CLOCK_MONOTONIC ns, 0 is "not known".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

PAYLOAD_BYTES: Final = 256
SHORT_BYTES: Final = 48
PATH_BYTES: Final = 1024
UNIX_PATH_BYTES: Final = 112
SLICE_BYTES: Final = 8192
REGISTERS: Final = 34

LANE: Final = np.dtype([("head", "<u8"), ("tail", "<u8"), ("lost", "<u8"), ("pad", "<u8", (5,))])
OFFCPU_EVENT: Final = np.dtype(
    [
        ("position", "<u4"), ("pad", "<u4"), ("off_ns", "<u8"), ("wake_ns", "<u8"), ("on_ns", "<u8"), ("tid", "<u4"),
        ("pid", "<u4"), ("state", "<i4"), ("stack_id", "<i4"), ("waker_tid", "<u4"), ("waker_pid", "<u4"),
        ("prev_tid", "<u4"), ("cpu", "<u4"),
    ]
)  # fmt: skip
SYSCALL_EVENT: Final = np.dtype(
    [
        ("position", "<u4"), ("nr", "<i4"), ("enter_ns", "<u8"), ("exit_ns", "<u8"), ("ret", "<i8"),
        ("arg", "<u8", (3,)), ("ino", "<u8"), ("tid", "<u4"), ("pid", "<u4"), ("dev", "<u4"), ("mode", "<u2"),
        ("killed", "u1"), ("captured", "u1"), ("payload", "u1", (SHORT_BYTES,)),
    ]
)  # fmt: skip
CALL_BYTES: Final = SYSCALL_EVENT.itemsize - SHORT_BYTES
CALL: Final = np.dtype(
    {
        "names": [name for name in SYSCALL_EVENT.fields or () if name != "payload"],
        "formats": [place[0] for name, place in (SYSCALL_EVENT.fields or {}).items() if name != "payload"],
        "offsets": [place[1] for name, place in (SYSCALL_EVENT.fields or {}).items() if name != "payload"],
        "itemsize": CALL_BYTES,
    }
)
"""A SYSCALL_EVENT without the bytes of its message."""
MESSAGE_EVENT: Final = np.dtype(
    [
        ("enter_ns", "<u8"), ("exit_ns", "<u8"), ("ino", "<u8"), ("bytes", "<i8"), ("tid", "<u4"), ("pid", "<u4"),
        ("outgoing", "<u4"), ("captured", "<u4"), ("payload", "u1", (PAYLOAD_BYTES,)),
    ]
)  # fmt: skip
BLOCK_EVENT: Final = np.dtype(
    [
        ("queued_ns", "<u8"), ("issue_ns", "<u8"), ("complete_ns", "<u8"), ("sector", "<u8"), ("ino", "<u8"),
        ("dev", "<u4"), ("bytes", "<u4"), ("flags", "<u4"), ("tid", "<u4"), ("pid", "<u4"), ("ino_dev", "<u4"),
        ("generation", "<u4"), ("pad", "<u4"),
    ]
)  # fmt: skip
PART_EVENT: Final = np.dtype(
    [
        ("issue_ns", "<u8"), ("sector", "<u8"), ("ino", "<u8"), ("dev", "<u4"), ("ino_dev", "<u4"),
        ("generation", "<u4"), ("bytes", "<u4"),
    ]
)  # fmt: skip
DIRTIED_EVENT: Final = np.dtype(
    [
        ("from_ns", "<u8"), ("to_ns", "<u8"), ("ino", "<u8"), ("bytes", "<u8"), ("generation", "<u4"), ("dev", "<u4"),
        ("disk", "<u4"), ("tid", "<u4"), ("pid", "<u4"), ("kernel", "<u4"), ("comm", "u1", (16,)),
    ]
)  # fmt: skip
"""Pages that were dirtied, or that left the page cache, or space that was given back: its ring says which."""
DIRT: Final = np.dtype([("inode", "<u8"), ("sum", DIRTIED_EVENT)])
"""What a thread has dirtied of an inode, or taken out of the cache, since the last DIRTIED_EVENT of the two."""
THROTTLE_EVENT: Final = np.dtype(
    [
        ("ts_ns", "<u8"), ("pause_ticks", "<u8"), ("dirty", "<u8"), ("limit", "<u8"), ("background_limit", "<u8"),
        ("disk_dirty", "<u8"), ("disk_limit", "<u8"), ("disk", "<u4"), ("tid", "<u4"), ("pid", "<u4"), ("pad", "<u4"),
    ]
)  # fmt: skip
SOCKET_EVENT: Final = np.dtype(
    [
        ("ino", "<u8"), ("peer_ino", "<u8"), ("netns", "<u4"), ("pid", "<u4"), ("family", "<u2"), ("type", "<u2"),
        ("local_port", "<u2"), ("peer_port", "<u2"), ("state", "<u4"), ("path_bytes", "<u4"),
        ("local_addr", "u1", (16,)), ("peer_addr", "u1", (16,)), ("path", "u1", (UNIX_PATH_BYTES,)),
    ]
)  # fmt: skip
TASK_EVENT: Final = np.dtype(
    [
        ("ts_ns", "<u8"), ("tid", "<u4"), ("pid", "<u4"), ("ppid", "<u4"), ("kind", "<u2"), ("kernel", "<u2"),
        ("comm", "u1", (16,)),
    ]
)  # fmt: skip
FILE_EVENT: Final = np.dtype(
    [
        ("ino", "<u8"), ("dev", "<u4"), ("tid", "<u4"), ("pid", "<u4"), ("fd", "<u4"), ("mnt_ns", "<u4"),
        ("path_bytes", "<u4"), ("whole", "<u4"), ("within", "<u4"), ("fs_type", "u1", (16,)),
        ("path", "u1", (PATH_BYTES,)),
    ]
)  # fmt: skip
USER_STACK_EVENT: Final = np.dtype(
    [
        ("at_ns", "<u8"), ("tid", "<u4"), ("pid", "<u4"), ("running", "<u4"), ("captured", "<u4"),
        ("registers", "<u8", (REGISTERS,)), ("slice", "u1", (SLICE_BYTES,)),
    ]
)  # fmt: skip
ASYNC_EVENT: Final = np.dtype(
    [
        ("submit_ns", "<u8"), ("complete_ns", "<u8"), ("ring", "<u8"), ("ino", "<u8"), ("ret", "<i8"), ("tid", "<u4"),
        ("pid", "<u4"), ("dev", "<u4"), ("ender_tid", "<u4"), ("mode", "<u2"), ("op", "u1"), ("by_iocb", "u1"),
        ("pad", "<u4"),
    ]
)  # fmt: skip
RETRANSMIT_EVENT: Final = np.dtype(
    [
        ("at_ns", "<u8"), ("ino", "<u8"), ("timeout_ticks", "<u4"), ("round_trip_us", "<u4"), ("by_timer", "<u4"),
        ("connecting", "<u4"),
    ]
)  # fmt: skip
THREAD_STATE: Final = np.dtype(
    [
        ("off_ns", "<u8"), ("wake_ns", "<u8"), ("enter_ns", "<u8"), ("arg", "<u8", (3,)), ("ino", "<u8"),
        ("seen_ino", "<u8"), ("seen_dev", "<u4"), ("dev", "<u4"), ("mode", "<u4"), ("pid", "<u4"), ("nr", "<i4"),
        ("state", "<i4"), ("stack_id", "<i4"), ("waker_tid", "<u4"), ("waker_pid", "<u4"), ("depth", "<u4"),
        ("tid", "<u4"), ("slot", "<u4"), ("waited_ns", "<u8"), ("wait_middle_ns", "<u8"), ("tick_ns", "<u8"),
    ]
)  # fmt: skip
THREAD_SUM: Final = np.dtype(
    [
        ("since_ns", "<u8"), ("off_ns", "<u8"), ("run_delay", "<u8"), ("ns", "<u8", (4,)), ("count", "<u4", (4,)),
        ("tid", "<u4"), ("pid", "<u4"), ("activity", "<u4"), ("on_cpu", "<u4"),
    ]
)  # fmt: skip
ACTIVITIES: Final = ("running", "runnable", "blocked", "sleeping")
"""enum activity."""
CALL_SUM: Final = np.dtype(
    [
        ("ino", "<u8"), ("count", "<u8"), ("total_ns", "<u8"), ("longest_ns", "<u8"), ("tid", "<u4"), ("pid", "<u4"),
        ("nr", "<i4"), ("dev", "<u4"), ("mode", "<u4"), ("pad", "<u4"),
    ]
)  # fmt: skip
STATE_FRAMES: Final = 24
STATE_EVENT: Final = np.dtype(
    [
        ("now_ns", "<u8"), ("arrival_ns", "<u8"), ("ino", "<u8"), ("arg", "<u8", (3,)),
        ("frame", "<u8", (STATE_FRAMES,)), ("tid", "<u4"), ("pid", "<u4"), ("state", "<i4"), ("nr", "<i4"),
        ("dev", "<u4"), ("mode", "<u4"),
    ]
)  # fmt: skip
WATCH_STATE: Final = np.dtype([("depth", "<u4"), ("excluded", "<u2"), ("grown", "<u2")])
NR_MAX: Final = 512
THREADS_MAX: Final = 16384
DIRT_SLOTS: Final = 512
CALL_SUMS: Final = 32768
SETTINGS: Final = np.dtype(
    [
        ("follow_wakers", "<u4"), ("max_depth", "<u4"), ("max_grown", "<u4"), ("switch_has_state", "<u4"),
        ("issue_has_queue", "<u4"), ("block_start_seen", "<u4"), ("offcpu_slots", "<u4"), ("syscall_slots", "<u4"),
        ("page_bytes", "<u4"), ("throttle_has_control", "<u4"), ("submit_has_ring", "<u4"),
        ("complete_has_request", "<u4"), ("complete_has_cqe", "<u4"), ("pad", "<u4"), ("async_on_file", "<u8"),
        ("stack_period_ns", "<u8"), ("call_kind", "<u2", (NR_MAX,)),
    ]
)  # fmt: skip
COUNTERS: Final = np.dtype(
    [
        ("paused", "<u4"), ("slots", "<u4"), ("lost", "<u8", (15,)), ("grown", "<u8"), ("refused", "<u8"),
        ("sums_from_ns", "<u8"), ("unsummed", "<u8"), ("narrow", "<u8"), ("unread_iocbs", "<u8"),
    ]
)  # fmt: skip
PAUSED, SUMMING = 1, 2
"""enum pause."""

TASK_UNINTERRUPTIBLE, TASK_NOLOAD = 0x2, 0x400
TASK_EXEC: Final = 2
TASK_EXIT: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSpec:
    """One ring: the name of its map, what it carries, and its size (a power of two pages)."""

    map_name: str
    event: np.dtype[np.void]
    size: int
    counted: bool = True
    """Its records count as events (paths and names are by-products)."""


OFFCPU, SYSCALLS, MESSAGES, BLOCKS, SOCKETS, TASKS, FILES, PARTS, DIRTIED, THROTTLES = range(10)
USER_STACKS, ASYNC, RETRANSMITS, UNCACHED, FREED = range(10, 15)
"""enum ring_id."""

RINGS: Final = {
    MESSAGES: RingSpec(map_name="messages_ring", event=MESSAGE_EVENT, size=1 << 23),
    BLOCKS: RingSpec(map_name="blocks_ring", event=BLOCK_EVENT, size=1 << 20),
    SOCKETS: RingSpec(map_name="sockets_ring", event=SOCKET_EVENT, size=1 << 20, counted=False),
    TASKS: RingSpec(map_name="tasks_ring", event=TASK_EVENT, size=1 << 20, counted=False),
    FILES: RingSpec(map_name="files_ring", event=FILE_EVENT, size=1 << 21, counted=False),
    PARTS: RingSpec(map_name="parts_ring", event=PART_EVENT, size=1 << 20),
    DIRTIED: RingSpec(map_name="dirtied_ring", event=DIRTIED_EVENT, size=1 << 20),
    UNCACHED: RingSpec(map_name="uncached_ring", event=DIRTIED_EVENT, size=1 << 20),
    FREED: RingSpec(map_name="freed_ring", event=DIRTIED_EVENT, size=1 << 18),
    THROTTLES: RingSpec(map_name="throttles_ring", event=THROTTLE_EVENT, size=1 << 18),
    ASYNC: RingSpec(map_name="async_ring", event=ASYNC_EVENT, size=1 << 21),
    RETRANSMITS: RingSpec(map_name="retransmits_ring", event=RETRANSMIT_EVENT, size=1 << 18),
    USER_STACKS: RingSpec(map_name="user_stacks_ring", event=USER_STACK_EVENT, size=1 << 20, counted=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LanesSpec:
    """One kind of frequent record: the prefix of its two maps, what they carry, and how many a CPU and all may hold."""

    name: str
    event: np.dtype[np.void]
    slots: int
    all_slots: int


LANES: Final = {
    OFFCPU: LanesSpec(name="offcpu", event=OFFCPU_EVENT, slots=1 << 16, all_slots=1 << 17),
    SYSCALLS: LanesSpec(name="syscall", event=SYSCALL_EVENT, slots=1 << 17, all_slots=1 << 18),
}
LEAST_SLOTS: Final = 1 << 12


def lane_slots(spec: LanesSpec, cpus: int) -> int:
    """Records in the lane of one CPU: fewer where there are many CPUs; a power of two."""
    share = max(spec.all_slots // cpus, LEAST_SLOTS)
    return min(spec.slots, 1 << (share.bit_length() - 1))
