"""Batches: what a Redis' main thread works on in one go because one client sent it so (a pipeline, a transaction).

After each read Redis works through all whole commands that it holds (processInputBuffer in networking.c); EXEC runs all
that was queued. Each command may be short: none stands in the slow log, and everybody else waits for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from culpa.diagnose import redisholds
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisholds import Hold
from culpa.diagnose.redisserved import own_sockets
from culpa.diagnose.root import STALL_NS

if TYPE_CHECKING:
    from culpa.diagnose.redisview import RedisView

EXECUTES = "EXEC"
"""The slow log has the commands of a transaction one by one, and not EXEC itself (CMD_SKIP_SLOWLOG)."""
TRANSACTION = frozenset({"MULTI", EXECUTES})
LOGGED_PART = 2
"""With more than one part in so many in the slow log, single slow commands made it long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Commands after one read that held the main thread from `start_ns` to `end_ns`; `length_ns` of that it computed.

    `verb` and `pattern` are those of the first command of the message, `bytes` what that read brought.
    """

    verb: str
    pattern: str | None
    start_ns: int
    end_ns: int
    length_ns: int
    bytes: int

    @property
    def name(self) -> str:
        """Verb and pattern."""
        return " ".join(part for part in (self.verb, self.pattern) if part)


def seen(view: RedisView) -> tuple[Batch, ...] | None:
    """Those in which it computed for `STALL_NS` or more, and that no slow command accounts for: nobody notices shorter
    ones. Where single events have ended, those seen before, with all of their time.

    A message has several commands where its first bytes show more than one. None where its messages were not recorded,
    or where other threads read them, or where the slow log could not say that a command of it was slow.
    """
    served = view.picture.served.get(view.pid) if view.pid is not None else None
    threshold_us, new = view.number("slowlog-log-slower-than", "CONFIG GET"), view.number("new", "SLOWLOG GET")
    is_logged = threshold_us is not None and threshold_us >= 0 and new is not None and new < redisholds.SLOW_LOG_FULL
    if view.pid is None or served is None or served.elsewhere or not is_logged:
        return None
    own = own_sockets(view.picture.capture, served.requests["ino"].unique().to_list())
    several = pl.col("several") | (pl.col("verb").cast(pl.String) == EXECUTES)
    rows = served.long_reads.filter(~pl.col("ino").is_in(list(own)) & several).drop_nulls("verb")
    start_ns, end_ns = rows["exit_ns"].to_numpy(), rows["until_ns"].to_numpy()
    lengths = end_ns - start_ns
    if view.picture.graph is not None:
        lengths = redisholds.computed_ns(view.picture, view.pid, start_ns, end_ns)
    counted = view.counted("cmdstat_", "calls", "usec")
    columns = rows.select("verb", "pattern", "exit_ns", "until_ns", "bytes")
    found = [
        Batch(verb=verb, pattern=pattern, start_ns=start, end_ns=end, length_ns=length, bytes=size)
        for (verb, pattern, start, end, size), length in zip(columns.iter_rows(), lengths.tolist(), strict=True)
        if length >= STALL_NS and _are_short(counted, verb)
    ]
    return without_slow(found, view.logged)


def _are_short(counted: Mapping[str, tuple[float, ...]], verb: str) -> bool:
    """Whether commands of that verb, or in a transaction those that take most of the time, are short in the mean."""
    if verb in TRANSACTION:
        inside = {name: spent for name, spent in counted.items() if name.upper() not in TRANSACTION}
        calls, spent_us = max(inside.values(), key=lambda spent: spent[1], default=(0.0, 0.0))
    else:
        calls, spent_us = counted.get(verb.lower(), (0.0, 0.0))
    return 1000 * spent_us < redisholds.MIN_HOLD_NS * max(1.0, calls)


def without_slow(batches: Sequence[Batch], logged: Sequence[Hold]) -> tuple[Batch, ...]:
    """Without those of which half or more can be single commands that the slow log has; each entry is of one batch."""
    kept, entries = [], sorted(logged, key=lambda entry: entry.end_ns)
    for batch in sorted(batches, key=lambda batch: batch.end_ns):
        near = [one for one in entries if one.start_ns < batch.end_ns and batch.start_ns < one.end_ns]
        theirs: list[Hold] = []
        for entry in near:
            if sum(one.length_ns for one in theirs) + entry.length_ns <= batch.length_ns:
                theirs.append(entry)
        if sum(one.length_ns for one in theirs) * LOGGED_PART >= batch.length_ns:
            entries = [one for one in entries if one not in theirs]
        else:
            kept.append(batch)
    return tuple(kept)


def moments(view: RedisView, batches: Sequence[Batch]) -> Moments:
    """The root's time in which they ran; where single events have ended, so much of the stalls as their pace before
    makes likely.
    """
    if view.picture.graph is None:
        served, window = view.picture.served[view.pid or 0], view.picture.capture.manifest.window
        read_ns = served.requests["read_ns"]
        span_ns = max(1, int(read_ns.max()) - int(read_ns.min()))  # type: ignore[arg-type]  # an integer column
        pace = min(1.0, sum(batch.length_ns for batch in batches) / span_ns)
        return view.free_stalls.longest(int(pace * (window.end_ns - window.start_ns)))
    return Moments.of(view.running).within([(batch.start_ns, batch.end_ns) for batch in batches])
