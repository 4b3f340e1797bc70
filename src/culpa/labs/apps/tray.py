"""A tray of cards in one file, written past the page cache and beside its own thread, for `serve.py`:
`tray.py FILE CARDS SEED WAY`, where WAY is `ring` (io_uring) or `context` (io_submit, as libaio does it).

/shuffle   writes every card anew, one at a time, in some order

A second thread waits for a word through a ring of its own, and nobody ever says one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
import threading
from collections.abc import Callable

CARD_BYTES = 4096
IO_SETUP, IO_GETEVENTS, IO_SUBMIT = (206, 208, 209) if os.uname().machine == "x86_64" else (0, 4, 2)
RING_SETUP, RING_ENTER = 425, 426
ENTER_GETEVENTS = 1
OP_POLL, OP_WRITE, POLLIN = 6, 23, 1
IOCB_PWRITE = 1
SQE_BYTES, CQE_BYTES, EVENT_BYTES = 64, 16, 32
_libc = ctypes.CDLL(None, use_errno=True)


def called(number: int, *arguments: object) -> int:
    """A system call's answer."""
    answer = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def address_of(memory: mmap.mmap) -> int:
    """Where it lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class Ring:
    """io_uring with one request at a time (man io_uring_setup, io_uring_enter)."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self._fd = called(RING_SETUP, ctypes.c_uint(4), parameters)
        fields = struct.unpack_from("30I", parameters)
        sq, cq = fields[10:20], fields[20:30]
        self._tail, self._mask, self._array = sq[1], sq[2], sq[6]
        self._head, self._cq_tail, self._cq_mask, self._cqes = cq[0], cq[1], cq[2], cq[5]
        shared = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._sq = mmap.mmap(self._fd, self._array + 4 * fields[0], flags=shared, offset=0)
        self._cq = mmap.mmap(self._fd, self._cqes + CQE_BYTES * fields[1], flags=shared, offset=0x8000000)
        self._sqes = mmap.mmap(self._fd, SQE_BYTES * fields[0], flags=shared, offset=0x10000000)

    def done(self, op: int, fd: int, at: int, address: int, length: int, more: int = 0) -> int:
        """Give one request to the kernel, wait for its end, and return its answer."""
        tail = self._number(self._sq, self._tail)
        place = tail & self._number(self._sq, self._mask)
        struct.pack_into("BBHiQQIIQ24x", self._sqes, place * SQE_BYTES, op, 0, 0, fd, at, address, length, more, tail)
        struct.pack_into("I", self._sq, self._array + 4 * place, place)
        struct.pack_into("I", self._sq, self._tail, tail + 1 & 0xFFFFFFFF)
        one, wait = ctypes.c_uint(1), ctypes.c_uint(ENTER_GETEVENTS)
        called(RING_ENTER, ctypes.c_uint(self._fd), one, one, wait, None, ctypes.c_size_t(8))
        head = self._number(self._cq, self._head)
        entry = self._cqes + CQE_BYTES * (head & self._number(self._cq, self._cq_mask))
        answer = struct.unpack_from("i", self._cq, entry + 8)[0]
        struct.pack_into("I", self._cq, self._head, head + 1 & 0xFFFFFFFF)
        return int(answer)

    def write(self, fd: int, card: mmap.mmap, offset: int) -> int:
        """As pwrite."""
        return self.done(OP_WRITE, fd, offset, address_of(card), CARD_BYTES)

    @staticmethod
    def _number(memory: mmap.mmap, at: int) -> int:
        return int(struct.unpack_from("I", memory, at)[0])


class Context:
    """libaio's calls with one request at a time (man io_setup, io_submit, io_getevents)."""

    def __init__(self) -> None:
        self._context = ctypes.c_ulong(0)
        called(IO_SETUP, ctypes.c_uint(4), ctypes.byref(self._context))
        self._iocb = ctypes.create_string_buffer(64)
        self._list = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        self._event = ctypes.create_string_buffer(EVENT_BYTES)

    def write(self, fd: int, card: mmap.mmap, offset: int) -> int:
        """As pwrite."""
        struct.pack_into(
            "QIIHhIQQq16x", self._iocb, 0, 0, 0, 0, IOCB_PWRITE, 0, fd, address_of(card), CARD_BYTES, offset
        )
        one = ctypes.c_long(1)
        called(IO_SUBMIT, self._context, one, self._list)
        called(IO_GETEVENTS, self._context, one, one, self._event, None)
        return int(struct.unpack_from("q", self._event, 16)[0])


def wait_for_a_word() -> None:
    """Wait in a ring for what nobody writes."""
    reader, _writer = os.pipe()
    while True:
        Ring().done(OP_POLL, reader, 0, 0, 0, POLLIN)


def application(arguments: list[str]) -> Callable[[str], str | None]:
    """The tray; its file is written once before anybody asks, so that no card needs new room on the disk."""
    cards, way = int(arguments[1]), arguments[3]
    chance = random.Random(int(arguments[2]))  # noqa: S311 - an order of cards
    card = mmap.mmap(-1, CARD_BYTES)  # aligned to a page, as direct I/O wants it
    descriptor = os.open(arguments[0], os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    whole = mmap.mmap(-1, cards * CARD_BYTES)
    os.pwrite(descriptor, whole, 0)
    os.fsync(descriptor)
    threading.Thread(target=wait_for_a_word, daemon=True).start()

    def shuffle() -> int:
        order, writer = list(range(cards)), Ring() if way == "ring" else Context()
        chance.shuffle(order)
        for number in order:
            if writer.write(descriptor, card, number * CARD_BYTES) != CARD_BYTES:
                raise OSError("a card was not written")
        return cards

    return lambda path: f"{shuffle()} cards" if path == "shuffle" else None
