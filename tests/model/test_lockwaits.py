"""Waits in futex calls whose word changes, or is not in the call: on scenes whose times are chosen by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl
import pytest

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.columns import Table
from culpa.capture.manifest import Evidence, Host, Manifest, Target, Window
from culpa.model import requests, timeline, waitgraph

US, MS = 1_000, 1_000_000
START, END = 1_000 * MS, 1_200 * MS
PROCESS, WAITER, MOVER, HOLDER, OTHER = 500, 500, 501, 502, 503
CONDITION, MUTEX, ELSEWHERE = 0x7F00_0000_1000, 0x7F00_0000_2000, 0x7F00_0000_3000
FUTEX, FUTEX_WAITV, CLOCK_NANOSLEEP = 202, 449, 230
PRIVATE = 128
WAIT, WAKE, CMP_REQUEUE, UNLOCK_PI, WAIT_REQUEUE_PI, CMP_REQUEUE_PI = 0, 1, 4, 7, 11, 12
MOVED, WOKEN = 40 * MS, 100 * MS
"""After the start."""


@dataclass
class Threads:
    """Grows the tables of one process; moments count from the start."""

    rows: dict[str, list[dict[str, object]]] = field(default_factory=dict)

    def add(self, table: Table, **values: object) -> None:
        """One row."""
        self.rows.setdefault(table.name, []).append(values)

    def call(self, tid: int, nr: int, enter: int, leave: int | None, *arguments: int, ret: int | None = 0) -> None:
        """One system call; None: it goes on."""
        args = dict(zip(("arg0", "arg1", "arg2"), arguments, strict=False))
        exit_ns = None if leave is None else START + leave
        self.add(schema.SYSCALLS, enter_ns=START + enter, exit_ns=exit_ns, tid=tid, pid=PROCESS, nr=nr, ret=ret, **args)

    def sleep(self, tid: int, off: int, wake: int, waker: int | None = None) -> None:
        """One stretch off the CPU."""
        self.add(schema.OFFCPU, off_ns=START + off, wake_ns=START + wake, on_ns=START + wake + US, tid=tid, pid=PROCESS,
                 state=1, cpu=0, waker_tid=waker, waker_pid=None if waker is None else PROCESS)  # fmt: skip

    def waits(self, nr: int, *arguments: int, waker: int, ret: int = 0, wake: int = WOKEN) -> None:
        """The waiter sleeps in a call until it is woken."""
        self.call(WAITER, nr, 10 * MS, wake + 2 * US, *arguments, ret=ret)
        self.sleep(WAITER, 10 * MS + US, wake, waker)

    def pieces(self) -> list[tuple[str, int, int]]:
        """The waiter's waits of more than a millisecond: kind, length in ms, thread that explains it."""
        for tid in (WAITER, MOVER, HOLDER, OTHER):
            self.add(schema.TASKS, tid=tid, pid=PROCESS, comm="worker", kernel=False, watched_ns=START)
            self.sleep(tid, 0 if tid == MOVER else 150 * MS, 160 * MS)
        tables = {name: _frame(schema.BY_NAME[name], rows) for name, rows in self.rows.items()}
        capture = Capture(manifest=_manifest(), tables=tables)
        spans = timeline.build(capture)
        pieces = waitgraph.build(capture, spans, requests.find(capture)).pieces
        mine = pieces.filter((pl.col("tid") == WAITER) & (pl.col("start_ns") >= START + 10 * MS + US))
        mine = mine.filter((pl.col("end_ns") <= START + 101 * MS) & (pl.col("end_ns") - pl.col("start_ns") > MS))
        return [
            (kind, round((end - start) / MS), next_tid)
            for kind, start, end, next_tid in mine.select("kind", "start_ns", "end_ns", "next_tid").iter_rows()
        ]


def _frame(table: Table, rows: list[dict[str, object]]) -> pl.DataFrame:
    return table.frame({column.name: [row.get(column.name) for row in rows] for column in table.columns})


def _manifest() -> Manifest:
    return Manifest(
        culpa_version="0",
        host=Host(kernel="6.1", machine="x86_64", cpus=2, memory_bytes=1 << 30, page_bytes=4096, ticks_per_second=100),
        target=Target(kind="process", name="worker", pids=(PROCESS,)),
        window=Window(start_ns=START, end_ns=END, start_realtime_ns=0, ended_by="limit"),
        evidence=Evidence(waits="events"),
    )


