"""The terminal page as lines of label and text, before any colour or wrapping: the answer, the proof, the details.

How much of it is said is a `Detail`; `terminal.py` takes the richest one that fits on a screen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from culpa.diagnose.verdict import Cause, Node, Verdict
from culpa.report import wording
from culpa.units import format_count, format_seconds, format_share

Style = Literal["slow", "not-slow", "unknown", "head", "plain", "faint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A label in the margin and its text; the text is wrapped beside the label. `tail` is kept at the right edge."""

    text: str
    label: str = ""
    indent: int = 0
    style: Style = "plain"
    tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """How many items of each kind are shown, and rows of each text; what is left out is counted."""

    heads: int
    facts: int
    becauses: int
    fixes: int
    ruled_out: int
    blind_spots: int
    rows: int
    commands: int = 4
    sources: bool = False
    tree: bool = False


BLANK = Line(text="")
MAX_TREE_NODES = 120
MAX_SERVERS = 2
"""Of which commands are shown: the one that is examined, and perhaps another that was met."""
SMALLEST_SHOWN_SHARE = 0.005


def lines(verdict: Verdict, detail: Detail) -> Iterator[Line]:
    """The whole page."""
    yield Line(text=wording.sentence(verdict.headline), style=verdict.state)
    yield from _observed(verdict)
    shown = verdict.causes[: detail.heads]
    for number, cause in enumerate(shown, start=1):
        yield BLANK
        yield from _head(number, cause, verdict, detail)
    yield from _rest(verdict.causes[detail.heads :])
    yield from _commands(verdict, detail)
    yield BLANK
    yield from _ruled_out(verdict, detail)
    yield from _blind_spots(verdict, detail)
    yield from _watched(verdict)
    if detail.tree:
        yield BLANK
        yield Line(text="Where the time went", style="head")
        yield from _tree(verdict)


def _observed(verdict: Verdict) -> Iterator[Line]:
    seen = verdict.observed
    if seen is None:
        return
    parts = [f"{format_count(seen.completed)} finished"]
    for label, seconds in (("median", seen.p50), ("p99", seen.p99), ("longest", seen.max)):
        if seconds is not None:
            parts.append(f"{label} {format_seconds(seconds)}")
    if seen.in_flight:
        age = f", oldest {format_seconds(seen.in_flight_age)}" if seen.in_flight_age is not None else ""
        parts.append(f"{format_count(seen.in_flight)} still open{age}")
    yield Line(label="requests", text=", ".join(parts))


def _head(number: int, cause: Cause, verdict: Verdict, detail: Detail) -> Iterator[Line]:
    yield Line(
        label=f"{number}",
        text=wording.sentence(cause.title),
        style="head",
        tail=f"{format_share(cause.share)} of the time",
    )
    yield Line(label="cause", text=f"{cause.id}, {cause.level}, {wording.sureness(cause.confidence)}", indent=1)
    for label, text in (("who", wording.who(cause.who)), ("where", wording.on(cause.on))):
        if text:
            yield Line(label=label, text=text, indent=1)
    for position, evidence in enumerate(cause.evidence[: detail.facts]):
        yield Line(label="" if position else "proof", text=wording.fact(evidence, source=detail.sources), indent=1)
    for position, reason in enumerate(cause.because[: detail.becauses]):
        text = f"{wording.sentence(reason.title)} ({reason.id}, {format_share(reason.share)})"
        yield Line(label="" if position else "because", text=text, indent=1)
    for position, fix in enumerate(cause.fixes[: detail.fixes]):
        yield Line(label="" if position else "fix", text=wording.fix(fix), indent=1)
    if saving := wording.saving(cause, verdict.target.kind):
        yield Line(label="saves", text=saving, indent=1)


def _rest(causes: tuple[Cause, ...]) -> Iterator[Line]:
    for position, cause in enumerate(causes[:4]):
        text = f"{wording.sentence(cause.title)} ({cause.id}, {cause.level}, {format_share(cause.share)})"
        if position == 0:
            yield BLANK
        yield Line(label="" if position else "also", text=text)
    if len(causes) > 4:
        yield Line(text=f"and {len(causes) - 4} more: --json lists them", style="faint")


