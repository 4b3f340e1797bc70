"""On which NUMA nodes the memory of a process lies, and on which its threads may run (`schema.COUNTERS`).

Mirrors fs/proc/task_mmu.c (numa_maps) and drivers/base/node.c. numa_maps stalls a process while it is read, as
smaps_rollup does, so it is read once, and only on hosts that have several nodes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from culpa.collect.memoryusers import resident_kb
from culpa.collect.procfs import read_text
from culpa.units import parse_cpus

NODES: Final = "devices/system/node"
MAX_NODES: Final = 1024
_ON_NODE: Final = re.compile(r"\bN(\d+)=(\d+)")
_PAGE_KB: Final = re.compile(r"\bkernelpagesize_kB=(\d+)")
SMALLEST_PAGE_KB: Final = 4
LARGEST: Final = 4
"""So many processes are asked, the largest ones."""
MAX_RESIDENT_KB: Final = 8 << 20
"""Of a larger one the kernel would have to walk through too much while its memory map is held."""


def nodes(sys_root: Path) -> dict[int, str]:
    """The list of CPUs (`0-3,8`) of each node; empty where the kernel knows of none."""
    found = {}
    for path in sorted((sys_root / NODES).glob("node[0-9]*"))[:MAX_NODES]:
        number = path.name.removeprefix("node")
        if number.isdecimal() and path.is_dir():
            found[int(number)] = (read_text(path / "cpulist") or "").strip()
    return found


def held_kb(numa_maps: str, known: Collection[int]) -> Iterator[tuple[int, float]]:
    """What each node holds of a process (kB), of the nodes that are known; shared files count as well."""
    held = dict.fromkeys(known, 0.0)
    for line in numa_maps.split("\n"):
        size = _PAGE_KB.search(line)
        page_kb = int(size[1]) if size else SMALLEST_PAGE_KB
        for node, pages in _ON_NODE.findall(line):
            if int(node) in held:
                held[int(node)] += int(pages) * page_kb
    yield from sorted(held.items())


def of_processes(pids: Collection[int], *, proc_root: Path, sys_root: Path) -> Iterator[tuple[str, str, str, float]]:
    """What each node holds of the largest of these processes, and the node of each CPU; nothing where there is but one
    node.

    Returns:
        source, object, field and value, as in `schema.COUNTERS`.
    """
    cpus = nodes(sys_root)
    if len(cpus) < 2:
        return
    sizes = {pid: resident_kb(pid, proc_root) for pid in pids}
    asked = sorted((pid for pid in pids if 0 < sizes[pid] <= MAX_RESIDENT_KB), key=lambda pid: (-sizes[pid], pid))
    for pid in asked[:LARGEST]:
        source = f"/proc/{pid}/numa_maps"
        for node, kilobytes in held_kb(read_text(proc_root / str(pid) / "numa_maps") or "", cpus):
            yield source, f"node{node}", "held_kb", kilobytes
    for node, listed in cpus.items():
        for cpu in sorted(parse_cpus(listed) or ()):
            yield f"/sys/{NODES}", f"cpu{cpu}", "node", float(node)