def _waker(threads: Threads, operation: int, word: int, at: int = WOKEN, tid: int = HOLDER) -> None:
    threads.call(tid, FUTEX, at - 2 * US, at + 2 * US, word, operation | PRIVATE, 1, ret=1)


def _contended_mutex(threads: Threads) -> None:
    """Another thread waits for the mutex with the value that says so."""
    threads.call(OTHER, FUTEX, 90 * MS, 120 * MS, MUTEX, WAIT | PRIVATE, 2)
    threads.sleep(OTHER, 90 * MS + US, 120 * MS - US, HOLDER)
    _waker(threads, WAKE, MUTEX, 120 * MS - US)


def test_a_waiter_that_is_moved_to_a_mutex_waits_for_who_moved_it_and_then_for_who_holds_that() -> None:
    """As condition variables of glibc before 2.25 do it: FUTEX_CMP_REQUEUE, then the mutex is unlocked."""
    threads = Threads()
    threads.waits(FUTEX, CONDITION, WAIT | PRIVATE, 7, waker=HOLDER)
    _waker(threads, CMP_REQUEUE, CONDITION, MOVED, MOVER)
    _contended_mutex(threads)
    _waker(threads, WAKE, MUTEX)
    assert [("peer", 30, MOVER), ("lock", 60, HOLDER)] == threads.pieces()


def test_a_waiter_that_is_moved_to_a_lock_with_priority_inheritance() -> None:
    """FUTEX_WAIT_REQUEUE_PI: that the other word is a lock is told by how it is let go."""
    threads = Threads()
    threads.waits(FUTEX, CONDITION, WAIT_REQUEUE_PI | PRIVATE, 7, waker=HOLDER)
    _waker(threads, CMP_REQUEUE_PI, CONDITION, MOVED, MOVER)
    _waker(threads, UNLOCK_PI, MUTEX)
    assert [("peer", 30, MOVER), ("lock", 60, HOLDER)] == threads.pieces()


@pytest.mark.parametrize(
    ("moved_ns", "word", "ret"),
    [(5 * MS, CONDITION, 0), (MOVED, ELSEWHERE, 0), (MOVED, CONDITION, -4)],
    ids=["moved before it waited", "others were moved", "ended by a signal"],
)
def test_who_wakes_on_another_word_is_believed_only_where_the_waiter_was_moved(
    moved_ns: int, word: int, ret: int
) -> None:
    """The waker's call is on another word: it may be a bystander."""
    threads = Threads()
    threads.waits(FUTEX, CONDITION, WAIT | PRIVATE, 7, waker=HOLDER, ret=ret)
    _waker(threads, CMP_REQUEUE, word, moved_ns, MOVER)
    _waker(threads, WAKE, MUTEX)
    assert [("unexplained", 90, -1)] == threads.pieces()


@pytest.mark.parametrize("count", [1, 2, 6, 9, 13])
def test_a_wait_on_several_words_is_for_who_woke_it_on_one_of_them(count: int) -> None:
    """futex_waitv(2): the words are not in the call; how many they are says nothing of what it does."""
    threads = Threads()
    threads.waits(FUTEX_WAITV, 0x7F00_0000_9000, count, 0, waker=HOLDER, ret=count - 1)
    _waker(threads, WAKE, ELSEWHERE)
    assert [("peer", 90, HOLDER)] == threads.pieces()


@pytest.mark.parametrize("count", [1, 2, 6, 9, 13])
def test_a_wait_on_several_words_that_nobody_woke_leads_to_nobody(count: int) -> None:
    """A signal ended it while a thread of the process happened to be in a call that wakes."""
    threads = Threads()
    threads.waits(FUTEX_WAITV, 0x7F00_0000_9000, count, 0, waker=HOLDER, ret=-4)
    _waker(threads, WAKE, ELSEWHERE)
    assert [("unexplained", 90, -1)] == threads.pieces()


def test_a_wait_on_several_words_is_for_a_lock_where_its_word_is_one() -> None:
    """Another thread waits for that word as one waits for a mutex."""
    threads = Threads()
    threads.waits(FUTEX_WAITV, 0x7F00_0000_9000, 2, 0, waker=HOLDER, ret=1)
    _contended_mutex(threads)
    _waker(threads, WAKE, MUTEX)
    assert [("lock", 90, HOLDER)] == threads.pieces()