def _commands(verdict: Verdict, detail: Detail) -> Iterator[Line]:
    """What a server that is examined was busy with; of one met on the way only --json tells."""
    if verdict.target.kind != "redis":
        return
    for table in verdict.commands[:MAX_SERVERS]:
        told = [row for row in table.rows if row.share >= SMALLEST_SHOWN_SHARE] or table.rows[:1]
        shown = told[: detail.commands]
        yield BLANK
        yield Line(label="commands", text=wording.commands_basis(table), style="faint")
        for row in shown:
            yield Line(text=wording.command(row), indent=0, label="")
        if hidden := len(table.rows) - len(shown) + table.other_rows:
            yield Line(text=f"and {hidden} more kinds: --json lists them", style="faint")
        if detail.sources:
            yield from (Line(text=wording.sentence(note), style="faint") for note in table.notes)


def _ruled_out(verdict: Verdict, detail: Detail) -> Iterator[Line]:
    """One flowing line of suspects and their figures; with sources each has a line of its own."""
    shown = verdict.ruled_out[: detail.ruled_out]
    hidden = len(verdict.ruled_out) - len(shown)
    if detail.sources:
        for position, suspect in enumerate(shown):
            facts = "; ".join(wording.fact(evidence, source=True) for evidence in suspect.evidence)
            text = f"{wording.sentence(suspect.resource)}: {facts or wording.sentence(suspect.verdict)}"
            yield Line(label="" if position else "ruled out", text=text)
    elif shown:
        yield Line(label="ruled out", text="; ".join(wording.acquittal(suspect) for suspect in shown))
    if hidden > 0:
        yield Line(text=f"and {hidden} more suspects: -v shows them", style="faint")


def _blind_spots(verdict: Verdict, detail: Detail) -> Iterator[Line]:
    for position, spot in enumerate(verdict.blind_spots[: detail.blind_spots]):
        text = f"{wording.sentence(spot.what)}: {wording.sentence(spot.why)}"
        if spot.way_out:
            text += f"; {wording.sentence(spot.way_out)}"
        yield Line(label="" if position else "not seen", text=text)
    if (hidden := len(verdict.blind_spots) - detail.blind_spots) > 0:
        yield Line(text=f"and {hidden} more blind spots: -v shows them", style="faint")


def _watched(verdict: Verdict) -> Iterator[Line]:
    window, cost = verdict.window, verdict.cost
    target = wording.name(verdict.target.name)
    parts = [f"{target} for {format_seconds(window.seconds)} from {wording.name(window.start)}"]
    if cost.events:
        parts.append(f"{format_count(cost.events)} events, {format_count(cost.lost_events)} lost")
    probes, culpa = format_seconds(cost.probe_cpu_seconds), format_seconds(cost.culpa_cpu_seconds)
    parts.append(f"CPU spent: probes {probes}, culpa {culpa}")
    yield Line(label="watched", text="; ".join(parts), style="faint")


def _tree(verdict: Verdict) -> Iterator[Line]:
    """The blame tree from its root down, the largest parts first, small ones left out."""
    left = MAX_TREE_NODES
    todo: list[tuple[int, Node]] = [(0, verdict.blame)]
    while todo and left:
        depth, node = todo.pop()
        left -= 1
        yield _node(depth, node)
        shown = sorted(node.children, key=lambda child: child.seconds)
        todo.extend((depth + 1, child) for child in shown if child.share >= SMALLEST_SHOWN_SHARE)
    if todo:
        yield Line(text=f"and {len(todo)} more branches: --json holds the whole tree", style="faint")


def _node(depth: int, node: Node) -> Line:
    details = [part for part in (wording.who(node.who), wording.on(node.on)) if part]
    times = f" x {format_count(node.count)}" if node.count > 1 else ""
    text = ", ".join([f"{wording.sentence(node.label)} ({node.kind}{times})", *details])
    tail = f"{format_seconds(node.seconds)} {format_share(node.share):>6}"
    return Line(text=text, indent=min(depth, 12), tail=tail)
