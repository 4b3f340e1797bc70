"""A vault of many boxes in memory, for `serve.py`: `vault.py MEGABYTES BOXES SEED`.

/fill   puts something into every box; before that there is nothing to look at
/boxes  looks into BOXES boxes in no order, each on a page of its own
"""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable

PAGE = mmap.PAGESIZE
MEGABYTE = 1 << 20


def emptied(megabytes: int) -> mmap.mmap:
    """Memory of the process's own, in pages of the ordinary size: a huge page would be swapped as one."""
    vault = mmap.mmap(-1, megabytes * MEGABYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    vault.madvise(mmap.MADV_NOHUGEPAGE)
    return vault


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """What can be asked of the vault."""
    megabytes, count, chance = int(arguments[0]), int(arguments[1]), random.Random(int(arguments[2]))  # noqa: S311 - sample data
    vault = emptied(megabytes)

    def fill() -> str:
        for start in range(0, len(vault), MEGABYTE):
            vault[start : start + MEGABYTE] = os.urandom(MEGABYTE)
        return f"{len(vault)} bytes"

    def boxes() -> str:
        chosen = chance.sample(range(len(vault) // PAGE), count)
        return f"{sum(vault[number * PAGE] for number in chosen)} in {count} boxes"

    ways = {"fill": fill, "boxes": boxes}
    return lambda path: ways[path]() if path in ways else None
