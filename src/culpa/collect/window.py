"""When enough was seen: the rule that ends a window where `--for` does not.

Pure: it is told what happened and when, and answers whether the window is over. The clock is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from culpa.capture.manifest import EndedBy
from culpa.units import NS_PER_SECOND

MIN_NS: Final = 3 * NS_PER_SECOND
MAX_NS: Final = 15 * NS_PER_SECOND
REQUEST_MAX_NS: Final = 120 * NS_PER_SECOND
"""For the end of the first request of a URL, or of a command."""
STEADY_NS: Final = 2 * NS_PER_SECOND
STEADY_SHARE: Final = 0.05
WAITED_NS: Final = 3 * NS_PER_SECOND
"""Waiting that counts as much as one request."""
JUDGE_EVERY_NS: Final = NS_PER_SECOND
JUDGE_COST_FACTOR: Final = 3
"""Judging may take a quarter of the time at most: the watched host has better things to do."""
JUDGEABLE_EVENTS: Final = 300_000
"""Above it judging while watching would hold up the draining of events, and lose some."""
UNJUDGED_NS: Final = 6 * NS_PER_SECOND
"""So long a window lasts that has too many events to be judged meanwhile: it could never be known to be steady."""
MOST_EVENTS: Final = 3_000_000
"""Recording stops there, and so does the window: what is not recorded would only dilute what is. A command goes on."""
ENOUGH_EVENTS: Final = 1_000_000
"""What memory and the time for the verdict are meant for."""

Kind = Literal["url", "command", "watch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a judgement of the capture so far came to: the first cause (None: nothing to blame) and its share 0..1."""

    cause: str | None
    share: float
    completed: int
    """Requests seen from beginning to end."""
    waited_ns: int
    """Waiting of the root, idle left out."""


class Window:
    """One window from `start_ns` on. `for_ns` fixes its length; without it the window ends by itself."""

    def __init__(self, *, start_ns: int, for_ns: int | None, kind: Kind) -> None:
        self._start_ns = start_ns
        self._for_ns = for_ns
        self._kind: Kind = kind
        self._first_request: tuple[int, int] | None = None
        self._no_more_requests = False
        self._judged: list[tuple[int, Share]] = []
        self._next_judgement_ns = start_ns + JUDGE_EVERY_NS
        self._detail_over: Literal["no", "unjudged", "judged"] = "no"
        """Whether records have ended, and then whether they were judged."""

    @property
    def longest_ns(self) -> int:
        """The length it never exceeds."""
        return self._for_ns or (MAX_NS if self._kind == "watch" else REQUEST_MAX_NS)

    def request_ended(self, start_ns: int, end_ns: int) -> None:
        """A request of the probe got its answer; only the first one counts."""
        self._first_request = self._first_request or (start_ns, end_ns)

    def requests_over(self) -> None:
        """The probe will send no more."""
        self._no_more_requests = True

    def detail_over(self) -> None:
        """No more events are recorded: what there is to judge will not change."""
        if self._detail_over == "no":
            self._detail_over = "unjudged"

    def is_whole_picture(self, start_ns: int, end_ns: int) -> bool:
        """Whether one request of this length ends the window, so that another would only be load."""
        return self._for_ns is None and end_ns - start_ns >= MIN_NS

    def wants_judgement(self, now_ns: int, events: int = 0) -> bool:
        """Whether it is worth knowing the first cause's share now, with so many events to judge."""
        if self._for_ns is not None or self._kind == "command":
            return False
        if self._detail_over != "no":
            return self._detail_over == "unjudged" and self._kind == "watch" and now_ns >= self._start_ns + MIN_NS
        if events > JUDGEABLE_EVENTS:
            return False
        return now_ns >= self._next_judgement_ns and (self._kind != "url" or self._first_request is not None)

    def judged(self, taken_ns: int, share: Share | None, done_ns: int) -> None:
        """The share in a snapshot taken at `taken_ns`, known at `done_ns`; None: nothing could be said yet."""
        if self._detail_over == "unjudged":
            self._detail_over = "judged"
        if share is None:
            self._judged.clear()
        else:
            self._judged.append((taken_ns, share))
        self._next_judgement_ns = max(taken_ns + JUDGE_EVERY_NS, done_ns + JUDGE_COST_FACTOR * (done_ns - taken_ns))

    def ends(self, now_ns: int, events: int = 0) -> EndedBy | None:
        """Why the window is over at this moment, with so many events seen; None: it goes on."""
        elapsed_ns = now_ns - self._start_ns
        full = events >= MOST_EVENTS and self._kind != "command"
        if elapsed_ns >= self.longest_ns or full:
            return "limit"
        if self._for_ns is not None or self._kind == "command" or elapsed_ns < MIN_NS:
            return None
        if self._kind == "url" and self._first_request is None:
            return "request" if self._no_more_requests else None
        over = self._detail_over != "no" or (events > JUDGEABLE_EVENTS and elapsed_ns >= UNJUDGED_NS)
        if events >= ENOUGH_EVENTS or (over and (self._kind == "url" or self._seen_enough())):
            return "limit"
        if self._kind == "url" and self._first_request is not None:
            return self._url_ends(self._first_request, elapsed_ns)
        return "steady" if self._steady() else None

    def _url_ends(self, first: tuple[int, int], elapsed_ns: int) -> EndedBy | None:
        if self.is_whole_picture(*first) or self._no_more_requests:
            return "request"
        if self._steady():
            return "steady"
        return "limit" if elapsed_ns >= MAX_NS else None

    def _seen_enough(self) -> bool:
        """One request or its worth of waiting was seen."""
        return bool(self._judged) and (self._judged[-1][1].completed > 0 or self._judged[-1][1].waited_ns >= WAITED_NS)

    def _steady(self) -> bool:
        """Same first cause and nearly the same share for two seconds, and enough was seen."""
        if not self._seen_enough():
            return False
        last_ns, last = self._judged[-1]
        for taken_ns, share in reversed(self._judged):
            if share.cause != last.cause or abs(share.share - last.share) > STEADY_SHARE:
                return False
            if last_ns - taken_ns >= STEADY_NS:
                return True
        return False
