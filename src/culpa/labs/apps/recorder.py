"""A recorder, for `serve.py`: `recorder.py FILE MEGABYTES`.

/record   writes FILE over, without a sync and without making it empty first, for which ext4 would flush it at once
/length   how long FILE is
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MEGABYTE = 1 << 20


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """What can be asked of the recorder."""
    file, megabytes = Path(arguments[0]), int(arguments[1])
    piece = bytes(range(256)) * (MEGABYTE // 256)

    def record() -> str:
        file.touch()
        with file.open("r+b", buffering=0) as out:
            for _ in range(megabytes):
                out.write(piece)
        return f"{megabytes} MB recorded"

    def length() -> str:
        return f"{file.stat().st_size if file.exists() else 0} bytes"

    ways = {"record": record, "length": length}
    return lambda path: ways[path]() if path in ways else None
