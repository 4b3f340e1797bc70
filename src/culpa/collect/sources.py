"""How waits are seen: by eBPF events, or by samples of /proc where tracing is impossible. One face for both.

The choice is made once, at the start: whatever speaks against tracing becomes a blind spot, never a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import polars as pl

from culpa.capture.manifest import BlindSpot
from culpa.collect.procfs import own_pid
from culpa.collect.sampler import Sampler, SamplerResult
from culpa.collect.trace import states
from culpa.collect.trace.ring import Records
from culpa.collect.trace.tracer import Tracer, TraceResult
from culpa.collect.window import MOST_EVENTS
from culpa.errors import TraceError

TakeStacks = Callable[[Records], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Rows so far, and what the kernel side cost in events and ns."""

    tables: Mapping[str, pl.DataFrame]
    events: int = 0
    lost_events: int = 0
    probe_cpu_ns: int = 0
    blind_spots: tuple[BlindSpot, ...] = ()
    detail_end_ns: int | None = None
    sums_from_ns: int | None = None


class Source(Protocol):
    """What watches the waits of some processes, from `start` to `stop`."""

    waits: Literal["events", "samples"]

    def start(self) -> None:
        """Begin.

        Raises:
            TraceError: it cannot watch on this host.
        """

    def watch(self, pids: Collection[int]) -> None:
        """Add processes."""

    def watched(self) -> frozenset[int]:
        """Processes watched so far, with those that it found by itself."""

    def events(self) -> int:
        """How many events it holds; cheap. Samples are no events."""

    def detail_ended(self) -> bool:
        """Whether events cost more than the budget, so that only sums are kept by now."""

    def thread_states(self) -> pl.DataFrame:
        """What it knows of threads beyond /proc, at this moment; `trace.states.SCHEMA`, may be empty."""

    def snapshot(self) -> Seen:
        """Rows so far; watching goes on."""

    def end(self) -> None:
        """See nothing more from now on."""

    def stop(self) -> Seen:
        """End and give all rows; a second call gives none."""

    def close(self) -> None:
        """End without rows; harmless after `stop`."""


class TraceSource:
    """eBPF events."""

    waits: Literal["events", "samples"] = "events"

    def __init__(self, pids: Collection[int], *, budget_percent: float, take_stacks: TakeStacks) -> None:
        self._tracer: Tracer | None = Tracer(
            pids=pids,
            exclude_pids={own_pid()},
            max_events=MOST_EVENTS,
            budget_percent=budget_percent,
            take_stacks=take_stacks,
        )

    def start(self) -> None:
        """Attach; see `Source.start`."""
        assert self._tracer is not None
        self._tracer.start()

    def watch(self, pids: Collection[int]) -> None:
        """Add processes; the tracer finds wakers and children by itself."""
        if self._tracer is not None and pids:
            self._tracer.watch(pids)

    def watched(self) -> frozenset[int]:
        """Processes watched so far."""
        return frozenset() if self._tracer is None else self._tracer.watched()

    def events(self) -> int:
        """Events drained so far."""
        return 0 if self._tracer is None else self._tracer.events()

    def detail_ended(self) -> bool:
        """Whether only sums are kept by now."""
        return self._tracer is not None and self._tracer.detail_ended()

    def thread_states(self) -> pl.DataFrame:
        """From the kernel's list of tasks."""
        return pl.DataFrame(schema=states.SCHEMA) if self._tracer is None else self._tracer.thread_states()

    def snapshot(self) -> Seen:
        """Rows so far."""
        return Seen(tables={}) if self._tracer is None else _from_trace(self._tracer.snapshot())

    def end(self) -> None:
        """Detach; the last events are still to be read."""
        if self._tracer is not None:
            self._tracer.detach()

    def stop(self) -> Seen:
        """Detach, and give all rows."""
        tracer, self._tracer = self._tracer, None
        return Seen(tables={}) if tracer is None else _from_trace(tracer.stop())

    def close(self) -> None:
        """Detach."""
        if self._tracer is not None:
            self._tracer.close()


class SampleSource:
    """Samples of /proc."""

    waits: Literal["events", "samples"] = "samples"

    def __init__(self, pids: Collection[int], *, peers: Collection[int], budget_percent: float) -> None:
        self._pids = frozenset(pids) | frozenset(peers)
        self._sampler: Sampler | None = Sampler(pids, peers=peers, budget_percent=budget_percent)

    def start(self) -> None:
        """Begin sweeping."""
        assert self._sampler is not None
        self._sampler.start()

    def watch(self, pids: Collection[int]) -> None:
        """Add processes."""
        self._pids |= frozenset(pids)
        if self._sampler is not None and pids:
            self._sampler.watch(pids)

    def watched(self) -> frozenset[int]:
        """Processes watched so far."""
        return self._pids

    def events(self) -> int:
        """None: sweeps are bounded by the budget."""
        return 0

    def detail_ended(self) -> bool:
        """Never: there is none."""
        return False

    def thread_states(self) -> pl.DataFrame:
        """Nothing beyond /proc."""
        return pl.DataFrame(schema=states.SCHEMA)

    def snapshot(self) -> Seen:
        """Rows so far."""
        return Seen(tables={}) if self._sampler is None else _from_samples(self._sampler.snapshot())

    def end(self) -> None:
        """End sweeping."""
        if self._sampler is not None:
            self._sampler.end()

    def stop(self) -> Seen:
        """End sweeping, and give all rows."""
        sampler, self._sampler = self._sampler, None
        return Seen(tables={}) if sampler is None else _from_samples(sampler.stop())

    def close(self) -> None:
        """End sweeping."""
        self.stop()


def open_source(
    pids: Collection[int],
    *,
    peers: Collection[int],
    trace: bool,
    budget_percent: float,
    take_stacks: TakeStacks,
) -> tuple[Source, tuple[BlindSpot, ...]]:
    """Start the best source this host allows, and say what it cannot see. Traced, it hands user stacks over."""
    spot = _untraced("events were not traced, as asked with --no-trace", "leave --no-trace out")
    if trace:
        tracing = TraceSource(set(pids) | set(peers), budget_percent=budget_percent, take_stacks=take_stacks)
        try:
            tracing.start()
        except TraceError as error:
            spot = _untraced(error.what, error.way_out)
        else:
            return tracing, ()
    sampling = SampleSource(pids, peers=peers, budget_percent=budget_percent)
    sampling.start()
    return sampling, (spot,)


def _untraced(why: str, way_out: str) -> BlindSpot:
    return BlindSpot(
        what="single waits: their lengths, wakers and kernel stages",
        why=f"{why}; threads were sampled from /proc instead",
        way_out=way_out,
    )


def _from_trace(result: TraceResult) -> Seen:
    return Seen(
        tables=result.tables,
        events=result.events,
        lost_events=result.lost_events,
        probe_cpu_ns=result.probe_cpu_ns,
        blind_spots=result.blind_spots,
        detail_end_ns=result.detail_end_ns,
        sums_from_ns=result.sums_from_ns,
    )


def _from_samples(result: SamplerResult) -> Seen:
    """Without culpa itself, which the sampler meets among the descendants of the shell it was started from."""
    own = own_pid()
    tables = {
        name: rows.filter(pl.col("pid") != own) if "pid" in rows else rows for name, rows in result.tables.items()
    }
    return Seen(tables=tables, blind_spots=result.blind_spots)
