"""A capture judged: the verdict."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.capture.manifest import BlindSpot
from culpa.diagnose import causes as causes_of
from culpa.diagnose import detail, redisserved, sampled, smallcalls, stalls, summed, tree, workers
from culpa.diagnose.acquittals import figures
from culpa.diagnose.causes import Found
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture, draw, draw_sums
from culpa.diagnose.rule import Answer, Failed, Fired, Rule, Skipped
from culpa.diagnose.ruled_out import ruled_out
from culpa.diagnose.rules import RULES
from culpa.diagnose.verdict import (
    Cause,
    Commands,
    CostView,
    Culpa,
    Evidence,
    HostView,
    Node,
    Observed,
    Root,
    Stalls,
    State,
    TargetView,
    Verdict,
    WindowView,
)  # fmt: skip
from culpa.diagnose.verdict import (
    Check as CheckAnswer,
)
from culpa.model import backing, requests
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND, format_seconds, format_share, printable

MIN_SEEN_NS = 100_000_000
"""Less of the root than this is too little to acquit anybody, and to accuse anybody of by sums."""
MAX_UNEXPLAINED = 0.5
"""Above this share of unexplained time a slow target cannot be called healthy."""
P99_FROM = 100
"""Finished requests; with fewer the slowest of them is all that a 99th percentile could say."""
MIN_PINGS = 20
"""Half a second of a check-up; fewer acquit nobody."""


def judge(capture: Capture, rules: tuple[Rule, ...] = RULES) -> Verdict:
    """The verdict on a capture: a pure function, the same for the same capture.

    A caller that keeps no reference to the capture saves the memory of its messages.
    """
    window, sums = _window(capture), summed.part(capture)
    asked, end_ns = _asked(capture), capture.manifest.window.end_ns
    capture = backing.united(detail.part(capture))
    exchanges = requests.find(capture)
    served = redisserved.find(capture, exchanges)
    capture = capture.without_rows(schema.MESSAGES)  # a large table, and the exchanges say all that is asked of it
    picture = replace(draw(capture, exchanges), asked=asked, asked_until_ns=end_ns, served=served)
    said = _opinion(picture, rules)
    if sums is not None:
        # The trouble may have come, or shown itself, only after single events ended.
        later = draw_sums(backing.united(sums), exchanges)
        later = replace(later, asked=asked, asked_until_ns=end_ns, served=served, small_calls=smallcalls.named(picture))
        said_later, known = _opinion(later, rules), {cause.id for cause in said.heads}
        enough = later.root.ns >= MIN_SEEN_NS
        if enough and _worst_ns(later, said_later.heads, known=known) > _worst_ns(picture, said.heads):
            picture, said = later, said_later
    manifest, heads = capture.manifest, said.heads
    state = _state(picture, heads)
    blame = tree.of(picture)
    return Verdict(
        culpa=Culpa(version=manifest.culpa_version),
        host=HostView(kernel=manifest.host.kernel, machine=manifest.host.machine, cpus=manifest.host.cpus,
            memory_bytes=manifest.host.memory_bytes),
        headline=_headline(picture, blame, heads, state),
        state=state,
        target=TargetView(kind=manifest.target.kind, name=manifest.target.name, pids=manifest.target.pids),
        window=window,
        root=Root(
            basis=picture.root.basis, seconds=picture.root.ns / NS_PER_SECOND, threads=picture.root.threads,
            idle_seconds=picture.root.idle_ns / NS_PER_SECOND,
        ),
        observed=_observed(picture),
        blame=blame,
        causes=heads,
        ruled_out=ruled_out(picture),
        blind_spots=manifest.blind_spots + said.broken, checks=said.checks if picture.is_checkup else (),
        commands=_commands(picture), stalls=said.stalls,
        cost=CostView(
            events=manifest.cost.events, lost_events=manifest.cost.lost_events,
            probe_cpu_seconds=manifest.cost.probe_cpu_ns / NS_PER_SECOND,
            culpa_cpu_seconds=manifest.cost.culpa_cpu_ns / NS_PER_SECOND, peak_rss_bytes=manifest.cost.peak_rss_bytes,
        ),
    )  # fmt: skip


def _asked(capture: Capture) -> pl.DataFrame | None:
    """culpa's own requests, where events ended before the window: their length goes on being measured."""
    if capture.manifest.evidence.detail_end_ns is None or capture.frame(schema.REQUESTS).is_empty():
        return None
    return sampled.own_requests(capture)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opinion:
    """What the rules say of one picture; `broken`: those that failed."""

    heads: tuple[Cause, ...]
    broken: tuple[BlindSpot, ...]
    checks: tuple[CheckAnswer, ...]
    stalls: Stalls | None


