"""The fixes as data: what each may set to which values, what that does, what it costs, what it needs.

A fix that is not here is one for a person: a change of a program, of a disk, of a limit whose right value no finding
tells. Names of Redis settings are those of redis.conf; of the kernel's, those of Documentation/admin-guide/sysctl.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from culpa.fix.values import CPU_LIST, SAVE_POINTS, Values, number, words

Kind = Literal["redis", "kernel", "cpus", "io", "nice", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One fix. `settings` are the names it may set, each with its values; those of a process have one name."""

    id: str
    kind: Kind
    settings: Mapping[str, Values]
    does: str
    costs: str
    loses: str = ""
    """What data may be lost because of it."""
    derived_from: tuple[tuple[str, str], ...] = ()
    """Causes and fixes (in words) which it goes with, where no rule names it by itself: the cause names the process,
    or the control group.
    """


_YES: Final = words("yes")
_LATER: Final = "memory comes back a little later than the command that frees it"
_NEEDS_ROOM: Final = "more unwritten data is lost on a power failure, and a later sync takes longer"
_BYTES: Final = number(1 << 20, 1 << 40)
_PERCENT: Final = number(1, 90)


def _redis(id: str, *names: str, values: Values = _YES, does: str, costs: str, loses: str = "") -> Remedy:
    return Remedy(id=id, kind="redis", settings=dict.fromkeys(names, values), does=does, costs=costs, loses=loses)


def _kernel(id: str, settings: Mapping[str, Values], *, does: str, costs: str, loses: str = "") -> Remedy:
    return Remedy(id=id, kind="kernel", settings=settings, does=does, costs=costs, loses=loses)


_AT_THE_DISK: Final = ("disk.neighbour", "neighbour-io-limit")
LIFTED: Final = "max"
"""A limit of a control group that is none."""

