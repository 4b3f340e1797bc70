"""Commands that keep Redis' one thread from everybody else: what counts as one, and which stalls they explain.

Two witnesses: what was seen on the server's sockets, exact to the microsecond but blind to what Redis does between
reading a command and answering it; and its slow log, which times the command alone and is exact to the second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from culpa.diagnose.moments import Moments
from culpa.diagnose.redisserved import own_sockets
from culpa.model.axis import Int64s
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND

if TYPE_CHECKING:
    from culpa.diagnose.picture import Picture
    from culpa.diagnose.redisview import RedisView

MIN_HOLD_NS = 1_000_000
"""Commands take microseconds; a hundred clients that each wait a millisecond longer notice."""
SLOW_LOG_FULL = 128
"""Entries in one window from which on others may be lost: the log's default length."""
LONGER_THAN_LOGGED, LOGGED_PART = 1.5, 4
"""The slow log leaves out the reading of the question and the writing of the answer: a little, or of a large answer
most of the time.
"""
UNIX_PORT = ":0"
"""All clients on a unix socket have its path and this as their address."""
FORKING = frozenset({"BGSAVE", "BGREWRITEAOF", "SYNC", "PSYNC"})
"""Commands that are as long as the fork they begin with, which is a cause of its own."""
BLOCKING = frozenset({"MIGRATE", "SAVE", "DEBUG"})
"""Commands that wait in the main thread by design (for another server, for the disk, asleep): their waiting is their
own.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One command that kept the main thread from everybody else.

    `start_ns` and `end_ns` bound when that was; from the slow log they are only known to the second, and `length_ns`
    lies somewhere between them. `arguments` counts the verb; `elements` and `bytes` are those of its key afterwards;
    `client` is who asked, as the slow log says it. `counted`: nobody saw this one, the server counted several of this
    verb, and their mean is its length.
    """

    verb: str
    start_ns: int
    end_ns: int
    length_ns: int
    pattern: str | None = None
    arguments: int | None = None
    option: str | None = None
    type: str | None = None
    elements: int | None = None
    bytes: int | None = None
    client: str | None = None
    exact: bool = True
    counted: bool = False


def seen(view: RedisView) -> tuple[Hold, ...] | None:
    """From the main thread's exchanges: a command is worked on until the next one is read, or it is answered.

    Its length is what the thread computed in that time: what it waited for has other causes, unless it is one of
    `BLOCKING`. None where events were not recorded.
    """
    picture = view.picture
    if view.pid is None or picture.graph is None:
        return None
    rows = _asked(picture, view.pid)
    if rows.is_empty():
        return None
    messages = dict(rows.group_by("verb").len().iter_rows())
    sizes, sampled = {(hold.verb, hold.pattern): hold for hold in view.logged}, _sampled(view)
    found = []
    for hold in _long(picture, view.pid, rows):
        ran = view.grown(f"cmdstat_{hold.verb.lower()}", "calls")
        if is_one_of_many(hold.length_ns, messages=messages.get(hold.verb, 1), commands=ran):
            continue
        found.append(_sized(hold, sizes.get((hold.verb, hold.pattern)) or sampled.get(hold.pattern)))
    threshold_us, new = view.number("slowlog-log-slower-than", "CONFIG GET"), view.number("new", "SLOWLOG GET")
    if threshold_us is None or threshold_us < 0 or new is None or new >= SLOW_LOG_FULL:
        return tuple(found)
    return accounted(found, view.logged, threshold_ns=int(threshold_us * 1000))


def _sized(hold: Hold, told: Hold | None) -> Hold:
    """With what another witness knows of its arguments and its key."""
    if told is None:
        return hold
    return replace(
        hold, arguments=told.arguments, option=told.option, type=told.type, elements=told.elements, bytes=told.bytes
    )


def of_process(picture: Picture, pid: int) -> tuple[Hold, ...]:
    """What a server that was not asked is seen to have worked on for long; nothing where events were not recorded.

    A message of several commands counts as one of the first.
    """
    return () if picture.graph is None else _long(picture, pid, _asked(picture, pid))