def _opinion(picture: Picture, rules: tuple[Rule, ...]) -> _Opinion:
    found, broken, checks = _ask(picture, rules)
    heads = causes_of.arrange(picture, found)
    return _Opinion(heads=heads, broken=broken, checks=checks, stalls=stalls.of(picture, found))


def _worst_ns(picture: Picture, heads: tuple[Cause, ...], known: Collection[str] = ()) -> float:
    """The time of the cause above a note that took the most of it, those that are known by then left out."""
    told = (cause for cause in heads if cause.level != "note" and cause.id not in known)
    return max((cause.share * picture.root.ns for cause in told), default=0.0)


def _ask(
    picture: Picture, rules: tuple[Rule, ...]
) -> tuple[list[Found], tuple[BlindSpot, ...], tuple[CheckAnswer, ...]]:
    found: list[Found] = []
    broken: list[BlindSpot] = []
    checks: list[CheckAnswer] = []
    for one in rules:
        answer = one.ask(replace(picture, explained=_explained(found)) if one.last else picture)
        if one.id.startswith("redis."):
            checks.append(_check(one, answer, figures(picture, one.id) if picture.is_checkup else ()))
        if isinstance(answer, Fired):
            weighed = (causes_of.weigh(picture, one, finding) for finding in workers.together(picture, answer.findings))
            found.extend(entry for entry in weighed if causes_of.is_worth_saying(picture, entry))
        elif isinstance(answer, Failed):
            broken.append(
                BlindSpot(
                    what=one.id,
                    why=f"the rule failed: {answer.error}",
                    way_out="report this, with the capture if you can share it",
                )
            )
    return found, tuple(broken), tuple(checks)


def _explained(found: list[Found]) -> Moments:
    """Where the causes found so far lie."""
    return Moments.of_all(entry.finding.moments for entry in found)


def _commands(picture: Picture) -> tuple[Commands, ...]:
    found = (view.commands for view in picture.redis_servers)
    return tuple(table for table in found if table is not None)


def _check(rule: Rule, answer: Answer, evidence: tuple[Evidence, ...]) -> CheckAnswer:
    if isinstance(answer, Skipped):
        return CheckAnswer(id=rule.id, title=rule.title, answer="skipped", why=answer.why, evidence=evidence)
    if isinstance(answer, Failed):
        return CheckAnswer(id=rule.id, title=rule.title, answer="skipped", why=f"the rule failed: {answer.error}")
    said: Literal["fired", "clear"] = "fired" if isinstance(answer, Fired) else "clear"
    return CheckAnswer(id=rule.id, title=rule.title, answer=said, evidence=evidence)


def _state(picture: Picture, heads: tuple[Cause, ...]) -> State:
    """Slow with a cause; not slow if enough was seen and explained; unknown if not, or if it is slow without a
    cause.
    """
    if any(cause.level != "note" for cause in heads):
        return "slow"
    if picture.is_slow or (picture.has_price and picture.typical_ns is None):
        return "unknown"
    if picture.is_checkup:  # stalls that nothing explains would be a cause of their own
        return "not-slow" if picture.request_count >= MIN_PINGS else "unknown"
    seen = picture.root.ns >= MIN_SEEN_NS or len(picture.root.requests) > 0
    explained = picture.share(_unexplained(picture)) <= MAX_UNEXPLAINED
    idle = picture.root.basis == "threads" and picture.root.threads > 0 and picture.root.ns < MIN_SEEN_NS
    return "not-slow" if (seen and explained) or idle else "unknown"