REMEDIES: Final[tuple[Remedy, ...]] = (
    _redis(
        "redis-appendfsync-everysec", "appendfsync", values=words("everysec"),
        does="Redis answers writes without waiting for the disk, which is synced once a second in the background",
        costs="nothing in speed",
        loses="a power failure or a crash of the kernel may lose the writes of the last one or two seconds, which "
        "clients were told are done; a crash of Redis alone loses none",
    ),
    _redis(
        "redis-no-appendfsync-on-rewrite", "no-appendfsync-on-rewrite",
        does="the append-only file is not synced while a child saves or rewrites, so that writes do not wait behind it",
        costs="nothing in speed",
        loses="a power failure during a save or rewrite may lose all that was written since it began",
    ),
    _redis(
        "redis-save-rarely", "save", values=SAVE_POINTS,
        does="Redis saves its keys to a file by itself, or less often than before",
        costs="each save is a fork and a file of all keys; one may begin at once",
        loses="after a crash, what was changed since the last save",
    ),
    _redis(
        "redis-incremental-fsync", "rdb-save-incremental-fsync", "aof-rewrite-incremental-fsync",
        does="a save is synced in small steps instead of all at its end", costs="a save takes a little longer",
    ),
    _redis(
        "redis-lazyfree-user-del", "lazyfree-lazy-user-del",
        does="DEL frees large keys in a background thread, as UNLINK does", costs=_LATER,
    ),
    _redis(
        "redis-lazyfree-user-flush", "lazyfree-lazy-user-flush",
        does="FLUSHALL and FLUSHDB free the keys in a background thread", costs=_LATER,
    ),
    _redis(
        "redis-lazyfree-expire", "lazyfree-lazy-expire",
        does="keys that expire are freed in a background thread", costs=_LATER,
    ),
    _redis(
        "redis-lazyfree-eviction", "lazyfree-lazy-eviction",
        does="keys that are evicted are freed in a background thread",
        costs=f"{_LATER}, so that it may rise above maxmemory for a moment",
    ),
    _redis(
        "redis-replica-lazy-flush", "replica-lazy-flush",
        does="a replica frees its old keys in a background thread before it loads new ones",
        costs="it holds old and new keys at once for a while",
    ),
    _redis(
        "redis-hz", "hz", values=number(11, 500),
        does="expired keys are looked for more often and in smaller steps", costs="a little more CPU when it is idle",
    ),
    _redis(
        "redis-defrag-gently", "active-defrag-cycle-max", values=number(1, 24),
        does="active defragmentation takes less of the main thread's time at once",
        costs="fragmented memory comes back more slowly",
    ),
    _redis(
        "redis-aof-rewrite-later", "auto-aof-rewrite-min-size", values=_BYTES,
        does="the append-only file is not rewritten before it is so long", costs="the file grows longer, and a restart",
    ),
    _redis(
        "redis-aof-rewrite-rarely", "auto-aof-rewrite-percentage", values=number(50, 10_000),
        does="the append-only file is not rewritten before it has grown by so much",
        costs="the file grows longer, and a restart",
    ),
    _redis(
        "redis-repl-backlog", "repl-backlog-size", values=_BYTES,
        does="a replica that was away goes on where it stopped, and takes no full copy", costs="so much memory",
    ),
    _redis(
        "redis-monitor-on", "latency-monitor-threshold", values=number(1, 10_000),
        does="Redis notes what takes long in its own main thread", costs="nothing that can be measured",
    ),
    _redis(
        "redis-slowlog-on", "slowlog-log-slower-than", values=number(100, 10_000_000),
        does="Redis notes commands that take long", costs="nothing that can be measured",
    ),
    _kernel(
        "dirty-background",
        {"vm.dirty_background_bytes": _BYTES, "vm.dirty_background_ratio": _PERCENT},
        does="the kernel begins to write to disk when less is unwritten, in more and smaller portions",
        costs="more writes; data that is soon deleted again is written nevertheless",
    ),
    _kernel(
        "dirty-limits",
        {"vm.dirty_bytes": _BYTES, "vm.dirty_ratio": _PERCENT},
        does="programs may have more unwritten data before the kernel makes them wait", costs=_NEEDS_ROOM,
        loses="on a power failure, more of what programs wrote without a sync",
    ),
    _kernel(
        "swappiness-low", {"vm.swappiness": number(0, 60)},
        does="under pressure the kernel takes from the page cache before it swaps programs out",
        costs="files are read from disk again sooner; what is in swap stays there until it is touched",
    ),
    _kernel(
        "overcommit", {"vm.overcommit_memory": words("1")},
        does="a fork for a save is never refused for want of memory",
        costs="where memory runs out, the kernel kills a process instead of refusing one",
    ),
    _kernel(
        "somaxconn", {"net.core.somaxconn": number(1, 65_535)},
        does="more new connections may wait until a server accepts them",
        costs="nothing; a server takes it up when it is started the next time",
    ),
    _kernel(
        "redis-no-thp", {"transparent_hugepage/enabled": words("madvise", "never")},
        does="programs get huge pages only where they ask for them, so that a save copies less",
        costs="fork takes longer without huge pages; those that exist stay until their program is restarted",
    ),
    Remedy(
        id="redis-both-siblings", kind="cpus", settings={"CPUs": CPU_LIST},
        does="all threads of the process may run on these CPUs",
        costs="its threads share caches with whatever runs there",
    ),
    Remedy(
        id="cpu-widen-affinity", kind="cpus", settings={"CPUs": CPU_LIST},
        does="all threads of the process may run on these CPUs",
        costs="its threads leave warm caches now and then, and share CPUs with whatever runs there",
    ),
    Remedy(
        id="cpu-renice-neighbour", kind="nice", settings={"nice": number(1, 19)},
        does="the process gets less CPU while others want it, all threads of it",
        costs="it takes longer itself",
    ),
    Remedy(
        id="neighbour-ionice", kind="io", settings={"I/O class": words("idle", "best-effort 7")},
        derived_from=(_AT_THE_DISK,),
        does="the disk serves the process, all threads of it, when nobody else wants it",
        costs="it takes longer itself, and may come to a halt on a busy disk",
    ),
    Remedy(
        id="cpu-quota-lift", kind="group", settings={"CPU quota": words(LIFTED)},
        derived_from=(("cpu.cgroup-quota", "cpu-raise-quota"), ("redis.cpu.quota", "cpu-raise-quota")),
        does="the control group is no longer stopped when it has used up its share of the period",
        costs="it may take all CPUs, from its neighbours too",
    ),
    Remedy(
        id="io-limit-lift", kind="group", settings={"I/O limit": words(LIFTED)},
        derived_from=(("disk.cgroup-throttle", "io-limit-raise"),),
        does="the control group may read from and write to that disk as fast as that goes",
        costs="others who use the disk get less of it",
    ),
    Remedy(
        id="neighbour-cpu-weight", kind="group", settings={"CPU weight": number(1, 100)},
        derived_from=(("cpu.runqueue", "cpu-renice-neighbour"),),
        does="the control group of the process gets a tenth of a usual share of the CPUs while others want them",
        costs="all processes of that group take longer",
    ),
    Remedy(
        id="neighbour-io-weight", kind="group", settings={"I/O weight": number(1, 100)}, derived_from=(_AT_THE_DISK,),
        does="the control group of the process gets a tenth of a usual share of the disk while others want it",
        costs="all processes of that group take longer",
    ),
    Remedy(
        id="neighbour-io-max", kind="group", settings={"I/O limit": _BYTES}, derived_from=(_AT_THE_DISK,),
        does="the control group of the process reads and writes so many bytes a second on that disk, and no more; "
        "under version 1 of control groups only what it writes past the page cache counts",
        costs="all processes of that group take longer, also while nobody else wants the disk",
    ),
)  # fmt: skip

IDLE: Final = "idle"
"""What a process is set to by `neighbour-ionice`."""
GIVEN: Final = {"CPU quota": LIFTED, "CPU weight": "10", "I/O weight": "10"}
"""What a control group is set to: weights of 1 to 10,000, of which 100 is usual."""
HELD_TO: Final = {"io-limit-lift": LIFTED, "neighbour-io-max": str(4 << 20)}
"""What a disk is limited to: some requests of a slow disk in each tenth of a second."""
GROUP_FILES: Final = frozenset({
    "cpu.max", "cpu.weight", "io.max", "io.weight", "io.bfq.weight", "cpu.cfs_quota_us", "cpu.shares",
    "blkio.bfq.weight", "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device",
})  # fmt: skip
"""Files of a control group that a record may name."""
_BY_ID: Final = {remedy.id: remedy for remedy in REMEDIES}


def remedy(id: str) -> Remedy | None:
    """The fix of that id; None where culpa cannot apply one."""
    return _BY_ID.get(id)


def names_of(kind: Kind) -> frozenset[str]:
    """Every setting that a fix of that kind may set: what a record on disk may name."""
    return frozenset(name for one in REMEDIES if one.kind == kind for name in one.settings)
