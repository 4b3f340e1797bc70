"""How popular a word is in a library of texts, for `serve.py`: `words.py DIRECTORY TEXTS TEXT-BYTES SEED`.

/popularity/WORD   writes every text to a file of its own, reads the files back, counts, and deletes them
/popular/WORD      counts in memory
"""

from __future__ import annotations

import random
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

SYLLABLES = ("ka", "lo", "mi", "ru", "ta", "ven", "sor", "ti", "na", "el")
VOCABULARY = 2000
TEXTS = 10


def words(chance: random.Random) -> list[str]:
    """The words there are."""
    return ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(VOCABULARY)]


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The library and its two ways to count. Of every text there are many copies, so that it is quickly made."""
    directory, copies, size = Path(arguments[0]), int(arguments[1]) // TEXTS, int(arguments[2])
    chance = random.Random(int(arguments[3]))  # noqa: S311 - makes sample texts
    known = words(chance)
    texts = [" ".join(chance.choices(known, k=size // 2)).encode()[:size] for _ in range(TEXTS)]

    def popularity(word: bytes) -> int:
        folder = directory / str(uuid.uuid4())
        folder.mkdir()
        files = [folder / f"{number}.txt" for number in range(copies * TEXTS)]
        for number, file in enumerate(files):
            file.write_bytes(texts[number % TEXTS])
        count = sum(file.read_bytes().count(word) for file in files)
        shutil.rmtree(folder)
        return count

    def popular(word: bytes) -> int:
        return copies * sum(text.count(word) for text in texts)

    def answer(path: str) -> str | None:
        way, _, word = path.partition("/")
        ways = {"popularity": popularity, "popular": popular}
        if way not in ways or not word:
            return None
        return f"{word} occurs {ways[way](word.encode())} times in {copies * TEXTS} texts"

    return answer
