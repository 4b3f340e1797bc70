"""Counters, gauges and devices of the host, and those of the control groups and network namespaces of the target.

Text parsers mirror fs/proc/stat.c, mm/vmstat.c, block/genhd.c, net/ipv4/proc.c and kernel/sched/psi.c. Values stay in
the unit the file has; a file the kernel does not have gives no rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from culpa.capture.manifest import Host
from culpa.capture.schema import COUNTERS
from culpa.collect import numa
from culpa.collect.cgroups import UNIFIED, Hierarchies, read_membership
from culpa.collect.memoryusers import held_by_all, memory_users
from culpa.collect.ownuse import OwnUse
from culpa.collect.procfs import PROC, namespace_inode, own_pid, read_text
from culpa.collect.room import room_left
from culpa.units import NS_PER_SECOND, printable

POLL_EVERY_NS = NS_PER_SECOND
MAX_COUNTERS = 1_000_000
MAX_GROUPS = 64
MAX_NAMESPACES = 16
NO_LIMIT_V1 = 1 << 60
"""Version 1 writes a page-aligned LONG_MAX where there is no memory limit."""

LITTLE_MEMORY = 0.1
"""Of the host's memory, available."""
SOON_LITTLE = 2 * LITTLE_MEMORY
"""With no more than that it may run short while one watches, and who grows is told by what each held at first."""

