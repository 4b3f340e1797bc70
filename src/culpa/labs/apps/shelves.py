"""Books on shelves, for `serve.py`: `shelves.py FOLDER FILES BYTES PER-REQUEST`.

/known  reads the same PER-REQUEST files each time
/next   reads as many that nobody has read yet
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """What can be read of the files that lie in the folder."""
    files = sorted(Path(arguments[0]).iterdir())
    each = int(arguments[1])
    unread = files[each:]

    def known() -> str:
        return f"{sum(len(file.read_bytes()) for file in files[:each])} bytes"

    def following() -> str:
        part, unread[:] = unread[:each], unread[each:]
        return f"{sum(len(file.read_bytes()) for file in part)} bytes"

    ways = {"known": known, "next": following}
    return lambda path: ways[path]() if path in ways else None
