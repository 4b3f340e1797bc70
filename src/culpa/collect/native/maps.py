"""The executable mappings of a process: which file an address lies in, and at which offset (proc(5), maps)."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from culpa.collect.procfs import decoded

MAX_BYTES: Final = 4 << 20
_LINE: Final = re.compile(
    rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ..x. ([0-9a-f]{1,16}) ([0-9a-f]{2,8}):([0-9a-f]{2,8}) (\d{1,20})[ \t]*(.*)"
)
DELETED: Final = " (deleted)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """Executable memory [start, end); `path` is empty for memory of no file, and as the process sees it."""

    start: int
    end: int
    offset: int
    path: str
    dev: int
    inode: int
    range_name: str
    """Its name in /proc/PID/map_files."""

    @property
    def of_file(self) -> bool:
        """Whether it is a file's content, and not made at run time."""
        return self.inode != 0


class Mappings:
    """All executable mappings of one process."""

    def __init__(self, text: bytes) -> None:
        self._all = sorted(_parsed(text), key=lambda mapping: mapping.start)
        self._starts = [mapping.start for mapping in self._all]

    def at(self, address: int) -> Mapping | None:
        """The mapping that holds an address."""
        place = bisect_right(self._starts, address) - 1
        return self._all[place] if place >= 0 and address < self._all[place].end else None

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _parsed(text: bytes) -> Iterator[Mapping]:
    for line in text.split(b"\n"):
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        start, end, offset = (int(found[number], 16) for number in (1, 2, 3))
        yield Mapping(
            start=start,
            end=end,
            offset=offset,
            path=decoded(found[7]).removesuffix(DELETED),
            dev=os.makedev(int(found[4], 16), int(found[5], 16)),
            inode=int(found[6]),
            range_name=f"{start:x}-{end:x}",
        )