_CPU_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
_DISK_FIELDS = (
    "reads", "reads_merged", "sectors_read", "read_ms", "writes", "writes_merged", "sectors_written", "write_ms",
    "in_flight", "io_ms", "weighted_io_ms", "discards", "discards_merged", "sectors_discarded", "discard_ms",
    "flushes", "flush_ms",
)  # fmt: skip
"""Documentation/admin-guide/iostats.rst; 11 fields before Linux 4.18, 15 before 5.5."""
_MEMINFO = frozenset(
    {
        "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active(file)", "Inactive(file)",
        "SwapTotal", "SwapFree", "Dirty", "Writeback", "AnonPages", "AnonHugePages", "Shmem", "SReclaimable",
        "CommitLimit", "Committed_AS",
    }
)  # fmt: skip
_VMSTAT = (
    "pswpin", "pswpout", "pgmajfault", "pgfault", "pgpgin", "pgpgout", "pgscan_direct", "pgsteal_direct", "allocstall",
    "pgscan_kswapd", "compact_stall", "compact_fail", "thp_split", "thp_fault", "thp_collapse", "workingset_refault",
    "drop_pagecache", "oom_kill", "nr_dirty", "nr_dirtied", "nr_written", "nr_writeback", "nr_foll_pin",
)  # fmt: skip
_NET = frozenset(
    {
        "RetransSegs", "OutSegs", "InSegs", "AttemptFails", "EstabResets", "InErrs", "CurrEstab", "PassiveOpens",
        "ListenOverflows", "ListenDrops", "TCPTimeouts", "TCPLostRetransmit", "TCPSynRetrans", "TCPBacklogDrop",
        "TCPRcvQDrop", "TCPZeroWindowDrop", "TCPAbortOnMemory", "TCPReqQFullDrop",
    }
)  # fmt: skip
_SETTINGS = (
    "vm/dirty_ratio", "vm/dirty_background_ratio", "vm/dirty_bytes", "vm/dirty_background_bytes",
    "vm/dirty_expire_centisecs", "vm/dirty_writeback_centisecs", "vm/overcommit_memory", "vm/swappiness",
    "net/core/somaxconn",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """One value of one file: `object` is a device, CPU, namespace or control group, empty for the host."""

    source: str
    object: str
    field: str
    value: float


def parse_proc_stat(text: str) -> Iterator[Counter]:
    """CPU times in ticks, for all CPUs (object empty) and each (`cpu0`); switches, forks, runnable and blocked."""
    for line in text.split("\n"):
        name, *values = line.split() or [""]
        if name.startswith("cpu"):
            who = "" if name == "cpu" else name
            for field, value in zip(_CPU_FIELDS, values, strict=False):
                yield Counter(source="/proc/stat", object=who, field=field, value=float(value))
        elif name in {"ctxt", "processes", "procs_running", "procs_blocked"}:
            yield Counter(source="/proc/stat", object="", field=name, value=float(values[0]))


def parse_meminfo(text: str) -> Iterator[Counter]:
    """Gauges in kB."""
    for line in text.split("\n"):
        name, _, rest = line.partition(":")
        if name in _MEMINFO:
            yield Counter(source="/proc/meminfo", object="", field=name, value=float(rest.split()[0]))


def parse_vmstat(text: str) -> Iterator[Counter]:
    """Events since boot, pages for `nr_` names; with the per-zone variants that kernels spell differently."""
    for line in text.split("\n"):
        name, _, value = line.partition(" ")
        if name.startswith(_VMSTAT):
            yield Counter(source="/proc/vmstat", object="", field=name, value=float(value))


def parse_pressure(text: str, source: str, who: str = "") -> Iterator[Counter]:
    """`some.total` and `full.total` in microseconds, `some.avg10` and so on in percent."""
    for line in text.split("\n"):
        kind, *pairs = line.split() or [""]
        for pair in pairs:
            name, _, value = pair.partition("=")
            yield Counter(source=source, object=who, field=f"{kind}.{name}", value=float(value))


def parse_diskstats(text: str, whole: frozenset[str]) -> Iterator[Counter]:
    """Counters of whole devices that were used since boot; partitions and idle loop devices are left out."""
    for line in text.split("\n"):
        words = line.split()
        if len(words) >= 14 and words[2] in whole and any(word != "0" for word in words[3:]):
            for field, value in zip(_DISK_FIELDS, words[3:], strict=False):
                yield Counter(source="/proc/diskstats", object=words[2], field=field, value=float(value))


def parse_net_counters(text: str, source: str, who: str = "") -> Iterator[Counter]:
    """/proc/net/snmp and netstat: a line of names, then a line of values with the same prefix."""
    lines = text.split("\n")
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        prefix = names.partition(":")[0]
        if prefix in {"Tcp", "TcpExt"} and values.startswith(f"{prefix}:"):
            for name, value in zip(names.split()[1:], values.split()[1:], strict=False):
                if name in _NET:
                    yield Counter(source=source, object=who, field=name, value=float(value))


def parse_flat(text: str, source: str, who: str) -> Iterator[Counter]:
    """`NAME VALUE` lines of cpu.stat, memory.events and their like."""
    for line in text.split("\n"):
        name, _, value = line.partition(" ")
        if value.isdecimal():
            yield Counter(source=source, object=who, field=name, value=float(value))


def parse_limits(text: str, source: str, who: str, field: str) -> Iterator[Counter]:
    """One limit file of a control group; a limit that is not set gives no row.

    `cpu.max` (`QUOTA PERIOD`), one number, or lines of io.max (`MAJ:MIN rbps=.. wiops=max`) and of blkio.throttle
    (`MAJ:MIN VALUE`), whose field names the device: `wiops 7:1`.
    """
    for line in text.split("\n"):
        words = line.split()
        if not words:
            continue
        if ":" in words[0]:
            for word in words[1:]:
                name, _, value = word.rpartition("=")
                if value.isdecimal():
                    yield Counter(source=source, object=who, field=f"{name or field} {words[0]}", value=float(value))
        elif words[0].isdecimal() and int(words[0]) < NO_LIMIT_V1:
            yield Counter(source=source, object=who, field=field, value=float(words[0]))
            if len(words) == 2 and words[1].isdecimal():
                yield Counter(source=source, object=who, field="period", value=float(words[1]))


def parse_swaps(text: str) -> Iterator[Counter]:
    """Size and use in kB, and the priority, of each area in use; its device or file is the object (mm/swapfile.c)."""
    for line in text.split("\n")[1:]:
        words = line.rsplit(maxsplit=4)
        if len(words) == 5:
            for field, value in zip(("Size", "Used", "Priority"), words[2:], strict=True):
                yield Counter(source="/proc/swaps", object=printable(words[0]), field=field, value=float(value))


def parse_uptime(text: str) -> float:
    """Seconds since boot."""
    return float(text.split()[0])


_GROUP_FLAT = {UNIFIED: ("cpu.stat", "memory.events"), "cpu": ("cpu.stat",), "memory": ("memory.oom_control",)}
_UNRECLAIMABLE = frozenset({"anon", "shmem", "total_rss", "total_shmem"})
"""Of memory.stat: what cannot be dropped as the page cache can, in version 2 and, with its children's, in version 1."""
_GROUP_LIMITS = {
    UNIFIED: ("cpu.max", "memory.high", "memory.max", "memory.current", "memory.swap.current", "io.max"),
    "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.failcnt"),
    "blkio": (
        "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device", "blkio.throttle.read_iops_device",
        "blkio.throttle.write_iops_device",
    ),
}  # fmt: skip
_GROUP_PRESSURE = {UNIFIED: ("cpu.pressure", "io.pressure", "memory.pressure")}


