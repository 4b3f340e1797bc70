"""The repeated question to a Redis server: one PING at a time on a connection of its own, at a gentle pace.

PING needs no data, so whatever it waits for is what every other client waits for as well. Gives `schema.REQUESTS`.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Final

import polars as pl

from culpa.capture.manifest import BlindSpot
from culpa.collect.exchange import Sent
from culpa.collect.probe import request_rows
from culpa.collect.redis_answers import NotAnswered, refusal
from culpa.collect.redis_link import Link, Talker
from culpa.units import NS_PER_SECOND, format_ns, printable

PINGS_PER_SECOND: Final = 40
INTERVAL_NS: Final = NS_PER_SECOND // PINGS_PER_SECOND
"""A stall of 25 ms meets one for certain, and a server that answers 100,000 a second does not notice."""
SILENCE_SECONDS: Final = 120.0
MAX_SENT: Final = 1_000_000
PROMPT_NS: Final = NS_PER_SECOND // 1000
"""Sending takes microseconds; in this time it has happened, or this thread was kept from it."""


class PingProbe:
    """Sends PING from a thread of its own until it is stopped."""

    def __init__(self, link: Link, interval_ns: int = INTERVAL_NS) -> None:
        """Connect; where the connection is lost later a new one is made.

        Args:
            link: the server.
            interval_ns: from one question to the next.

        Raises:
            NotAnswered: the server cannot be reached.
        """
        self._link = link
        self._interval_ns = interval_ns
        self._talker: Talker | None = link.connect(silence_seconds=SILENCE_SECONDS)
        self._lock = threading.Lock()
        self._sent: list[Sent] = []
        self._open: Sent | None = None
        self._lost: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="culpa-ping", daemon=True)
        self.finished = threading.Event()

    def start(self) -> None:
        """Send the first."""
        self._thread.start()

    def sent(self) -> tuple[Sent, ...]:
        """Those that ended so far, in order."""
        with self._lock:
            return tuple(self._sent)

    def in_flight(self) -> Sent | None:
        """The one that is open now."""
        with self._lock:
            return self._open

    def lost(self) -> tuple[str, ...]:
        """Why the connection was lost, each time."""
        return tuple(self._lost)

    def halt(self) -> None:
        """Send no more: whatever was sent began before this returns."""
        with self._lock:
            self._stopping.set()

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Send no more; one still open after the grace is cut off and keeps `end_ns` null."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=grace_seconds)
            talker = self._talker
            if self._thread.is_alive() and talker is not None:
                talker.cut()
            self._thread.join(timeout=2.0)

    def rows(self) -> pl.DataFrame:
        """`schema.REQUESTS`, the open one last."""
        with self._lock:  # else one that ends between two looks is there twice
            sent, pending = tuple(self._sent), self._open
        return request_rows([*sent, *([pending] if pending else [])])

    def blind_spots(self) -> tuple[BlindSpot, ...]:
        """Times in which the server could not be asked."""
        if not self._lost:
            return ()
        times = "once" if len(self._lost) == 1 else f"{len(self._lost)} times"
        return (
            BlindSpot(
                what="how long a client waits for the server, from then on until it answered again",
                why=f"the connection was lost {times}, the last time so: {self._lost[-1]}",
                way_out="see whether the server was restarted or failed over",
            ),
        )

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and len(self._sent) < MAX_SENT:
                sent = self._one()
                if sent is not None:
                    pause = sent.start_ns + self._interval_ns - time.monotonic_ns()
                    self._stopping.wait(max(0, pause) / NS_PER_SECOND)
                elif not self._stopping.wait(1.0):
                    self._connect_again()
        finally:
            self._hang_up()
            self.finished.set()

    def _one(self) -> Sent | None:
        """One PING; None where the connection is gone, or no more are to be sent."""
        talker = self._talker
        if talker is None:
            return None
        port, ino = talker.local_port, talker.local_ino
        with self._lock:
            if self._stopping.is_set():
                return None
            start = time.monotonic_ns()
            self._open = Sent(start_ns=start, local_port=port, local_ino=ino)
        try:
            talker.send(("PING",))
            start = _sent_ns(talker.sent_ns(), time.monotonic_ns())
            with self._lock:
                self._open = Sent(start_ns=start, local_port=port, local_ino=ino)
            (reply,) = talker.replies(1)
        except NotAnswered as reason:
            if not self._stopping.is_set():
                self._lost.append(f"{reason.why} (after {format_ns(time.monotonic_ns() - start)})")
                with self._lock:
                    self._open = None
            self._hang_up()
            return None
        end = talker.arrived_ns()
        error = printable(refusal(reply), 80) if isinstance(reply, Exception) else None
        sent = Sent(
            start_ns=min(start, end), end_ns=end, local_port=port, local_ino=ino, outcome="answered", error=error
        )  # fmt: skip
        with self._lock:
            self._open = None
            self._sent.append(sent)
        return sent

    def _connect_again(self) -> None:
        with suppress(NotAnswered):  # the next round tries again
            self._talker = self._link.connect(silence_seconds=SILENCE_SECONDS)

    def _hang_up(self) -> None:
        talker, self._talker = self._talker, None
        if talker is not None:
            talker.close()


def _sent_ns(before_ns: int, after_ns: int) -> int:
    """When the question left. Where it took long, nobody knows whether this thread waited for a CPU or the interpreter
    before or after it left; what it waited is not the server's, so the later moment counts.
    """
    return before_ns if after_ns - before_ns < PROMPT_NS else after_ns