def _unexplained(picture: Picture) -> int:
    return sum(picture.blame.nodes[n].ns for n in _leaves(picture, Kind.UNEXPLAINED))


def _leaves(picture: Picture, kind: Kind) -> list[int]:
    return [n for n in picture.nodes(kind) if not picture.blame.nodes[n].children]


def _window(capture: Capture) -> WindowView:
    window = capture.manifest.window
    start = datetime.fromtimestamp(window.start_realtime_ns // NS_PER_SECOND, UTC)
    return WindowView(
        start=start.isoformat().replace("+00:00", "Z"),
        seconds=(window.end_ns - window.start_ns) / NS_PER_SECOND,
        ended_by=window.ended_by,
    )


def _observed(picture: Picture) -> Observed | None:
    rows = picture.timed
    if rows.is_empty():
        return None
    start_ns = picture.capture.manifest.window.start_ns
    end_ns = picture.capture.manifest.window.end_ns if picture.asked is None else picture.asked_until_ns
    done = rows.filter(pl.col("done"))
    times = (done["end_ns"] - done["start_ns"]).to_numpy() / NS_PER_SECOND
    flying = rows.filter(~pl.col("done") & (pl.col("end_ns") >= end_ns))
    age = (end_ns - flying["start_ns"].to_numpy()) / NS_PER_SECOND
    return Observed(
        completed=len(times), in_flight=len(age), in_flight_age=float(age.max()) if len(age) else None,
        p50=float(np.median(times)) if len(times) else None,
        p99=float(np.quantile(times, 0.99)) if len(times) >= P99_FROM else None,
        max=float(times.max()) if len(times) else None,
        per_second=len(times) / max(1e-9, (end_ns - start_ns) / NS_PER_SECOND),
    )  # fmt: skip


# The headline -----------------------------------------------------------------------------------------------


def _headline(picture: Picture, blame: Node, heads: tuple[Cause, ...], state: State) -> str:
    """One sentence to paste into a chat."""
    name = picture.capture.manifest.target.name or "this host"
    took = _took(picture)
    if state == "slow":
        top = next(cause for cause in heads if cause.level != "note")
        who = f"{top.who.comm or 'process'}[{top.who.pid}]" if top.who else ""
        saved = f"; without it about {format_seconds(top.predicted.p50)}" if top.predicted else ""
        sentence = (
            f"{name}{took}: {format_share(top.share)} because of {who or 'this'}: {_lower_first(top.title)}{saved}"
        )
    elif state == "not-slow":
        sentence = f"{name}{took}: nothing to blame; no cause cost it a tenth of its time"
    else:
        sentence = f"{name}{took}: no cause can be named; {_largest(blame)}"
    return printable(sentence, 400)


def _largest(blame: Node) -> str:
    """The largest leaf of the tree, for a reader who has to go on alone."""
    leaves, todo = [], [blame]
    while todo:
        node = todo.pop()
        todo.extend(node.children)
        if not node.children and node is not blame:
            leaves.append(node)
    if not leaves:
        return "nothing of it was seen"
    largest = max(leaves, key=lambda node: node.seconds)
    return f"the largest part is {largest.label} ({format_share(largest.share)})"


def _took(picture: Picture) -> str:
    seen = _observed(picture) if picture.has_price else None
    if seen is None:
        return ""
    if seen.p50 is not None:
        return f" takes {format_seconds(seen.p50)}"
    return f" has been waiting for {format_seconds(seen.in_flight_age)}" if seen.in_flight_age is not None else ""


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
