"""Findings become causes: level, order, heads and becauses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from culpa.diagnose import detail, older, predict
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.moments import Moments
from culpa.diagnose.picture import Picture
from culpa.diagnose.root import STALL_NS
from culpa.diagnose.rule import Rule
from culpa.diagnose.verdict import Cause, Evidence, Level, Predicted, Who
from culpa.units import NS_PER_SECOND

CRITICAL_SHARE = 0.5
"""Of the root's time, and so are the next two: without the cause it would be less than half."""
WARNING_SHARE = 0.1
"""A tenth is the least that anybody would notice."""
MIN_NS_PER_REQUEST = 1_000_000
"""A millisecond: nobody waits for less."""
MIN_WALL_SHARE = 0.01
"""Of a thread's time in the window, where there are no requests to count by."""
MIN_NOTE_WALL_SHARE = 0.1
"""Of the window, for notes about a process or a host: below it nothing would be gained."""
CHANCE_NS = 100_000_000
"""What anybody notices, even if it came once."""
SAME_SHARE = 0.10
"""Shares this near to each other count as equal; then the nearer to a change comes first."""
ON_THE_CHAIN = 0.80
"""A cause of whose time this much lies on another's chain stands in that one's `because`."""
DOCS = "docs/reference/rules.md"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """A rule's finding with what the verdict needs to say of it."""

    rule: Rule
    finding: Finding
    share: float
    level: Level
    predicted: Predicted | None
    saves_seconds: float


def weigh(picture: Picture, rule: Rule, finding: Finding) -> Found:
    """Share, level and prediction of one finding."""
    ns = finding.moments.ns
    predicted = finding.predicted or predict.without(picture, finding.moments) if picture.has_price else None
    return Found(
        rule=rule,
        finding=finding,
        share=min(1.0, picture.share(ns)),
        level=_level(picture, finding),
        predicted=predicted,
        saves_seconds=_saves(picture, ns, predicted),
    )


def _level(picture: Picture, finding: Finding) -> Level:
    """Harm to the root's time, as the contract defines it."""
    if finding.kind == "risk":
        return "warning"
    moments = _but_for_chance(finding.moments) if finding.by_chance else finding.moments
    share = picture.share(moments.ns)
    per_request = picture.root.basis == "requests" and moments.ns / picture.request_count >= MIN_NS_PER_REQUEST
    if finding.only_note or share < WARNING_SHARE or not (per_request or _noticed(picture, moments)):
        return "note"
    return "critical" if share >= CRITICAL_SHARE else "warning"


def _but_for_chance(moments: Moments) -> Moments:
    """Without the request that it took most of, unless it took that one long."""
    if not len(moments.item):
        return moments
    items, index = np.unique(moments.item, return_inverse=True)
    taken = np.bincount(index, weights=moments.end_ns - moments.start_ns)
    if taken.max() >= CHANCE_NS:
        return moments
    rest = moments.item != items[taken.argmax()]
    return Moments(item=moments.item[rest], start_ns=moments.start_ns[rest], end_ns=moments.end_ns[rest])


def _noticed(picture: Picture, moments: Moments) -> bool:
    """Whether it took enough without being a millisecond of each request. What a check-up asks is answered in far less
    than that, so that only what a client can notice counts there.
    """
    if picture.is_checkup:
        return picture.root.stalls.common(moments) >= STALL_NS
    return picture.capture.manifest.target.kind != "url" and moments.ns >= MIN_WALL_SHARE * picture.root.wall_ns


def _saves(picture: Picture, ns: int, predicted: Predicted | None) -> float:
    """Seconds saved a request where the target's requests have a price of their own, else in the whole window."""
    if not picture.has_price:
        return ns / NS_PER_SECOND
    if predicted is None:
        return ns / picture.request_count / NS_PER_SECOND
    return max(0.0, (picture.typical_ns or 0.0) / NS_PER_SECOND - predicted.p50)


