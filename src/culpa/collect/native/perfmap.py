"""The map that a just-in-time compiler writes of its code: /tmp/perf-PID.map, one `ADDRESS SIZE NAME` a line.

Mirrors tools/perf/Documentation/jit-interface.txt of Linux; names as Node.js writes them (`--perf-basic-prof`).
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Final

MAX_BYTES: Final = 64 << 20
MAX_NAME_BYTES: Final = 2048
MAX_BYTECODE_HEAD: Final = 96
LOOK_BACK: Final = 4
_INTERPRETED: Final = re.compile(r"[A-Za-z]+:~")
_ENTRY: Final = re.compile(rb"([0-9a-fA-F]{1,16}) ([0-9a-fA-F]{1,8}) (.+)")
_SCRIPT: Final = re.compile(
    r"(?:LazyCompile|Function|Script|Eval|JS|Interpreter):[~*^+]?(.*?) ((?:/|file://|node:).*?|\S+?):(\d+)(?::(\d+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JitEntry:
    """A stretch of compiled code and what its compiler calls it."""

    start: int
    end: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFunction:
    """A function of a script, and where it begins there."""

    function: str
    path: str
    line: int


class PerfMap:
    """The entries of one map, which grows; of those that overlap the one written last counts (code moves)."""

    def __init__(self) -> None:
        self.bytes = 0
        """How much of the file was read: up to its last whole line."""
        self._found: dict[int, JitEntry] = {}
        self._written: dict[int, int] = {}
        self._order = count()
        self._starts: list[int] = []
        self._bytecode: list[int] = []

    def extend(self, text: bytes) -> None:
        """Take what the file holds from `bytes` on; a last line that is not whole is left for the next time."""
        whole = text[: text.rfind(b"\n") + 1]
        self.bytes += len(whole)
        for line in whole.split(b"\n"):
            entry = _ENTRY.fullmatch(line[: MAX_NAME_BYTES + 32])
            if entry is None:
                continue
            start = int(entry[1], 16)
            name = entry[3][:MAX_NAME_BYTES].decode("utf-8", "replace")
            self._found[start] = JitEntry(start=start, end=start + int(entry[2], 16), name=name)
            self._written[start] = next(self._order)
        self._starts = sorted(self._found)
        self._bytecode = [start for start in self._starts if _INTERPRETED.match(self._found[start].name)]

    def at(self, address: int) -> JitEntry | None:
        """The newest entry that holds an address."""
        place = bisect_right(self._starts, address)
        entries = (self._found[start] for start in self._starts[max(0, place - LOOK_BACK) : place])
        near = [entry for entry in entries if entry.start <= address < entry.end]
        return max(near, key=lambda entry: self._written[entry.start], default=None)

    def interpreted(self, local_words: Iterable[int]) -> JitEntry | None:
        """The function whose bytecode a frame of V8's interpreter points to; None unless just one fits.

        The map has the first instruction; the frame has the object around it, whose head is shorter than
        `MAX_BYTECODE_HEAD`, as an address with its lowest bit set.
        """
        fitting = set()
        for word in local_words:
            place = bisect_right(self._bytecode, word)
            if word & 1 and place < len(self._bytecode) and self._bytecode[place] - word < MAX_BYTECODE_HEAD:
                fitting.add(self._bytecode[place])
        return self.at(fitting.pop()) if len(fitting) == 1 else None


def read_on(path: str, owner: int, known: PerfMap) -> PerfMap | None:
    """The map with what was added to its file since; a file that became shorter is another one.

    None where it is missing, a link, too long, or of another user than `owner` and root: anybody may write to /tmp, and
    a map of somebody else would put names into this process's mouth.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (owner, 0) or status.st_size > MAX_BYTES:
            return None
        grown = known if status.st_size >= known.bytes else PerfMap()
        if status.st_size > grown.bytes:
            grown.extend(os.pread(descriptor, status.st_size - grown.bytes, grown.bytes))
        return grown
    except OSError:
        return None
    finally:
        os.close(descriptor)


def script_function(name: str) -> ScriptFunction | None:
    """What an entry's name says of a function of a script; None for built-in code, stubs and the like."""
    found = _SCRIPT.fullmatch(name)
    if found is None or not found[2]:
        return None
    return ScriptFunction(
        function=found[1].strip() or "(anonymous)",
        path=found[2].removeprefix("file://"),
        line=min(int(found[3]), 2**31 - 1) or 1,
    )