def _asked(picture: Picture, pid: int) -> pl.DataFrame:
    """The server's exchanges whose question was read in the window, with `until`: when the next one was read, or this
    one answered. Those of culpa itself are left out.
    """
    rows = picture.requests.exchanges.filter(
        (pl.col("role") == "server") & (pl.col("pid") == pid) & pl.col("ask_end_ns").is_not_null()
    ).sort("ask_end_ns")
    end_ns = picture.capture.manifest.window.end_ns
    next_ns = pl.col("ask_end_ns").shift(-1).over("tid").fill_null(end_ns)
    rows = rows.with_columns(until=pl.min_horizontal(pl.col("answer_end_ns").fill_null(end_ns), next_ns))
    own = own_sockets(picture.capture, rows["ino"].drop_nulls().unique().to_list())
    return rows.filter(~pl.col("ino").is_in(list(own)))


def _long(picture: Picture, pid: int, rows: pl.DataFrame) -> tuple[Hold, ...]:
    """Those of the rows, as from `_asked`, on which the main thread computed for `MIN_HOLD_NS`, or waited by design."""
    rows = rows.filter(pl.col("until") - pl.col("ask_end_ns") >= MIN_HOLD_NS)
    start_ns, end_ns = rows["ask_end_ns"].to_numpy(), rows["until"].to_numpy()
    ready_ns = spent_ns(picture, pid, start_ns, end_ns, Kind.RUNNABLE)
    waits = rows["verb"].cast(pl.String).is_in(list(BLOCKING)).fill_null(value=False).to_numpy()
    length = np.where(waits, end_ns - start_ns - ready_ns, computed_ns(picture, pid, start_ns, end_ns))
    rows = rows.with_columns(length=pl.Series(length, dtype=pl.Int64)).filter(pl.col("length") >= MIN_HOLD_NS)
    return tuple(
        Hold(verb=verb or "a command", pattern=pattern, start_ns=start, end_ns=until, length_ns=length)
        for verb, pattern, start, until, length in rows.select(
            "verb", "detail", "ask_end_ns", "until", "length"
        ).iter_rows()
    )


def computed_ns(picture: Picture, pid: int, start_ns: Int64s, end_ns: Int64s) -> Int64s:
    """How long the main thread was on a CPU within each stretch of time; needs waits that were seen one by one."""
    return spent_ns(picture, pid, start_ns, end_ns, Kind.RUNNING)


def spent_ns(picture: Picture, pid: int, start_ns: Int64s, end_ns: Int64s, kind: Kind) -> Int64s:
    """The same of any state of the main thread."""
    graph = picture.graph
    assert graph is not None
    lane = int(graph.axis.lane(np.array([pid], dtype=np.int64))[0])
    zero = np.zeros(len(start_ns), np.int64)
    if lane < 0:
        return zero
    base = lane * graph.axis.span - graph.axis.start_ns
    first, last = np.searchsorted(graph.start, [lane * graph.axis.span, (lane + 1) * graph.axis.span])
    mine = np.flatnonzero(graph.kind[first:last] == kind) + first
    item = np.zeros(len(mine), np.int64)
    there = Moments(item=item, start_ns=graph.start[mine] - base, end_ns=graph.end[mine] - base)
    return there.overlap(start_ns, end_ns, zero)


def _sampled(view: RedisView) -> dict[str | None, Hold]:
    """The largest keys of a sample, by their pattern: their type and size, of no command."""
    found: dict[str | None, Hold] = {}
    for _, key in sorted(view.numbered("KEYS SAMPLED").items(), reverse=True):
        if "pattern" in key:
            found[key["pattern"]] = Hold(
                verb="", start_ns=0, end_ns=0, length_ns=0, pattern=key["pattern"], type=key.get("type"),
                elements=_whole(key.get("length")), bytes=_whole(key.get("bytes")),
            )  # fmt: skip
    return found


def logged(view: RedisView) -> tuple[Hold, ...]:
    """From slow log entries of the window but culpa's own; the log knows the second in which a command ended."""
    window = view.picture.capture.manifest.window
    return tuple(hold for hold in all_logged(view) if hold.end_ns >= window.start_ns and hold.start_ns <= window.end_ns)


def all_logged(view: RedisView) -> tuple[Hold, ...]:
    """The same of all that the slow log got since culpa began to ask, whatever part of that is judged."""
    window, found, own = view.picture.capture.manifest.window, [], view.text("addr", "CLIENT INFO")
    for entry in view.numbered("SLOWLOG GET").values():
        length, second = number_of(entry.get("us")), number_of(entry.get("at_unix"))
        is_own = own is not None and entry.get("client") == own and not own.endswith(UNIX_PORT)
        if length is None or second is None or not entry.get("verb") or is_own:
            continue
        end = window.start_ns + int((second + 1) * NS_PER_SECOND) - window.start_realtime_ns
        start = end - 2 * NS_PER_SECOND - int(length * 1000)
        found.append(
            Hold(
                verb=entry["verb"], start_ns=start, end_ns=end, length_ns=int(length * 1000), exact=False,
                pattern=entry.get("pattern"), arguments=_whole(entry.get("arguments")), option=entry.get("option"),
                type=entry.get("type"), elements=_whole(entry.get("length")), bytes=_whole(entry.get("bytes")),
                client=_asker(entry),
            )
        )  # fmt: skip
    return tuple(found)


