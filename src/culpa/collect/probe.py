"""The repeated request: one HTTP request at a time, at most twenty a second, until the window ends.

Sits at the left end of the flow: it gives `schema.REQUESTS` and, through the local port of each connection, the link
from a request here to the socket that serves it. A server that cannot be asked at all ends the command with a sentence;
anything else it does (errors, redirects, silence) is a fact of the capture.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import polars as pl

from culpa.capture import schema
from culpa.capture.manifest import BlindSpot
from culpa.collect.exchange import SAFE_METHODS, Exchange, HttpPlan, Outcome, Sent, port_of, shown_url
from culpa.errors import CulpaError
from culpa.units import NS_PER_SECOND, printable

MIN_INTERVAL_NS: Final = NS_PER_SECOND // 20
"""At most 20 requests a second: what is looked at must not be culpa's own load."""
MAX_FAILURES: Final = 3
"""Failed requests in a row after which the probe gives up."""
MAX_HOPS: Final = 5
_FATAL: Final[frozenset[Outcome]] = frozenset({"refused", "unreachable", "not-http", "tls"})
_WAY_OUT: Final = {
    "refused": "start the server, or correct host and port",
    "not-http": "for another protocol watch the process instead: culpa why :PORT",
    "tls": "check the scheme and the certificate",
}


