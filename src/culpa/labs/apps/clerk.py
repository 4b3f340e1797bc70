"""A clerk who has a shell script do the work, for `serve.py`: `clerk.py SCRIPT FILE COUNT`.

/each, /kept, /once   run SCRIPT with that word, FILE and COUNT, and wait until it has ended
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The script's two ways."""
    script, *rest = arguments

    def have_done(way: str) -> str:
        subprocess.run(["/bin/sh", script, way, *rest], check=True)
        return f"{rest[-1]} entries"

    return lambda path: have_done(path) if path in ("each", "kept", "once") else None
