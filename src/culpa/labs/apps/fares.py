"""Fares looked up in a table of fixed width, for `serve.py`: `fares.py FILE PLACES FARES`.

/each   reads the whole table again for each of FARES fares
/once   reads it once for all of them
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

WIDTH = 1024
"""Bytes of a row; the fare stands at its beginning."""


def fill(file: Path, places: int) -> None:
    """Write the table."""
    with file.open("wb") as out:
        for place in range(places):
            out.write((b"%08d" % place).ljust(WIDTH, b"."))


def fare(table: bytes, place: int) -> int:
    """What is in a row of the table."""
    return int(table[place * WIDTH : place * WIDTH + 8])


def each(file: Path, wanted: range) -> int:
    """The table anew for each."""
    total = 0
    for place in wanted:
        total += fare(file.read_bytes(), place)
    return total


def once(file: Path, wanted: range) -> int:
    """One table for all."""
    table = file.read_bytes()
    return sum(fare(table, place) for place in wanted)


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """What can be asked; the table is written before anybody does."""
    file, places = Path(arguments[0]), int(arguments[1])
    wanted = range(min(places, int(arguments[2])))
    fill(file, places)
    ways = {"each": lambda: each(file, wanted), "once": lambda: once(file, wanted)}
    return lambda path: f"{ways[path]()} in all" if path in ways else None
