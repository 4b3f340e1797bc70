"""A fixed number of workers or of connections, all of them taken by other requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.diagnose.code import line_of
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.crews import (
    MIN_QUEUED_SHARE,
    Crew,
    all_at_once,
    all_busy,
    crews,
    is_behind_another,
    served_meanwhile,
)
from culpa.diagnose.rules.evidence import (
    activities,
    code_evidence,
    lasted,
    seconds,
    threads_of,
    without_run_queue,
)
from culpa.diagnose.tree import label
from culpa.diagnose.verdict import Evidence, On
from culpa.model.kinds import Kind

MIN_WORKERS = 2
"""Threads that serve; one alone is a loop, which has a rule of its own."""
MIN_FULL_SHARE = 0.8
"""Of the time in the queue: for so much of it all workers, or all connections, were seen at work. The rest is room for
the moments in which one has just ended and takes what comes next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """What was all taken, in words for the title and for the evidence, for how long (ns), and how sure that is."""

    title: str
    fact: str
    peer: str | None
    full_ns: int
    sure: float


@rule(
    id="app.pool.exhausted",
    title="All workers are busy with other requests",
    needs=(schema.OFFCPU, schema.SYSCALLS, schema.MESSAGES),
    fixes=(),
    fires=(Lab("pool-exhausted"),),
    silent=(Lab("pool-exhausted-healthy"), Lab("loop-blocked"), Lab("lock-holders"), Lab("cpu-busy")),
)
def exhausted(picture: Picture) -> Iterator[Finding]:
    """What it detects: requests wait, not read or for something that threads within other requests give back, while all
    threads that read requests, or all connections to a peer, are taken by other requests.

    Why it slows you: a quick request waits for a slow one although the machine has nothing to do.

    How sure: the threads' own calls show which request each of them works on, and who handed on what was waited for.
    The size is the number of threads (of all processes behind one port), or of connections, that were seen in use in
    the window; where neither can be counted the cause says so in its title and is less sure. One thread
    alone is `app.loop.blocked`.

    What to do: shorten what they do, as the named line shows; or allow more of them, as long as what they wait for can
    serve more.
    """
    for crew in crews(picture):
        nodes = _queued(picture, crew)
        moments = picture.moments(*nodes)
        if len(crew.tids) < MIN_WORKERS or picture.share(without_run_queue(picture, nodes)) < MIN_QUEUED_SHARE:
            continue
        pool = _pool(picture, crew, nodes, moments)
        if pool is None:
            continue
        line = line_of(picture, threads_of(picture, nodes))
        evidence = [lasted(picture, "queued behind other requests", nodes), _size(pool, moments)]
        evidence += [lasted(picture, f"behind {text}", found) for text, found in served_meanwhile(picture, nodes)]
        evidence += [
            lasted(picture, f"meanwhile they were {what}", found) for what, found in activities(picture, nodes)
        ]
        evidence += [lasted(picture, f"most of it: {what}", found) for what, found in _longest(picture, nodes)]
        if line is not None:
            evidence.append(code_evidence(line))
        yield Finding(
            moments=moments,
            nearness=Nearness.CODE,
            pid=crew.pids[0],
            tid=None,
            on=On(peer=pool.peer, code=line.place if line else None),
            evidence=tuple(evidence),
            confidence=pool.sure,
            title=pool.title,
        )


def _queued(picture: Picture, crew: Crew) -> list[int]:
    """The uppermost nodes in which a request is queued behind another one at a thread of the crew."""
    blamed = picture.blame.nodes
    found = {n for n in picture.nodes(Kind.QUEUED) if blamed[n].who in crew.tids and is_behind_another(blamed[n].on)}
    return sorted(n for n in found if not found & set(picture.blame.path(n)[:-1]))


