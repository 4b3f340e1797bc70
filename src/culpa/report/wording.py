"""Values of a verdict in words and human units; every name is made safe to show here."""

from __future__ import annotations

import shlex

from culpa.capture.manifest import TargetKind
from culpa.diagnose.verdict import Cause, CommandRow, Commands, Evidence, Fix, On, Predicted, RuledOut, Who
from culpa.units import format_bytes, format_count, format_ns, format_seconds, format_share, printable

MAX_NAME = 120
"""Letters of a name or path that are shown; of a longer one its two ends."""

_SURENESS = ((0.95, "almost certain"), (0.8, "very likely"), (0.6, "likely"), (0.4, "possible"))


def name(text: str) -> str:
    """A hostile name or path made safe, the middle left out where it is very long."""
    if len(text) <= MAX_NAME:
        return printable(text)
    half = MAX_NAME // 2
    return f"{printable(text[:half])}…{printable(text[-half:])}"


def sentence(text: str) -> str:
    """A text of culpa's own, which may hold hostile names."""
    return printable(text, limit=400)


def who(who: Who | None) -> str:
    """`redis-server, pid 4711, in container 3f2a…`; empty where nobody is named."""
    if who is None:
        return ""
    parts = [name(who.comm) if who.comm else ""]
    if who.pid is not None:
        parts.append(f"pid {who.pid}")
    if who.tid is not None and who.tid != who.pid:
        parts.append(f"thread {who.tid}")
    if who.unit:
        parts.append(name(who.unit))
    if who.container:
        parts.append(f"container {printable(who.container, limit=12)}")
    return ", ".join(part for part in parts if part)


def on(on: On | None) -> str:
    """What it was done to, and where in the code: the known parts, most telling first."""
    if on is None:
        return ""
    labelled = (
        ("", on.code), ("", on.path), ("peer ", on.peer), ("device ", on.device), ("lock ", on.lock),
        ("in ", on.syscall), ("command ", on.command),
        ("setting ", on.setting),
    )  # fmt: skip
    return ", ".join(label + name(text) for label, text in labelled if text)


def value(amount: float | str | None, unit: str) -> str:
    """An amount in the unit a person would use; `not known` where it is null."""
    if amount is None:
        return "not known"
    if isinstance(amount, str):
        return f"{name(amount)} {printable(unit)}".rstrip()
    if amount == 0 and unit in ("s", "ms", "ns"):
        return "0 s"
    human = {"s": format_seconds, "ns": format_ns, "B": format_bytes, "bytes": format_bytes, "share": format_share}
    if unit in human:
        return human[unit](amount)
    if unit == "ms":
        return format_ns(amount * 1e6)
    figure = format_count(amount) if float(amount).is_integer() else f"{amount:,.3g}"
    return f"{figure} {printable(unit)}".rstrip()


def fact(evidence: Evidence, *, source: bool) -> str:
    """One measured fact in a line, with where it can be looked up if asked for."""
    text = sentence(evidence.fact)
    if evidence.value is not None:
        text = f"{text}: {value(evidence.value, evidence.unit)}"
    if evidence.threshold is not None:
        text += f" (limit {value(evidence.threshold, evidence.unit)})"
    return f"{text} [{name(evidence.source)}]" if source else text


def acquittal(suspect: RuledOut) -> str:
    """A suspect and the figure that acquits it: `memory available 76 %`."""
    facts = ", ".join(f"{sentence(e.fact)} {value(e.value, e.unit)}" for e in suspect.evidence if e.value is not None)
    return f"{sentence(suspect.resource)} {facts or sentence(suspect.verdict)}"


def fix(fix: Fix) -> str:
    """What to do: the command or the change, and what it risks."""
    action = shlex.join(printable(word) for word in fix.argv) if fix.argv else sentence(fix.change or fix.id)
    caution = "can be undone" if fix.reversible else "cannot be undone"
    return f"{action} ({caution}; risk: {sentence(fix.risk)})" if fix.risk else f"{action} ({caution})"


def saving(cause: Cause, target: TargetKind) -> str:
    """What its remedy saves, and what a request would then take."""
    per = {"url": "a request", "command": "a run"}.get(target, "of the watched time")
    saved = f"{format_seconds(cause.saves_seconds)} {per}" if cause.saves_seconds > 0 else ""
    if cause.predicted is None:
        return saved
    then = f"it would then take {prediction(cause.predicted)}"
    return f"{saved}; {then}" if saved else then


def prediction(predicted: Predicted) -> str:
    """The likely time and its range: `about 1.03 s (0.55 s to 1.50 s)`."""
    low, high = format_seconds(predicted.low), format_seconds(predicted.high)
    likely = format_seconds(predicted.p50)
    return f"about {likely}" if low == high else f"about {likely} ({low} to {high})"


def commands_basis(table: Commands) -> str:
    """Where the figures of a table of commands come from, and what their shares are shares of."""
    where = {
        "sockets": "time of its main thread, as seen on its sockets",
        "commandstats": "time in commands, as the server counted it",
    }
    return f"{where[table.basis]}, of {format_seconds(table.seconds)}"


def command(row: CommandRow) -> str:
    """`HGETALL h:*: 61 %, 2,300 calls, median 210 us, p99 1.90 ms; by 10.0.0.7:* (name=report)`."""
    of = f"{format_count(row.requests)} {'messages of several commands' if row.calls is None else 'calls'}"
    times = (("median", row.p50), ("p99", row.p99), ("longest", row.max))
    figures = [f"{label} {format_seconds(seconds)}" for label, seconds in times if seconds is not None]
    parts = [", ".join([f"{command_name(row)}: {format_share(row.share)}", of, *figures])]
    if row.askers:
        more = " and others" if sum(asker.requests for asker in row.askers) < row.requests else ""
        parts.append("by " + ", ".join(name(asker.name) for asker in row.askers) + more)
    if row.waited is not None and row.behind is not None and row.waited[1] >= row.seconds:
        least, most = (format_seconds(seconds) for seconds in row.waited)
        parts.append(f"unread for {least} to {most} in all, mostly behind {name(row.behind)}")
    return "; ".join(parts)


def command_name(row: CommandRow) -> str:
    """Verb and key pattern, both hostile."""
    return name(row.verb) if row.pattern is None else f"{name(row.verb)} {name(row.pattern)}"


def sureness(confidence: float) -> str:
    """The calibrated confidence in words and as a number."""
    words = next((words for least, words in _SURENESS if confidence >= least), "a guess")
    return f"{words} ({confidence:.2f})"