def group_counters(directory: Path, controller: str) -> Iterator[Counter]:
    """What the files of one control group say; `source` is the file, `object` the group's directory."""
    who = str(directory)
    for name in _GROUP_FLAT.get(controller, ()):
        yield from parse_flat(read_text(directory / name) or "", f"{directory}/{name}", who)
    if controller in (UNIFIED, "memory"):
        stat = parse_flat(read_text(directory / "memory.stat") or "", f"{directory}/memory.stat", who)
        yield from (counter for counter in stat if counter.field in _UNRECLAIMABLE)
    for name in _GROUP_LIMITS.get(controller, ()):
        yield from parse_limits(read_text(directory / name) or "", f"{directory}/{name}", who, name)
    for name in _GROUP_PRESSURE.get(controller, ()):
        yield from parse_pressure(read_text(directory / name) or "", f"{directory}/{name}", who)


class HostCounters:
    """Reads all counters at start, at most once a second on `poll`, and at the end.

    `numa_maps`: whether to read where their memory lies, which holds a process up; somebody else may do so already.
    """

    def __init__(
        self, pids: Iterable[int] = (), *, numa_maps: bool = True, proc_root: Path = PROC, sys_root: Path = Path("/sys")
    ) -> None:
        self._numa_maps = numa_maps
        self._root = proc_root
        self._sys = sys_root
        self._pids = sorted(set(pids))
        self._groups: dict[tuple[str, Path], None] = {}
        self._namespaces: dict[int, int] = {}
        self._own = OwnUse(proc_root)
        self._rows: list[tuple[int, Counter]] = []
        self._next_ns = 0
        self._held_kb: dict[int, float] = {}
        self.users: frozenset[int] = frozenset()
        """Processes whose memory was looked at."""

    def start(self) -> None:
        """Find the target's groups and namespaces, and read everything for the first time."""
        hierarchies = Hierarchies.read(self._root)
        own = namespace_inode(self._root, own_pid(), "net")
        for pid in self._pids:
            self._find_groups(hierarchies, pid)
            inode = namespace_inode(self._root, pid, "net")
            if inode is not None and inode != own and len(self._namespaces) < MAX_NAMESPACES:
                self._namespaces.setdefault(inode, pid)
        self._read(settings=True)
        if self._memory_is_short(SOON_LITTLE):
            self._held_kb = held_by_all(self._root)

    def poll(self) -> None:
        """Read again, if a second has passed."""
        if time.monotonic_ns() >= self._next_ns:
            self._read()

    def stop(self) -> pl.DataFrame:
        """Read a last time; every value as `schema.COUNTERS`."""
        self._read()
        self._rows += [(self._rows[-1][0], counter) for counter in self._room()]
        self._read_users()
        asked = self._pids if self._numa_maps else ()
        found = numa.of_processes(asked, proc_root=self._root, sys_root=self._sys)
        now = self._rows[-1][0]
        self._rows += [
            (now, Counter(source=source, object=who, field=field, value=value)) for source, who, field, value in found
        ]
        return COUNTERS.frame(
            {
                "ts_ns": [ts for ts, _ in self._rows],
                "source": [counter.source for _, counter in self._rows],
                "object": [counter.object for _, counter in self._rows],
                "field": [counter.field for _, counter in self._rows],
                "value": [counter.value for _, counter in self._rows],
            }
        )

    def _find_groups(self, hierarchies: Hierarchies, pid: int) -> None:
        membership = read_membership(self._root, pid)
        for controller, path in membership.paths.items() if membership else ():
            if controller in _GROUP_LIMITS:
                for directory in hierarchies.directories(controller, path):
                    if len(self._groups) < MAX_GROUPS:
                        self._groups[controller, directory] = None

    def _read(self, *, settings: bool = False) -> None:
        now = time.monotonic_ns()
        self._next_ns = now + POLL_EVERY_NS
        if len(self._rows) < MAX_COUNTERS:
            self._rows += [(now, counter) for counter in self._counters()]
        if settings:
            self._rows += [(now, counter) for counter in self._settings()]
            self._rows += [(now, counter) for counter in self._room()]

    def _read_users(self) -> None:
        """Who holds the memory by now, where there is reason to ask, and how much of it they held at first."""
        found = memory_users(self._pids, is_short=self._memory_is_short(LITTLE_MEMORY), proc_root=self._root)
        self.users |= {user.pid for user in found}
        first, now = self._rows[0][0], self._rows[-1][0]
        for user in found:
            told = [(now, "VmRSS", user.resident_kb), (now, "VmSwap", user.swapped_kb)]
            if user.pid in self._held_kb:
                told.append((first, "VmRSS", self._held_kb[user.pid]))
            for ts_ns, field, value in told:
                counter = Counter(source=f"/proc/{user.pid}/status", object=str(user.pid), field=field, value=value)
                self._rows.append((ts_ns, counter))

    def _memory_is_short(self, share: float) -> bool:
        """Whether something lies in swap, or less than that share of the memory is available."""
        kb = {counter.field: counter.value for counter in parse_meminfo(self._text("meminfo"))}
        little = kb.get("MemAvailable", 0.0) < share * kb.get("MemTotal", 0.0)
        return little or kb.get("SwapFree", 0.0) < kb.get("SwapTotal", 0.0)

    def _counters(self) -> Iterator[Counter]:
        yield from parse_proc_stat(self._text("stat"))
        for cpu, ticks in self._own.look().items():
            yield Counter(source="culpa", object=f"cpu{cpu}", field="ticks", value=float(ticks))
        yield from parse_meminfo(self._text("meminfo"))
        yield from parse_vmstat(self._text("vmstat"))
        yield from parse_swaps(self._text("swaps"))
        yield from parse_diskstats(self._text("diskstats"), self._whole_devices())
        for resource in ("cpu", "io", "memory"):
            yield from parse_pressure(self._text(f"pressure/{resource}"), f"/proc/pressure/{resource}")
        for name in ("snmp", "netstat"):
            yield from parse_net_counters(self._text(f"self/net/{name}"), f"/proc/net/{name}")
            for inode, pid in self._namespaces.items():
                text = self._text(f"{pid}/net/{name}")
                yield from parse_net_counters(text, f"/proc/{pid}/net/{name}", f"net:[{inode}]")
        for controller, directory in self._groups:
            yield from group_counters(directory, controller)

    def _settings(self) -> Iterator[Counter]:
        for name in _SETTINGS:
            value = self._text(f"sys/{name}").strip()
            if value.isdecimal():
                yield Counter(source=f"/proc/sys/{name}", object="", field=name.rpartition("/")[2], value=float(value))

    def _room(self) -> Iterator[Counter]:
        for room in room_left(self._pids, self._root):
            for field, value in room.fields():
                yield Counter(source=room.source, object=room.point, field=field, value=value)

    def _text(self, name: str) -> str:
        return read_text(self._root / name) or ""

    def _whole_devices(self) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self._sys / "block"))  # noqa: PTH208 - names are all that is wanted
        except OSError:
            return frozenset()


def host_facts(proc_root: Path = PROC) -> Host:
    """The host, for the manifest."""
    memory = {counter.field: counter.value for counter in parse_meminfo(read_text(proc_root / "meminfo") or "")}
    name = os.uname()
    return Host(
        kernel=name.release,
        machine=name.machine,
        cpus=os.cpu_count() or 1,
        memory_bytes=int(memory.get("MemTotal", 0)) * 1024,
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        ticks_per_second=os.sysconf("SC_CLK_TCK"),
    )