def is_worth_saying(picture: Picture, found: Found) -> bool:
    """Whether a finding is more than a note about next to nothing: a busy thread of an idle service is no news."""
    asked = picture.has_price or picture.is_checkup or not found.finding.only_note
    return asked or found.finding.moments.ns >= MIN_NOTE_WALL_SHARE * picture.root.wall_ns


def arrange(picture: Picture, found: list[Found]) -> tuple[Cause, ...]:
    """Heads in order, each with its becauses."""
    ordered = _in_order(found)
    heads: list[tuple[Found, list[Found]]] = []
    for entry in ordered:
        owner = next((head for head in heads if _lies_on(entry, head[0])), None)
        if owner is None:
            heads.append((entry, []))
        else:
            owner[1].append(entry)
    return tuple(_cause(picture, head, tuple(_cause(picture, b, ()) for b in becauses)) for head, becauses in heads)


_LEVEL_ORDER = {"critical": 0, "warning": 1, "note": 2}


def _in_order(found: list[Found]) -> list[Found]:
    """By level; within it the larger share first, shares within 10 % by nearness to a change, then by saving."""
    rest = sorted(found, key=lambda f: (-f.share, f.rule.id, f.finding.pid or 0))
    ordered: list[Found] = []
    while rest:
        top = rest[0].share
        near = [f for f in rest if f.share >= top * (1 - SAME_SHARE)]
        best = min(near, key=lambda f: (int(f.finding.nearness), -f.saves_seconds, f.rule.id, f.finding.pid or 0))
        ordered.append(best)
        rest.remove(best)
    return sorted(ordered, key=lambda f: _LEVEL_ORDER[f.level])


def _lies_on(entry: Found, head: Found) -> bool:
    """Whether `entry` is only another view of the head's time; a setting and a program's habit are independent
    remedies.
    """
    independent = {entry.finding.nearness, head.finding.nearness} == {Nearness.SETTING, Nearness.CODE}
    if independent or entry.finding.moments.ns == 0:
        return False
    return head.finding.moments.common(entry.finding.moments) >= ON_THE_CHAIN * entry.finding.moments.ns


def _evidence(picture: Picture, finding: Finding) -> tuple[Evidence, ...]:
    """The rule's evidence, and what can be added to that of any rule."""
    more = _seen_inside(picture, finding) + older.age(picture, finding) + detail.went_on(picture, finding)
    return finding.evidence + more


def _seen_inside(picture: Picture, finding: Finding) -> tuple[Evidence, ...]:
    """What the file is called where the process lives, for a file of a container."""
    path = finding.on.path if finding.on else None
    inner = picture.objects.inner_paths.get(path) if path else None
    if inner is None:
        return ()
    return (
        Evidence(fact="the process itself sees that file as", value=inner, unit="", threshold=None, source="files"),
    )  # fmt: skip


def who(picture: Picture, pid: int | None, tid: int | None) -> Who | None:
    """The process or thread as the verdict names it."""
    if pid is None:
        return None
    process = picture.objects.process(pid)
    comm = picture.objects.comm.get(tid) if tid is not None else None
    return Who(
        pid=pid, tid=tid, starttime=process.starttime, comm=comm or process.comm, cmdline=process.cmdline,
        unit=process.unit, cgroup=process.cgroup, container=process.container,
    )  # fmt: skip


def _cause(picture: Picture, found: Found, because: tuple[Cause, ...]) -> Cause:
    finding = found.finding
    lost = picture.capture.manifest.cost
    doubt = detail.doubt(picture) * (0.8 if lost.lost_events > 0.001 * max(1, lost.events) else 1.0)
    return Cause(
        id=found.rule.id, title=finding.title or found.rule.title, kind=finding.kind, level=found.level,
        share=round(found.share, 6), saves_seconds=round(found.saves_seconds, 9), predicted=found.predicted,
        confidence=round(finding.confidence * doubt, 3), who=who(picture, finding.pid, finding.tid), on=finding.on,
        evidence=_evidence(picture, finding), because=because,
        fixes=finding.fixes, docs=f"{DOCS}#{found.rule.id}",
    )  # fmt: skip