class HttpProbe:
    """Sends the plan's request again and again from a thread of its own, never two at a time.

    `proceed` is asked after every request, in the probe's thread, whether another may be sent.
    """

    def __init__(
        self,
        plan: HttpPlan,
        *,
        proceed: Callable[[Sent], bool] = lambda _: True,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        self._proceed = proceed
        self._say = say
        self._lock = threading.Lock()
        self._sent: list[Sent] = []
        self._exchange: Exchange | None = None
        self._stopping = threading.Event()
        self._notes: list[BlindSpot] = []
        self._thread = threading.Thread(target=self._run, name="culpa-probe", daemon=True)
        self.finished = threading.Event()
        self.failure: CulpaError | None = None
        """The first request could not be asked at all: there is nothing to explain."""

    def start(self) -> None:
        """Send the first request."""
        self._thread.start()

    def sent(self) -> tuple[Sent, ...]:
        """Requests that ended so far, in order."""
        with self._lock:
            return tuple(self._sent)

    def in_flight(self) -> Sent | None:
        """The request that is open now."""
        with self._lock:
            return None if self._exchange is None else self._exchange.now

    def halt(self) -> None:
        """Send no more; a request that is open goes on."""
        self._stopping.set()

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Send no more; a request still open after the grace is cut off and keeps `end_ns` null."""
        self._stopping.set()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout=grace_seconds)
        with self._lock:
            exchange = self._exchange
        if exchange is not None:
            exchange.cut()
        self._thread.join(timeout=2.0)

    def rows(self) -> pl.DataFrame:
        """`schema.REQUESTS`, in the order they were sent, the open one last."""
        pending = self.in_flight()
        return request_rows([*self.sent(), *([pending] if pending else [])])

    def blind_spots(self) -> tuple[BlindSpot, ...]:
        """What the answers do not show."""
        sent = self.sent()
        notes = [*self._notes, *_failures([each for each in sent if each.error is not None], len(sent))]
        wrong = [each for each in sent if each.status is not None and each.status >= 400]
        if len(wrong) * 2 <= len(sent):
            return tuple(notes)
        return (*notes, _error_path(wrong, len(sent)))

    def _run(self) -> None:
        try:
            self._repeat()
        finally:
            self.finished.set()

    def _repeat(self) -> None:
        plan, hops, failures = self.plan, 0, 0
        for count in range(1, (plan.max_requests or 1 << 31) + 1):
            sent = self._one(plan)
            if sent.outcome == "open":
                return
            if count == 1 and sent.outcome in _FATAL:
                self.failure = _cannot_ask(plan, sent)
                return
            failures = 0 if sent.outcome == "answered" else failures + 1
            if failures == MAX_FAILURES:
                self._notes.append(_gave_up(sent))
                return
            onward = self._follow(plan, sent, hops)
            if onward is not None:
                plan, hops = onward, hops + 1
            elif not plan.repeats or not self._proceed(sent):
                return
            if self._stopping.wait(max(0, sent.start_ns + MIN_INTERVAL_NS - time.monotonic_ns()) / NS_PER_SECOND):
                return

    def _one(self, plan: HttpPlan) -> Sent:
        exchange = Exchange(plan)
        with self._lock:
            self._exchange = exchange
        if self._stopping.is_set():
            exchange.cut()
        sent = exchange.run()
        if sent.outcome != "open":
            with self._lock:
                self._exchange = None
                self._sent.append(sent)
        return sent

    def _follow(self, plan: HttpPlan, sent: Sent, hops: int) -> HttpPlan | None:
        """The plan for the address a redirect names, if it is the same server; else say that it is not followed."""
        if sent.location is None:
            return None
        try:
            there = urlsplit(urljoin(plan.url, sent.location))
            same = _server(there) == _server(urlsplit(plan.url))
        except ValueError:
            self._note(_not_followed(plan, "what is no address", "correct the server's redirect"))
            return None
        if same and hops < MAX_HOPS and plan.method in SAFE_METHODS:
            self._say(f"follows a redirect to {shown_url(there)} and asks that from now on")
            return replace(plan, url=there._replace(fragment="", netloc=urlsplit(plan.url).netloc).geturl())
        self._note(_not_followed(plan, shown_url(there), f"ask that address instead: culpa why {shown_url(there)}"))
        return None

    def _note(self, spot: BlindSpot) -> None:
        """What is said once, however often it happens."""
        if not self._notes:
            self._notes.append(spot)


def request_rows(requests: Sequence[Sent]) -> pl.DataFrame:
    """`schema.REQUESTS` from requests in the order they were sent."""
    return schema.REQUESTS.frame(
        {
            "start_ns": [sent.start_ns for sent in requests],
            "end_ns": [sent.end_ns for sent in requests],
            "local_port": [sent.local_port for sent in requests],
            "local_ino": [sent.local_ino for sent in requests],
            "status": [sent.status for sent in requests],
            "bytes": [sent.length_bytes for sent in requests],
            "error": [sent.error for sent in requests],
        }
    )


def _server(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, (parts.hostname or "").lower(), port_of(parts)


def _cannot_ask(plan: HttpPlan, sent: Sent) -> CulpaError:
    way_out = _WAY_OUT.get(sent.outcome, "check host and port, or watch the traffic there is with --passive")
    return CulpaError(f"cannot ask {plan.shown}: {sent.error}", way_out=way_out)


def _gave_up(last: Sent) -> BlindSpot:
    return BlindSpot(
        what="later requests",
        why=f"{MAX_FAILURES} requests in a row failed, the last one so: {printable(last.error or '')}",
        way_out="see whether the server is still there",
    )


def _not_followed(plan: HttpPlan, there: str, way_out: str) -> BlindSpot:
    return BlindSpot(
        what="the request behind the redirect",
        why=f"{plan.shown} redirects to {there}, which culpa does not follow: only GET and HEAD, to the same server, "
        f"at most {MAX_HOPS} times",
        way_out=way_out,
    )


def _failures(failed: Sequence[Sent], total: int) -> Iterator[BlindSpot]:
    if failed:
        yield BlindSpot(
            what="answers that did not come",
            why=f"{len(failed)} of {total} requests failed, the last one so: {printable(failed[-1].error or '')}",
            way_out="see whether the server ends or closes the connection while it works",
        )


def _error_path(wrong: Sequence[Sent], total: int) -> BlindSpot:
    return BlindSpot(
        what="the request's normal path",
        why=f"{len(wrong)} of {total} answers were errors, the last with status {wrong[-1].status}: "
        "what was measured is the way to the error",
        way_out="check the URL, and give what it needs with -H, -d or -X",
    )
