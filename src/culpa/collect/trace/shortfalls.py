"""What a trace could not see, in sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from culpa.capture.manifest import BlindSpot
from culpa.units import format_count, format_ns

MAX_LISTED = 5
FEWER_OR_SHORTER = "watch fewer processes, or for a shorter time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfalls:
    """How much a trace fell short, in counts.

    lost: events that came faster than they were read. max_events: the most that are held. stopped: nothing was recorded
    any more from there on. recorded_ns: length of the part with records where sums follow it, else None; full: because
    of `max_events` and not of the budget. unsummed: calls without room among the sums. narrow: calls of 32-bit
    programs. unread_iocbs: requests to libaio beyond the first of one call. unseen_rings: calls to io_uring on a kernel
    that does not tell of its requests. refused: processes that found no room. reused: numbers that two processes had.
    """

    lost: int
    max_events: int
    stopped: bool
    recorded_ns: int | None
    full: bool
    unsummed: int
    narrow: int
    unread_iocbs: int
    unseen_rings: int
    refused: int
    reused: Collection[int]

    def blind_spots(self) -> tuple[BlindSpot, ...]:
        """One for each shortfall."""
        return (*self._of_records(), *self._of_sums(), *self._of_processes())

    def _of_records(self) -> Iterator[BlindSpot]:
        if self.lost:
            yield BlindSpot(
                what=f"{format_count(self.lost)} events",
                why="they came faster than they could be read",
                way_out=FEWER_OR_SHORTER,
            )
        if self.stopped:
            yield BlindSpot(
                what="the end of the window",
                why=f"recording stopped at {format_count(self.max_events)} events",
                way_out="watch for a shorter time with --for",
            )
        if self.narrow:
            yield BlindSpot(
                what=f"what {format_count(self.narrow)} system calls of 32-bit programs were",
                why="these have numbers and arguments of their own, which culpa does not read",
                way_out="watch a 64-bit build of the program",
            )

        if self.unread_iocbs:
            yield BlindSpot(
                what=f"on which files {format_count(self.unread_iocbs)} requests to libaio were",
                why="of one io_submit only the first 64 are read",
                way_out="hand over fewer at a time",
            )
        if self.unseen_rings:
            yield BlindSpot(
                what=f"what {format_count(self.unseen_rings)} calls to io_uring were for",
                why="this kernel has no tracepoints of io_uring that can be read",
                way_out="a newer kernel",
            )

    def _of_sums(self) -> Iterator[BlindSpot]:
        if self.recorded_ns is not None:
            limit = (
                f"{format_count(self.max_events)} are held at most" if self.full else "they cost more than the budget"
            )
            yield BlindSpot(
                what=f"single events after the first {format_ns(self.recorded_ns)}",
                why=f"{limit}; from then on they were only summed up",
                way_out=FEWER_OR_SHORTER if self.full else "raise --budget, or watch fewer processes",
            )
        if self.unsummed:
            yield BlindSpot(
                what=f"{format_count(self.unsummed)} calls in the sums",
                why="more threads and files were in use than sums can be kept of",
                way_out="watch fewer processes",
            )

    def _of_processes(self) -> Iterator[BlindSpot]:
        if self.reused:
            yield BlindSpot(
                what=f"which process is meant by number {', '.join(map(str, sorted(self.reused)[:MAX_LISTED]))}",
                why="one ended and another got its number while culpa watched; they are shown as one",
                way_out="watch for a shorter time with --for",
            )
        if self.refused:
            yield BlindSpot(
                what="some processes that woke the watched ones",
                why="the limit of processes watched at once was reached",
                way_out="watch one process instead of the whole host",
            )
