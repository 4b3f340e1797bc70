"""What tracing costs while it runs: the probes' run time, and whether that and the draining stay within the budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from culpa.collect.trace.probes import Probes
from culpa.units import NS_PER_SECOND

MEASURED_EVENTS: Final = 20_000
"""Sample of the probes' run time; measuring each run of a probe costs half as much again as the probe."""
MEASURED_NS: Final = NS_PER_SECOND
STALE_NS: Final = 10 * NS_PER_SECOND
"""After that a sample of other processes' calls says little of how many they are now."""
SLIDING_NS: Final = NS_PER_SECOND // 2
PATIENCE_NS: Final = NS_PER_SECOND
"""The cost must stay above the budget for so long: a burst is worth its price."""
LOOK_EVERY_NS: Final = NS_PER_SECOND // 20


class ProbeCost:
    """Run time of the probes from now on: measured on a sample, the first second or the first 20,000 events, then
    extrapolated.

    By events where there were enough of them. Where there were few, most of the time went to other processes' calls,
    which the probes only turn away: that grows with time and not with the events.
    """

    def __init__(self, probes: Probes, *, now_ns: int, events: int, again: bool = False) -> None:
        """`again`: since an earlier sample was above the budget."""
        probes.start_measuring()
        self._again = again
        self._probes = probes
        self.start_ns, self._start_events = now_ns, events
        self._start_cost_ns = probes.probe_cpu_ns()
        self._sampled: tuple[int, int, int] | None = None

    def sample(self, now_ns: int, events: int, drain: Callable[[], int]) -> None:
        """End the measuring once there is enough; `drain` then reads what was measured but not yet read."""
        enough = events - self._start_events >= MEASURED_EVENTS or now_ns >= self.start_ns + MEASURED_NS
        if self._sampled is None and enough:
            self._probes.stop_measuring()
            self._sampled = self._seen(now_ns, drain())

    def _seen(self, now_ns: int, events: int) -> tuple[int, int, int]:
        """Run time, time and events since the start."""
        cost_ns = self._probes.probe_cpu_ns() - self._start_cost_ns
        return cost_ns, max(1, now_ns - self.start_ns), events - self._start_events

    def is_doubtful(self, now_ns: int) -> bool:
        """Whether it stands for other processes' calls, as they were once or long ago: another sample would tell."""
        by_time = self._sampled is not None and self._sampled[2] < MEASURED_EVENTS
        return by_time and (not self._again or now_ns - self.start_ns >= STALE_NS)

    def between(self, elapsed_ns: int, events: int) -> float:
        """Run time in ns that so many events in so long a stretch cost; 0 before anything was measured."""
        if self._sampled is None:
            return 0.0
        cost_ns, sampled_ns, sampled_events = self._sampled
        if sampled_events >= MEASURED_EVENTS:
            return cost_ns * events / sampled_events
        return cost_ns * elapsed_ns / sampled_ns

    def total_ns(self, now_ns: int, events: int) -> float:
        """Run time since the start."""
        cost_ns, elapsed_ns, seen = self._seen(now_ns, events)
        return cost_ns if self._sampled is None else max(cost_ns, self.between(elapsed_ns, seen))


class Budget:
    """Whether watching costs more than `percent` of one core, over the last half second and for long enough."""

    def __init__(self, percent: float) -> None:
        self._share = percent / 100
        self._looks: deque[tuple[int, int, int]] = deque()
        self._above_since_ns: int | None = None

    def exceeded(self, cost: ProbeCost, *, now_ns: int, events: int, thread_ns: int) -> bool:
        """Look again.

        Args:
            cost: what the probes cost.
            now_ns: CLOCK_MONOTONIC.
            events: drained so far.
            thread_ns: CPU time of the draining thread so far.
        """
        if self._looks and now_ns - self._looks[-1][0] < LOOK_EVERY_NS:
            return False
        self._looks.append((now_ns, events, thread_ns))
        while len(self._looks) > 1 and now_ns - self._looks[1][0] >= SLIDING_NS:
            self._looks.popleft()
        then_ns, then_events, then_thread_ns = self._looks[0]
        elapsed_ns = now_ns - then_ns
        if elapsed_ns < SLIDING_NS:
            return False
        spent_ns = cost.between(elapsed_ns, events - then_events) + thread_ns - then_thread_ns
        if spent_ns <= self._share * elapsed_ns:
            self._above_since_ns = None
            return False
        self._above_since_ns = now_ns if self._above_since_ns is None else self._above_since_ns
        return now_ns - self._above_since_ns >= PATIENCE_NS

    def forget(self) -> None:
        """Begin anew: something that happens but once has just cost a lot."""
        self._looks.clear()
