"""A post office that moves letters between folders, for `serve.py`: `letters.py FOLDER LETTERS`. It syncs nothing.

/sort    moves every letter into the other folder, by renaming it
/count   counts the letters
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """What can be asked of the post office."""
    new, old = (Path(arguments[0]) / name for name in ("new", "old"))
    for folder in (new, old):
        folder.mkdir(parents=True)
    letters = [f"letter-{number}" for number in range(int(arguments[1]))]
    for letter in letters:
        (new / letter).touch()
    folders = [new, old]

    def move_all() -> str:
        source, target = folders
        for letter in letters:
            (source / letter).rename(target / letter)
        folders.reverse()
        return f"{len(letters)} letters moved"

    def count() -> str:
        return f"{sum(1 for folder in folders for _ in folder.iterdir())} letters"

    ways = {"sort": move_all, "count": count}
    return lambda path: ways[path]() if path in ways else None