def _pool(picture: Picture, crew: Crew, nodes: list[int], moments: Moments) -> _Pool | None:
    """What was taken meanwhile: all threads, or all connections to one peer, or something that cannot be counted; None
    where a thread was free.
    """
    shared_ns = picture.moments(*_shared(picture, nodes)).ns
    workers = len(crew.tids)
    full_ns = _within(all_busy(picture, crew), moments)
    if full_ns >= MIN_FULL_SHARE * moments.ns:
        fact = f"all {workers} threads of {_names(picture, crew)} were at work meanwhile"
        return _Pool(title=f"All {workers} workers are busy with other requests", fact=fact, peer=None,
            full_ns=full_ns, sure=0.9)  # fmt: skip
    for peer, uses in _connections(picture, crew).items():
        size = len(np.unique(uses.item))
        full_ns = _within(all_at_once(uses, size), moments)
        if shared_ns and full_ns >= MIN_FULL_SHARE * moments.ns:
            fact = f"all {size} connections of {_names(picture, crew)} to {peer} were in use meanwhile"
            return _Pool(title=f"All {size} connections to a peer are in use by other requests", fact=fact,
                peer=peer, full_ns=full_ns, sure=0.9)  # fmt: skip
    if shared_ns < MIN_FULL_SHARE * moments.ns:
        return None
    fact = f"handed on by threads of {_names(picture, crew)} that served other requests"
    return _Pool(title="It waits for what other requests hold", fact=fact, peer=None, full_ns=shared_ns, sure=0.7)


def _shared(picture: Picture, nodes: list[int]) -> list[int]:
    """Those in which the request was read already: its thread waits for what other requests' threads give back."""
    return [n for n in nodes if (on := picture.blame.nodes[n].on) is not None and on.syscall is not None]


def _within(full: Moments, moments: Moments) -> int:
    """How much of some moments, of whichever requests, lies in those of item 0."""
    return int(full.overlap(moments.start_ns, moments.end_ns, np.zeros(len(moments.item), np.int64)).sum())


def _connections(picture: Picture, crew: Crew) -> dict[str, Moments]:
    """Per peer that these processes ask: when each connection (the item) had a question that was not answered yet."""
    window, sockets = picture.capture.manifest.window, picture.objects.sockets
    rows = picture.requests.exchanges.filter((pl.col("role") == "client") & pl.col("pid").is_in(crew.pids))
    asked = rows.select(
        pl.col("ino").cast(pl.Int64),
        start=pl.col("ask_start_ns").fill_null(window.start_ns),
        end=pl.col("answer_end_ns").fill_null(window.end_ns),
    )
    of_peer: dict[str, list[int]] = defaultdict(list)
    for ino in asked["ino"].unique().sort().to_list():
        if ino in sockets:
            of_peer[sockets[ino].peer].append(ino)
    return {peer: _uses(asked.filter(pl.col("ino").is_in(inos))) for peer, inos in of_peer.items()}


def _uses(asked: pl.DataFrame) -> Moments:
    return Moments.union(*(asked[name].to_numpy() for name in ("ino", "start", "end")))


def _names(picture: Picture, crew: Crew) -> str:
    """The first process, and how many more there are."""
    first, more = crew.pids[0], len(crew.pids) - 1
    name = f"{picture.objects.process(first).comm}[{first}]"
    return f"{name} and {more} more" if more else name


def _longest(picture: Picture, nodes: list[int]) -> list[tuple[str, list[int]]]:
    """The largest of the innermost parts of the queue, as the tree calls it, if it is about something."""
    blamed = picture.blame.nodes
    leaves = {n for node in nodes for n in picture.blame.subtree(node) if not blamed[n].children and blamed[n].on}
    leaves -= set(nodes)
    alike: dict[tuple[Kind, object], list[int]] = defaultdict(list)
    for n in sorted(leaves):
        alike[blamed[n].kind, blamed[n].on].append(n)
    if not alike:
        return []
    group = max(alike.values(), key=lambda found: picture.moments(*found).ns)
    return [(label(picture, group), group)]


def _size(pool: _Pool, moments: Moments) -> Evidence:
    return Evidence(
        fact=pool.fact, value=seconds(pool.full_ns), unit="s", threshold=seconds(MIN_FULL_SHARE * moments.ns),
        source="messages",
    )  # fmt: skip
