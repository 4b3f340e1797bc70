"""On which NUMA nodes the memory of a process lies, and on which its threads may run (`schema.COUNTERS`).

Mirrors fs/proc/task_mmu.c (numa_maps) and drivers/base/node.c. numa_maps stalls a process while it is read, as
smaps_rollup does, so it is read once, and only on hosts that have several nodes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from culpa.collect.procfs import read_text

NODES: Final = "devices/system/node"
MAX_NODES: Final = 1024
_ON_NODE: Final = re.compile(r"\bN(\d+)=(\d+)")
_PAGE_KB: Final = re.compile(r"\bkernelpagesize_kB=(\d+)")
SMALLEST_PAGE_KB: Final = 4


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