def _asker(entry: Mapping[str, str]) -> str | None:
    """Who asked, by its name and without its port, which is another one each time it connects."""
    address, name = entry.get("client"), entry.get("client_name")
    if not address:
        return None
    host = address.rpartition(":")[0] or address
    place = "a unix socket" if host.startswith("/") else f"{host}:*"
    return f"{place} (name={name})" if name else place


def stalled_by(view: RedisView, holds: tuple[Hold, ...]) -> Moments:
    """The root's time in which these commands ran.

    Exactly where they were seen; else the stalls of the seconds they ended in, as much of each as they took.
    """
    if all(hold.exact for hold in holds):
        computed = Moments.of(view.running).within([(hold.start_ns, hold.end_ns) for hold in holds])
        blocking = [(hold.start_ns, hold.end_ns) for hold in holds if hold.verb in BLOCKING]
        return computed.plus(view.all_moments.within(blocking))
    return explained(view.stalls, holds)


def is_one_of_many(length_ns: int, *, messages: int, commands: float) -> bool:
    """Whether a time of `length_ns` is that of a pipeline of small commands, not of one long one.

    Only the first command in a message has its verb seen: so many messages began with that verb, and so many commands
    of it the server counted meanwhile.
    """
    return length_ns * max(1, messages) < MIN_HOLD_NS * commands


def accounted(holds: Sequence[Hold], logged: Sequence[Hold], *, threshold_ns: int) -> tuple[Hold, ...]:
    """Without those that the slow log would have and has not; one entry accounts for one of them.

    Between reading a command and answering it Redis also frees memory for it (eviction), expires keys and serves its
    timers: none of that is the command's.
    """
    kept, entries = [], sorted(logged, key=lambda entry: entry.end_ns)
    for hold in sorted(holds, key=lambda hold: hold.end_ns):
        if hold.length_ns > LONGER_THAN_LOGGED * threshold_ns:
            entry = next((one for one in entries if _tells_of(one, hold)), None)
            if entry is None:
                continue
            entries.remove(entry)
        kept.append(hold)
    return tuple(kept)


def explained(stalls: Moments, holds: Sequence[Hold]) -> Moments:
    """The stalls of the seconds in which these commands ended, as much of each stall as a command took."""
    items, starts, ends = [], [], []
    left = {number: hold.length_ns for number, hold in enumerate(holds)}
    longest_first = sorted(
        zip(stalls.item.tolist(), stalls.start_ns.tolist(), stalls.end_ns.tolist(), strict=True),
        key=lambda stall: stall[1] - stall[2],
    )
    for item, start, end in longest_first:
        fits = [n for n, hold in enumerate(holds) if left[n] > 0 and hold.start_ns < end and hold.end_ns > start]
        if not fits:
            continue
        # Of the very second if there is one, and of these the one whose length is nearest to the stall; what is left of
        # it may explain another.
        best = min(fits, key=lambda n: (not _ends_in_second(holds[n], end), abs(left[n] - (end - start))))
        taken = min(left[best], end - start)
        left[best] -= taken
        items.append(item)
        starts.append(end - taken)
        ends.append(end)
    return Moments.of_rows(items, starts, ends)


def _ends_in_second(entry: Hold, moment_ns: int) -> bool:
    """Whether that is in the second that an entry of the slow log names; its bounds leave one more before it."""
    return entry.end_ns - NS_PER_SECOND <= moment_ns <= entry.end_ns


def _tells_of(entry: Hold, hold: Hold) -> bool:
    """Whether an entry of the slow log can be this command: its verb, its second, and most of its length."""
    near = entry.start_ns < hold.end_ns and hold.start_ns < entry.end_ns
    return entry.verb == hold.verb and near and entry.length_ns * LOGGED_PART >= hold.length_ns


def number_of(text: str | None) -> float | None:
    """A text as a number; None where it is none, or one of the `inf` and `nan` of ratios to nothing."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(text: str | None) -> int | None:
    number = number_of(text)
    return None if number is None else int(number)
