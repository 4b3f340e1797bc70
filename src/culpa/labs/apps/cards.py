"""A box of cards in one file, kept past the page cache, for `serve.py`: `cards.py FILE CARDS SEED`.

/shuffle   writes every card anew, one at a time, in some order
"""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable

CARD_BYTES = 4096


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The box; its file is written once before anybody asks, so that no card needs new room on the disk."""
    cards = int(arguments[1])
    chance = random.Random(int(arguments[2]))  # noqa: S311 - an order of cards
    card = mmap.mmap(-1, CARD_BYTES)  # aligned to a page, as direct I/O wants it
    descriptor = os.open(arguments[0], os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    whole = mmap.mmap(-1, cards * CARD_BYTES)
    os.pwrite(descriptor, whole, 0)
    os.fsync(descriptor)

    def shuffle() -> int:
        order = list(range(cards))
        chance.shuffle(order)
        for number in order:
            os.pwrite(descriptor, card, number * CARD_BYTES)
        return cards

    return lambda path: f"{shuffle()} cards" if path == "shuffle" else None
