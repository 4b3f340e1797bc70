"""An atlas in one large file, mapped into memory, for `serve.py`: `atlas.py FILE PAGES SEED`.

/far    looks at PAGES pages in no order; what is looked at is not kept in memory, so each has to be read again
/near   looks at as many pages, which are kept
"""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable, Sequence

PAGE = mmap.PAGESIZE
PAGES_IN_ALL = 1 << 14


def make(file: str) -> None:
    """Write the atlas and let the page cache forget it."""
    with open(file, "wb") as out:  # noqa: PTH123 - its descriptor is wanted
        for _ in range(PAGES_IN_ALL >> 8):
            out.write(os.urandom(PAGE << 8))
        out.flush()
        os.fsync(out.fileno())
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def look_at(atlas: mmap.mmap, pages: Sequence[int]) -> int:
    """The sum of the first bytes of some pages."""
    return sum(atlas[number * PAGE] for number in pages)


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """What can be asked of the atlas."""
    file, count, chance = arguments[0], int(arguments[1]), random.Random(int(arguments[2]))  # noqa: S311 - sample data
    make(file)
    descriptor = os.open(file, os.O_RDONLY)
    atlas = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    atlas.madvise(mmap.MADV_RANDOM)

    def forget() -> None:
        atlas.madvise(mmap.MADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def far() -> str:
        found = look_at(atlas, chance.sample(range(PAGES_IN_ALL), count))
        forget()
        return f"{found} in {count} pages"

    def near() -> str:
        return f"{look_at(atlas, range(count))} in {count} pages"

    ways = {"far": far, "near": near}
    return lambda path: ways[path]() if path in ways else None
