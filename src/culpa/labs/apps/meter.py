"""A meter whose readings are kept in a file, for `serve.py`: `meter.py FILE READINGS`.

/each    writes READINGS readings, each by a call of its own
/once    writes as many through a buffer
/aside   works on some readings and writes each of them down when it is done, which takes little beside the work
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

ASIDE = 1200
WORK = 2500


def each(file: Path, readings: list[bytes]) -> int:
    """A call for each."""
    with file.open("r+b", buffering=0) as out:
        for reading in readings:
            out.write(reading)
    return len(readings)


def once(file: Path, readings: list[bytes]) -> int:
    """A call for some ten thousand."""
    with file.open("r+b", buffering=1 << 16) as out:
        for reading in readings:
            out.write(reading)
    return len(readings)


def aside(file: Path) -> int:
    """Work, and a line about it."""
    with file.open("r+b", buffering=0) as out:
        for number in range(ASIDE):
            out.write(b"%d\n" % sum(range(number, number + WORK)))
    return ASIDE


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """What can be asked of the meter."""
    file = Path(arguments[0])
    file.touch()
    readings = [b"%07d\n" % number for number in range(int(arguments[1]))]
    ways = {"each": lambda: each(file, readings), "once": lambda: once(file, readings), "aside": lambda: aside(file)}
    return lambda path: f"{ways[path]()} readings" if path in ways else None
